"""What is asked of another engine, and what is refused in its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engines.foreign.rules import RefusedRequest, RequestRules, Serving, adapt

SERVING = Serving("some", ("m", "alias"), 2, asked_as="/models/m")
STRICT = RequestRules(
    "some", takes=frozenset({"max_tokens", "temperature", "stop", "chat_template_kwargs", "logit_bias"}),
    renames={"max_completion_tokens": "max_tokens"},
)  # fmt: skip
OPEN = RequestRules("open", refuses=frozenset({"lora_request"}))
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def _body(rules: RequestRules = STRICT, chat: bool = True, **fields: Any) -> dict[str, Any]:
    asked = {**(CHAT if chat else {"model": "m", "prompt": "Hi"}), **fields}
    return adapt(json.dumps(asked).encode(), chat, rules, SERVING).body


def test_the_engine_is_asked_for_its_own_name_of_the_model() -> None:
    adapted = adapt(json.dumps({**CHAT, "model": "alias", "stream": True}).encode(), True, STRICT, SERVING)
    assert (adapted.model, adapted.streams) == ("alias", True)
    assert adapted.body == {"model": "/models/m", "messages": CHAT["messages"], "stream": True}
    same = Serving("some", ("m",), 1)
    assert adapt(json.dumps(CHAT).encode(), True, STRICT, same).body["model"] == "m"
    unnamed = {"messages": CHAT["messages"]}
    assert adapt(json.dumps(unnamed).encode(), True, STRICT, SERVING).model == "m"


def test_what_asks_for_nothing_is_left_out_and_what_has_another_name_gets_it() -> None:
    made = _body(
        max_completion_tokens=5, n=1, logprobs=False, user="x", return_token_ids=True, top_p=None,
        response_format={"type": "text"}, presence_penalty=0, tool_choice="auto", stop=["a"],
    )  # fmt: skip
    assert set(made) == {"model", "messages", "stream", "max_tokens", "stop"} and made["max_tokens"] == 5


@pytest.mark.parametrize("fields", [
    {"n": 2}, {"n": True}, {"logprobs": True}, {"response_format": {"type": "json_object"}}, {"guided_json": {}},
    {"adapters": "/etc"}, {"draft_model": "x"}, {"generation_config": "{}"}, {"tool_choice": "required"},
    {"temperature": -1}, {"temperature": "1"}, {"temperature": float("nan")}, {"max_tokens": 0}, {"max_tokens": True},
    {"stop": 7}, {"stop": [1]}, {"chat_template_kwargs": {"chat_template": "x"}}, {"logit_bias": {"a": 1}},
    {"logit_bias": {"1": "x"}}, {"messages": []}, {"messages": "x"}, {"messages": [{"content": "no role"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, {"stream": "yes"}, {"tools": "x"},
])  # fmt: skip
def test_what_it_cannot_do_is_refused_and_named(fields: dict[str, Any]) -> None:
    with pytest.raises(RefusedRequest) as refused:
        _body(**fields)
    error = json.loads(refused.value.body())["error"]
    assert refused.value.status == error["code"] == 400
    assert error["param"] in {*fields} and error["type"] == "BadRequestError"


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], None, 5])
def test_a_prompt_is_one_text(prompt: Any) -> None:
    with pytest.raises(RefusedRequest, match="one text"):
        _body(chat=False, prompt=prompt)


@pytest.mark.parametrize("model", ["other", "/models/m", 5, ["m"], {}])
def test_another_model_is_not_there(model: Any) -> None:
    for rules in (STRICT, OPEN):
        with pytest.raises(RefusedRequest) as refused:
            _body(rules, model=model)
        assert refused.value.status == 404


def test_an_engine_that_says_itself_what_it_does_not_know_is_asked_everything_but_what_it_is_kept_from() -> None:
    assert _body(OPEN, n=2, guided_json={}, return_token_ids=True) == {
        **CHAT, "model": "/models/m", "n": 2, "guided_json": {}, "stream": False,
    }  # fmt: skip
    with pytest.raises(RefusedRequest, match="lora_request"):
        _body(OPEN, lora_request={"lora_path": "/"})


def test_an_engine_that_ends_streams_alone_is_asked_for_streams_alone() -> None:
    rules = RequestRules("some", takes=frozenset(), streams_only=True)
    adapted = adapt(json.dumps(CHAT).encode(), True, rules, SERVING)
    assert adapted.body["stream"] is True and adapted.streams is False


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda more: st.lists(more, max_size=3) | st.dictionaries(st.sampled_from(["messages", "model", "n", "x"]), more),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_nothing_but_a_refusal_comes_of_what_is_no_request(raw: bytes) -> None:
    for chat in (True, False):
        try:
            made = adapt(raw, chat, STRICT, SERVING)
        except RefusedRequest:
            continue
        assert made.body["model"] == "/models/m"


def test_a_deep_body_is_refused() -> None:
    with pytest.raises(RefusedRequest, match="no JSON"):
        adapt(b"[" * 100_000, True, STRICT, SERVING)


def test_a_worker_is_told_to_its_process_as_it_is() -> None:
    full = Serving("some", ("m", "n"), 3, "a", "b", 2048, (0, 5))
    for serving in (SERVING, full):
        assert Serving.from_json(json.loads(serving.to_json())) == serving
    cards = full.cards(7)["data"]
    told = [(card["id"], card["max_model_len"], card["parent"]) for card in cards]
    assert told == [("m", 2048, None), ("n", 2048, None)]
