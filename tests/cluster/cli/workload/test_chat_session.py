from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.cli.workload.chat import completions
from cluster.cli.workload.chat_session import COMMANDS, Leave, Session, messages
from cluster.client import ClusterError
from cluster.tools.chat.conversation import Conversation
from cluster.tools.chat.openai_client import OpenAIClient, StreamedAnswer

CARDS = [{"id": "demo"}, {"id": "pirate", "parent": "demo"}]


def _sse(*texts: str, done: bool = True) -> bytes:
    events = [json.dumps({"choices": [{"delta": {"content": text}}]}) for text in texts]
    return "".join(f"data: {event}\n\n" for event in [*events, *(["[DONE]"] if done else [])]).encode()


class Server:
    """Answers as ``script`` says, one entry a request: bytes of a stream, (status, JSON), or an exception in the
    middle of a stream."""

    def __init__(self, *script: Any) -> None:
        self.script, self.asked = list(script), []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/chat/completions"
        self.asked.append(json.loads(request.content))
        answer = self.script.pop(0)
        if isinstance(answer, tuple):
            return httpx.Response(answer[0], json=answer[1])
        return httpx.Response(200, content=answer)


class Interrupted:
    """A stream in which somebody presses Ctrl-C."""

    def __init__(self, before: bytes) -> None:
        self._before = before

    def __iter__(self) -> Iterator[bytes]:
        if self._before:
            yield self._before
        raise KeyboardInterrupt


def _session(*script: Any, **fields: Any) -> tuple[Session, Server]:
    server = Server(*script)
    asks = OpenAIClient("http://cluster:1/v1", transport=httpx.MockTransport(server))
    return Session(asks, lambda: CARDS, Conversation("demo"), io.StringIO(), io.StringIO(), **fields), server


def _out(session: Session) -> str:
    assert isinstance(session.out, io.StringIO)
    return session.out.getvalue()


def _err(session: Session) -> str:
    assert isinstance(session.err, io.StringIO)
    return session.err.getvalue()


def test_a_turn_is_shown_and_remembered() -> None:
    session, server = _session(_sse("Hel", "lo"), _sse("again\n"), stats=True, sampling={"max_tokens": 9})
    assert session.take("hi")
    assert session.take("more")
    assert _out(session) == "Hello\nagain\n"
    assert [m["content"] for m in server.asked[1]["messages"]] == ["hi", "Hello", "more"]
    assert server.asked[0]["max_tokens"] == 9
    assert server.asked[0]["stream"] is True
    assert _err(session).startswith("demo · first token ")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, {"error": {"message": "no such model"}}), "no such model"),
        (_sse("ha", done=False), "broke off"),
        (_sse("ha", done=False) + b'data: {"error": {"message": "worker lost"}}\n\n', "worker lost"),
        ((502, "x"), "502"),
    ],
)
def test_a_turn_that_failed_leaves_the_conversation_as_it_was(answer: Any, words: str) -> None:
    session, server = _session(_sse("one"), answer, _sse("two"), live=True)
    assert session.take("first")
    assert not session.take("second")
    assert words in _err(session)
    assert session.talk.turns == [("first", "one")]
    assert session.take("/retry")
    assert [m["content"] for m in server.asked[2]["messages"]] == ["first", "one", "second"]
    assert session.talk.turns[-1] == ("second", "two")


def test_ctrl_c_keeps_what_came() -> None:
    session, _ = _session(Interrupted(_sse("half", done=False)), _sse("yes"), live=True)
    assert session.take("q")
    assert _out(session) == "half\n"
    assert session.talk.turns == [("q", "half")]
    assert session.take("next")


def test_ctrl_c_before_the_first_word_takes_the_question_back() -> None:
    session, _ = _session(Interrupted(b""), live=True)
    assert session.take("q")
    assert session.talk.turns == []


def test_ctrl_c_in_a_pipe_ends_it() -> None:
    session, _ = _session(Interrupted(_sse("half", done=False)))
    with pytest.raises(KeyboardInterrupt):
        session.take("q")


def test_an_answer_cannot_command_the_terminal() -> None:
    session, _ = _session(_sse("\x1b[2Jred\x07\r\n\tok 你\x9b1m"), terminal=True)
    session.take("q")
    assert _out(session) == "\\x1b[2Jred\\x07\n\tok 你\\x9b1m\n"
    assert session.talk.turns[0][1].startswith("\x1b")  # what was said is kept as it was


