from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.body import Facts, facts


def test_model_stream_and_previous_are_read() -> None:
    body = b'{"model": "base", "stream": true, "previous_response_id": "resp_1"}'
    assert facts(body, "application/json; charset=utf-8") == Facts("base", True, "resp_1")


def test_json_without_a_content_type_is_read_as_vllm_does() -> None:
    assert facts(b'{"model": "base"}', "").model == "base"


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "text/plain", "application/octet-stream"])
def test_what_is_not_declared_as_json_says_nothing(kind: str) -> None:
    assert facts(b'{"model": "base"}', kind) == Facts()


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"base"', b"null", b"\xff\xfe", b"[" * 100_000, b"\x1f\x8b"])
def test_a_body_that_is_no_object_says_nothing(body: bytes) -> None:
    assert facts(body, "application/json") == Facts()


@pytest.mark.parametrize("model", [None, 7, "", ["base"], {"a": 1}, True])
def test_a_model_that_is_no_name_is_the_workers_to_refuse(model: object) -> None:
    assert facts(json.dumps({"model": model}).encode(), "application/json").model is None


@pytest.mark.parametrize("value", [1, "true", None, [True]])
def test_only_true_is_a_stream(value: object) -> None:
    assert facts(json.dumps({"stream": value}).encode(), "application/json").stream is False


@given(st.binary(max_size=200))
def test_no_body_is_an_error(body: bytes) -> None:
    assert isinstance(facts(body, "application/json"), Facts)


def test_a_number_too_long_to_be_one_is_no_error() -> None:
    assert facts(b'{"model": "base", "n": ' + b"9" * 5000 + b"}", "application/json") in (Facts(), Facts("base"))
