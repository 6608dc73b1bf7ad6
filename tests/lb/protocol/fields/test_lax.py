"""Fields are read as the engine reads them: held to pydantic itself, to the simulator, and to vLLM's own models."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from lb.protocol.fields import lax
from worker.sim.api import fields

KINDS: list[tuple[Callable[[object], Any], type, fields.Check]] = [
    (lax.as_bool, bool, fields.boolean), (lax.as_int, int, fields.integer), (lax.as_float, float, fields.number),
]  # fmt: skip
REFUSED = object()

WORDS = ["true", "True", "FALSE", "t", "F", "yes", "nO", "y", "on", "off", "none", "null", "inf", "-Infinity", "NaN"]
NUMERALS = st.text("0123456789_+-. \t\x0b\x1c\x85\u00a0\u2028eE\u0661", max_size=8)
VALUES = st.one_of(
    st.booleans(), st.integers(), st.sampled_from([0, 1, -1, 2**63, 10**400]), st.floats(), st.integers().map(float),
    st.integers().map(str), st.sampled_from(WORDS), NUMERALS, st.text(max_size=4), st.none(),
    st.lists(st.integers(), max_size=1), st.dictionaries(st.text(max_size=1), st.integers(), max_size=1),
)  # fmt: skip


def taken(convert: Callable[[object], Any], value: object) -> object:
    try:
        made = convert(value)
    except ValueError:
        return REFUSED
    return type(made), repr(made)  # NaN is not equal to itself


@pytest.mark.measured
def test_a_long_numeral_is_not_gone_back_over() -> None:
    began = time.thread_time()
    with pytest.raises(ValueError):
        lax.as_int("1_" * 500_000)
    assert time.thread_time() - began < 0.05


@pytest.mark.parametrize(("ours", "kind", "sim"), KINDS, ids=["bool", "int", "float"])
@given(VALUES)
@example("1_0")
@example(" 1_0 ")
@example("1.0_0")
@example("1_0.00")
@example("0E_0")
@example("0-1")
@example("+00__1")
@example("0__0")
@example("+_1")
@example("in_f")
@example("_1")
@example("1e__1")
@example("1e5_")
@example("\x1c1")
@example("9" * 4301)
@example(9.3e18)
def test_as_pydantic_and_the_simulator_take_them(
    ours: Callable[[object], Any], kind: type, sim: fields.Check, value: object
) -> None:
    def simulated(value: object) -> object:
        problems = fields.Problems()
        made = sim(value, "", problems)
        if problems:
            raise ValueError
        return made

    right = taken(TypeAdapter(kind).validate_python, value)
    assert taken(ours, value) == right
    assert taken(simulated, value) == right


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "true", "TRUE", "t", "yes", "Y", "on"])
def test_what_is_true(value: object) -> None:
    assert lax.is_true(value)


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "0", "off", "n", 2, "", "banana", " true", [], [True], {}])
def test_what_is_not(value: object) -> None:
    assert not lax.is_true(value)


def test_a_request_is_converted_where_its_fields_are_and_left_alone_elsewhere() -> None:
    chat = {
        "n": "1", "max_tokens": None, "max_completion_tokens": "20", "logprobs": 1, "top_logprobs": 2.0, "own": "1",
        "stream_options": {"include_usage": "yes", "own": 1}, "temperature": "0", "messages": [{"n": "1"}],
    }  # fmt: skip
    assert lax.request(chat, chat=True) == {
        **chat, "n": 1, "max_completion_tokens": 20, "logprobs": True, "top_logprobs": 2, "temperature": 0.0,
        "stream_options": {"include_usage": True, "own": 1},
    }  # fmt: skip
    assert lax.request({"logprobs": True, "max_completion_tokens": "x"}, chat=False) == {
        "logprobs": 1, "max_completion_tokens": "x",
    }  # fmt: skip
    for wrong in ({"n": "many"}, {"stream": 2}, {"temperature": []}, {"stream_options": 1}, {"max_tokens": 1.5}):
        with pytest.raises(ValueError, match="no "):
            lax.request(wrong, chat=True)


@pytest.mark.vllm
@pytest.mark.processes
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "completion"])
def test_no_field_of_vllms_own_models_is_forgotten(chat: bool) -> None:
    """The table has every number and boolean of the model, with its type, and nothing else."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    model = ChatCompletionRequest if chat else CompletionRequest
    kinds = {lax.as_bool: "boolean", lax.as_int: "integer", lax.as_float: "number", lax.exactly_int: "integer"}
    schema = model.model_json_schema()["properties"]
    found = {}
    for name, field in schema.items():
        types = {form.get("type") for form in field.get("anyOf", [field])} - {"null"}
        if len(types) == 1 and types <= set(kinds.values()):
            found[name] = types.pop()
    table = lax.CHAT if chat else lax.COMPLETION
    assert {name: kinds[made] for name, made in table.items() if made in kinds} == found


@pytest.mark.vllm
@pytest.mark.processes
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "completion"])
@given(st.data())
def test_as_vllms_own_models_take_them(chat: bool, data: st.DataObject) -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.exceptions import VLLMValidationError

    table = lax.CHAT if chat else lax.COMPLETION
    names = data.draw(st.lists(st.sampled_from(sorted(table.keys() - {"stream_options"})), max_size=3, unique=True))
    body = {name: data.draw(VALUES) for name in names}
    base: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]} if chat else {"prompt": "x"}
    model = ChatCompletionRequest if chat else CompletionRequest
    try:
        made = model.model_validate({**base, **body})
    except (ValidationError, VLLMValidationError, TypeError):
        return  # the worker refuses it: nothing streams
    ours = lax.request(body, chat=chat)
    for name, value in ours.items():
        theirs = getattr(made, name)
        if value is None:
            assert theirs == (None if name != "top_logprobs" else 0) or name == "max_tokens"
        elif name != "thinking_token_budget" or value != -1:
            assert (type(theirs), repr(theirs)) == (type(value), repr(value)), name
