from __future__ import annotations

import pytest

from lb.protocol.usage import TokenUsage, read, read_plain

CHAT = b'{"id":"x","choices":[{"text":"\\"usage\\":{\\"prompt_tokens\\":9}"}],"usage":%b,"prompt_token_ids":[1,2]}'


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        (CHAT % b'{"prompt_tokens":7,"total_tokens":12,"completion_tokens":5}', TokenUsage(7, 0, 5)),
        (CHAT % b'{"prompt_tokens":7,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":3}}',
         TokenUsage(7, 3, 5)),
        (CHAT % b'{"prompt_tokens":7,"completion_tokens":5,"prompt_tokens_details":null}', TokenUsage(7, 0, 5)),
        (b'{"usage": {"input_tokens": 7, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 5}}',
         TokenUsage(7, 2, 5)),
        (b'event: message_delta\ndata: {"usage":{"input_tokens":7,"output_tokens":5,"cache_read_input_tokens":1}}\n\n',
         TokenUsage(7, 1, 5)),
        (b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: {"usage":null}\n\ndata: [DONE]\n\n',
         TokenUsage(1, 0, 1)),
        (b'{"data":[0.1],"usage":{"prompt_tokens":7,"total_tokens":7}}', TokenUsage(7, 0, 0)),
        (b'{"usage":{"prompt_tokens":"7","completion_tokens":-5}}', TokenUsage(0, 0, 0)),
        (b'{"usage":{"prompt_tok', None), (b'{"usage":null}', None), (b"", None), (b"\xff\xfe", None),
    ],
)  # fmt: skip
def test_in_every_api(answer: bytes, usage: TokenUsage | None) -> None:
    assert read(answer) == usage


@pytest.mark.parametrize("details", ["", "null", '{"cached_tokens": 3}'])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(
    "order", ["prompt_tokens total_tokens completion_tokens", "prompt_tokens completion_tokens total_tokens"]
)
def test_usage_as_it_is_written_nearly_always(details: str, order: str, *, dense: bool) -> None:
    details = f', "prompt_tokens_details": {details}' if details else ""
    fields = ", ".join(f'"{name}": {number}' for number, name in enumerate(order.split(), 5))
    answer = f'{{"choices": ["\\"usage\\": {{"], "usage": {{{fields}{details}}}, "x": null}}'
    answer = answer.replace(": ", ":").replace(", ", ",") if dense else answer
    assert read_plain(answer.encode()) == read(answer.encode()) is not None


@pytest.mark.parametrize("told", ['{"input_tokens": 1, "output_tokens": 2}', "null", '{"prompt_tokens": 1.5}'])
def test_usage_that_is_written_otherwise_is_parsed(told: str) -> None:
    assert read_plain(f'{{"usage": {told}}}'.encode()) is None