def test_what_a_model_thinks_is_no_part_of_the_answer() -> None:
    thought = b'data: {"choices": [{"delta": {"reasoning": "hm"}}]}\n\n'
    session, _ = _session(thought + _sse("yes"), thought + _sse("yes"))
    session.take("q")
    assert _out(session) == "yes\n"
    session.terminal = True
    session.take("q")
    assert "hm" in _out(session)
    assert [answer for _, answer in session.talk.turns] == ["yes", "yes"]


def test_switching_the_model() -> None:
    session, server = _session(_sse("Arr"))
    assert session.take("/model pirate")
    assert session.take("hi")
    assert server.asked[0]["model"] == "pirate"
    assert session.take("/model demo:pirate")
    assert not session.take("/model pirat")
    assert "did you mean 'pirate'" in _err(session)
    assert session.talk.model == "demo:pirate"
    session.take("/models")
    assert "pirate  (adapter of demo)" in _err(session)


def test_without_a_cluster_the_model_stays() -> None:
    def gone() -> list[dict[str, Any]]:
        raise ClusterError("no cluster")

    session, _ = _session()
    session.models = gone
    assert not session.take("/model pirate")
    assert not session.take("/models")
    assert session.talk.model == "demo"
    assert _err(session) == "error: no cluster\n" * 2


def test_system_reset_and_slashes() -> None:
    session, server = _session(_sse("1"), _sse("2"), _sse("3"))
    session.take("/system be short")
    session.take("hi")
    session.take("/reset")
    session.take("//etc is a folder")
    assert server.asked[1]["messages"] == [
        {"role": "system", "content": "be short"}, {"role": "user", "content": "/etc is a folder"},
    ]  # fmt: skip
    session.take("/system -")
    session.take("x")
    assert server.asked[2]["messages"][0]["role"] == "user"
    assert not session.take("/modle")
    assert "did you mean '/model" in _err(session)
    assert session.take("   ")
    assert session.take("/help")
    assert all(name in _err(session) for name in COMMANDS)
    with pytest.raises(Leave):
        session.take("/quit")


def test_saving(tmp_path: Path) -> None:
    session, _ = _session(_sse("ü"), _sse("2"))
    session.take("hi")
    assert session.take(f"/save {tmp_path}/talk.json")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["messages"][1]["content"] == "ü"
    session.take("more")
    assert session.take(f"/save {tmp_path}/talk.json")
    assert len(json.loads((tmp_path / "talk.json").read_text())["messages"]) == 4
    (tmp_path / "mine").write_text("precious")
    assert not session.take(f"/save {tmp_path}/mine")
    assert (tmp_path / "mine").read_text() == "precious"
    assert not session.take(f"/save {tmp_path}/no/where")
    assert not session.take(f"/save {tmp_path}/{'x' * 300}") and "File name too long" in _err(session)
    assert not session.take("/save ~nobody-of-this-name/talk") and "home directory" in _err(session)
    assert not session.take("/save")


def _typed(*lines: str) -> Callable[[str], str]:
    rest = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return read


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (["a", "b"], ["a", "b"]),
        (["a\\", "b\\", "c", "d"], ["a\nb\nc", "d"]),
        (['"""a', "", " b", 'c"""', "d"], ["a\n\n b\nc", "d"]),
        (['"""', "a", '"""'], ["a"]),
        (['"""one"""'], ["one"]),
        (['"""never', "ended"], ["never\nended"]),
        (["open\\"], ["open"]),
        ([], []),
    ],
)
def test_texts_of_several_lines(lines: list[str], texts: list[str]) -> None:
    assert list(messages(_typed(*lines), lambda: "")) == texts


def test_completion(tmp_path: Path) -> None:
    names = ["demo", "pirate", "poet"]
    assert completions("/mo", "/mo", lambda: names) == ["/model ", "/models "]
    assert completions("/model p", "p", lambda: names) == ["pirate", "poet"]
    assert completions("what /m", "/m", lambda: names) == []
    (tmp_path / "talk.md").touch()
    (tmp_path / "talks").mkdir()
    found = completions(f"/save {tmp_path}/ta", f"{tmp_path}/ta", list)
    assert found == [f"{tmp_path}/talk.md", f"{tmp_path}/talks/"]


def test_an_answer_left_early_is_given_up() -> None:
    closed: list[bool] = []

    class Stream(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield _sse("a", done=False)
            yield _sse("b")

        def close(self) -> None:
            closed.append(True)

    asks = OpenAIClient("http://c:1", transport=httpx.MockTransport(lambda r: httpx.Response(200, stream=Stream())))
    with contextlib.ExitStack() as stack:
        answer: StreamedAnswer = stack.enter_context(asks.chat({}))
        assert next(iter(answer)).text == "a"
    assert closed
