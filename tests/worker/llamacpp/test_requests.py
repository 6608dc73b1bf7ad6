"""What of vLLM's requests llama.cpp is asked for, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from worker.llamacpp import requests, tools
from worker.llamacpp.requests import LlamaRequest
from worker.sim.api import protocol
from worker.sim.errors import ApiError


def _read(body: dict[str, Any], chat: bool = False) -> LlamaRequest:
    more = {"messages": [{"role": "user", "content": "Hi"}]} if chat else {"prompt": "Hi"}
    body = {**more, **body}
    return requests.read(protocol.check_fields(body, chat=chat), body, chat=chat)


def test_sampling_goes_by_llama_cpp_s_names_and_types() -> None:
    made = _read({
        "temperature": "0.5", "top_k": -1, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1, "stop": "x",
        "logit_bias": {"7": -100}, "ignore_eos": True, "presence_penalty": None,
    })  # fmt: skip
    assert made.native == {
        "temperature": 0.5, "top_k": 0, "top_p": 0.9, "min_p": 0.1, "repeat_penalty": 1.1, "stop": ["x"],
        "logit_bias": [[7, -100]], "ignore_eos": True, "repeat_last_n": -1,
    }  # fmt: skip
    assert _read({}).native == {}, "what is left out is as the model's file has it"


def test_the_answer_is_as_long_as_is_asked_for_and_fits() -> None:
    prompt = list(range(10))
    assert _read({}).body(0, prompt, 100)["n_predict"] == 16
    assert _read({}, chat=True).body(0, prompt, 100)["n_predict"] == 90
    assert _read({"max_tokens": 500, "max_completion_tokens": 7}, chat=True).body(0, prompt, 100)["n_predict"] == 7
    assert _read({"max_tokens": 500}).body(0, prompt, 100)["n_predict"] == 90
    with pytest.raises(ApiError):
        _read({}).body(0, prompt, 10)


def test_each_of_several_answers_has_a_seed_of_its_own() -> None:
    made = _read({"n": 2, "seed": -1, "temperature": 1})
    seeds = [made.body(number, [1], 50)["seed"] for number in range(2)]
    assert len(set(seeds)) == 2 and all(0 <= seed < 2**32 - 1 for seed in seeds)
    assert "seed" not in _read({}).body(0, [1], 50)


@pytest.mark.parametrize(("given", "native"), [
    ({"response_format": {"type": "text"}}, {}),
    ({"response_format": {"type": "json_object"}}, {"json_schema": {"type": "object"}}),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}},
     {"json_schema": {"type": "array"}}),
    ({"structured_outputs": {"json": '{"type": "null"}'}}, {"json_schema": {"type": "null"}}),
    ({"structured_outputs": {"choice": ["yes", 'a"b']}}, {"grammar": 'root ::= "yes" | "a\\"b"'}),
    ({"structured_outputs": {"regex": "[0-9]/x"}}, {"grammar": "%llguidance {}\nstart: /[0-9]\\/x/"}),
    ({"guided_grammar": 'root ::= "x"'}, {"grammar": 'root ::= "x"'}),
])  # fmt: skip
def test_a_form_is_a_grammar(given: dict[str, Any], native: dict[str, Any]) -> None:
    assert _read(given).native == native


@pytest.mark.parametrize("given", [
    {"structured_outputs": {"json": "{"}}, {"structured_outputs": {"choice": []}},
    {"structured_outputs": {"json": {}, "regex": "x"}}, {"structured_outputs": {"structural_tag": "x"}},
    {"structured_outputs": {"regex": 5}}, {"response_format": {"type": "structural_tag"}},
])  # fmt: skip
def test_a_form_that_is_none_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        _read(given)
    assert refused.value.status == 400


@pytest.mark.parametrize("given", [
    {"bad_words": ["x"]}, {"stop_token_ids": [3]}, {"min_tokens": 2}, {"suffix": "x"}, {"prompt_logprobs": 1},
    {"use_beam_search": True}, {"truncate_prompt_tokens": 3}, {"allowed_token_ids": [1]}, {"cache_salt": "x"},
    {"best_of": 3}, {"priority": 1}, {"skip_special_tokens": False}, {"vllm_xargs": {"a": 1}}, {"n": 500},
    {"logprobs": 21}, {"echo": True, "logprobs": 1}, {"return_tokens_as_token_ids": True},
])  # fmt: skip
def test_what_llama_cpp_does_not_know_is_refused_and_not_ignored(given: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        _read(given)
    assert refused.value.status == 400
    neutral = {name: requests._REFUSED[name][-1] for name in given if name in requests._REFUSED}
    _read(neutral)  # the same fields as they are by themselves


def test_alternatives_are_asked_for_where_probabilities_are_told() -> None:
    assert _read({}).logprobs is None
    assert _read({"logprobs": 0}).native["n_probs"] == 1
    assert _read({"logprobs": True, "top_logprobs": 3}, chat=True).native["n_probs"] == 3
    assert "n_probs" not in _read({"logprobs": False}, chat=True).native


def test_text_lags_as_far_as_a_stop_string_may_begin_in_it() -> None:
    assert _read({}).lag == 0
    assert _read({"stop": ["ab", "abcd"]}).lag == 3
    assert _read({"stop": ["abcd"], "include_stop_str_in_output": True}).lag == 0


TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("a", "b")]


def test_a_named_tool_is_the_only_one_and_required() -> None:
    assert not tools.wanted({"tools": TOOLS, "tool_choice": "none"})
    assert not tools.wanted({})
    assert tools.wanted({"tools": TOOLS})
    assert tools.offered({"tools": TOOLS}) == {"tools": TOOLS, "tool_choice": "auto"}
    named = {"type": "function", "function": {"name": "b"}}
    assert tools.offered({"tools": TOOLS, "tool_choice": named}) == {"tools": [TOOLS[1]], "tool_choice": "required"}
    with pytest.raises(ApiError, match="'c'"):
        tools.offered({"tools": TOOLS, "tool_choice": {"function": {"name": "c"}}})


def test_a_call_that_comes_in_pieces_is_put_together() -> None:
    def event(**delta: Any) -> dict[str, Any]:
        return {"choices": [{"delta": delta, "finish_reason": None}]}

    made = tools.joined([
        event(role="assistant", content=None),
        event(tool_calls=[{"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"x"'}}]),
        event(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}, {"choices": [], "usage": {"total_tokens": 3}},
    ])  # fmt: skip
    (choice,) = made["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"] == [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    ]
    assert made["usage"] == {"total_tokens": 3}
