"""Requests: leniency, defaults, and where an error belongs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.sim.api import fields, protocol
from worker.sim.api.protocol import GenerationRequest
from worker.sim.engine import tokens
from worker.sim.errors import ApiError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    "model",
    "prompt",
    "messages",
    "stop",
    "n",
    "max_tokens",
    "stream",
    "stream_options",
    "logprobs",
    "seed",
]


def build(chat: bool = False, **body: Any) -> GenerationRequest:
    base = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"}
    made = protocol.check_fields({**base, **body}, chat=chat)
    return protocol.build(made, chat=chat, max_model_len=100, served="demo")


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), JSON), st.booleans())
def test_any_json_is_a_request_or_a_400(body: dict[str, Any], chat: bool) -> None:
    try:
        made = protocol.check_fields(body, chat=chat)
        request = protocol.build(made, chat=chat, max_model_len=100, served="demo")
    except ApiError as exc:
        assert exc.status == 400
        assert set(exc.body()["error"]) == {"message", "type", "param", "code"}
    else:
        assert len(request.prompts) == len(request.sampling) >= 1


def test_defaults() -> None:
    request = build()
    assert request.prompts[0].ids == [tokens.BOS, *b"hi"]
    assert request.sampling[0].max_tokens == 16
    chat = build(chat=True)
    assert chat.prompts[0].text == "<s>user: hi\nassistant:"
    assert chat.sampling[0].max_tokens == 100 - len(chat.prompts[0].ids)


def test_the_newer_name_of_a_limit_wins_in_a_chat() -> None:
    request = build(chat=True, max_tokens=7, max_completion_tokens=3)
    assert request.sampling[0].max_tokens == 3


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", [[256, 97]]),
        (["a", "b"], [[256, 97], [256, 98]]),
        ([5, 6], [[5, 6]]),
        ([[5], [6, 7]], [[5], [6, 7]]),
        ([""], [[256]]),
    ],
)
def test_forms_of_a_prompt(prompt: Any, expected: list[list[int]]) -> None:
    assert [item.ids for item in build(prompt=prompt).prompts] == expected


def test_a_stream_gets_engine_errors_late() -> None:
    assert build(prompt=[10**6]).late_error is not None
    assert build(logprobs=50).late_error is not None


def test_body_object_refuses_what_is_not_one() -> None:
    for raw, kind in ((b"{}", "text/plain"), (b"{x", "application/json"), (b"", "application/json")):
        with pytest.raises(ApiError) as caught:
            fields.body_object(raw, kind)
        assert caught.value.status == 400 and caught.value.kind == "Bad Request"


@pytest.mark.parametrize("raw", [b'"\xe9"', b'{"n": ' + b"9" * 5000 + b"}", b"[" * 100_000])
def test_what_no_parser_reads_is_the_clients_fault(raw: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        fields.body_object(raw, "application/json")
    assert caught.value.status == 400


def test_paths_are_hidden_in_messages() -> None:
    assert ApiError("no tensors in /home/me/adapters/x").message == "no tensors in <path>"
