"""The metadata of a call as the head of a request, and what a caller is told."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from lb.protocol.errors import ProxyError
from lb.rpc import codes, metadata, retry_info
from lb.rpc.answer import ChatAnswer, TextDelta


def test_what_is_said_of_a_request_is_read_as_over_http() -> None:
    sent = [
        ("authorization", "Bearer a"), ("authorization", "Bearer b"), ("user-agent", "grpc"), ("te", "trailers"),
        ("content-type", "application/grpc"), ("grpc-timeout", "1S"), ("traceparent", "00-1-2-01"), ("x-bin", b"\0\r"),
        ("content-length", "5"), ("transfer-encoding", "chunked"), ("host", "elsewhere"), ("x-request-timeout", "9"),
    ]  # fmt: skip
    head = metadata.head("/a.B/C", sent, 1.5)
    assert (head.method, head.path, head.length, head.host) == ("POST", "/a.B/C", 0, "")
    assert head.ours == {b"authorization": b"Bearer a, Bearer b"}
    assert head.kept == [b"user-agent: grpc", b"traceparent: 00-1-2-01", b"x-request-timeout: 1.500"]
    assert metadata.head("/a.B/C", [("x-request-timeout", "9")], None).find(b"x-request-timeout") == "9"


@pytest.mark.parametrize(
    "given",
    [("x-a", "b\r\nx-api-key: c"), ("x-a", "b\nc"), ("x_api_key", "a"), ("x-a", "\0"), ("a b", "c"), ("", "x")],
)
def test_what_is_no_header_is_refused(given: tuple[str, str]) -> None:
    with pytest.raises(ProxyError) as refused:
        metadata.head("/a.B/C", [given], None)
    assert refused.value.status == 400


def test_a_caller_is_told_what_is_for_it() -> None:
    lines = b"HTTP/1.1 200 OK\r\nServer: x\r\nX-Request-Id: 1\r\nx-routed-model: a\r\nx-ratelimit-limit-tokens: 5"
    assert metadata.told(lines) == [
        ("x-request-id", "1"), ("x-routed-model", "a"), ("x-ratelimit-limit-tokens", "5")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARGUMENT"), (401, "UNAUTHENTICATED"), (403, "PERMISSION_DENIED"), (404, "NOT_FOUND"),
        (418, "INVALID_ARGUMENT"), (429, "RESOURCE_EXHAUSTED"), (503, "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED"),
        (599, "INTERNAL"),
    ],
)  # fmt: skip
def test_every_status_has_a_code(status: int, code: str) -> None:
    assert codes.failure(status, "x" * 5000).code == code
    assert codes.failure(status, "").trailers == ()
    told = dict(codes.failure(status, "too much: 好", 3).trailers)
    assert (told["retry-after"], told["grpc-retry-pushback-ms"]) == ("3", "3000")
    said = status_pb2.Status.FromString(told["grpc-status-details-bin"])
    assert (said.code, said.message) == (grpc.StatusCode[code].value[0], "too much: 好")
    (detail,), info = said.details, error_details_pb2.RetryInfo()
    assert detail.Unpack(info) and info.retry_delay.seconds == 3


@given(st.integers(0, 2**40), st.text(max_size=300))
def test_details_are_what_the_library_reads(seconds: int, message: str) -> None:
    said = status_pb2.Status.FromString(retry_info.details("RESOURCE_EXHAUSTED", message, seconds))
    info = error_details_pb2.RetryInfo()
    assert said.details[0].Unpack(info) and info.retry_delay.seconds == seconds
    assert said.message == message.encode(errors="replace").decode()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Request-Id: 7\r\n\r\n"
EVENT = b'data: {"text_delta": "%b", "finished": %b}\n\n'


def test_an_answer_is_read_back_however_it_comes() -> None:
    whole = HEAD + EVENT % ("好".encode(), b"false") + EVENT % (b"", b"true")
    for step in (1, 7, len(whole)):
        reader = ChatAnswer()
        start = len(HEAD)  # a head is written in one piece
        pieces = [whole[:start], *(whole[at : at + step] for at in range(start, len(whole), step))]
        found = [delta for piece in pieces for delta in reader.feed(piece)]
        assert found == [TextDelta("好", False), TextDelta("", True)] and reader.failure() is None
        assert reader.fields == [("x-request-id", "7")]


def test_what_is_no_answer_says_why() -> None:
    reader = ChatAnswer()
    assert reader.failure() == codes.BROKEN, "nothing came"
    reader.feed(HEAD + EVENT % (b"a", b"false"))
    assert reader.failure() == codes.BROKEN
    reader.feed(b'data: {"error": {"message": "its worker died", "code": 502}}\n\n')
    failure = reader.failure()
    assert failure is not None and (failure.code, failure.message) == ("UNAVAILABLE", "its worker died")
    for body in (b"not JSON", b'{"error": 5}', b"[" * 50_000, b'{"error": {"message": ["x"]}}'):
        reader = ChatAnswer()
        reader.feed(b"HTTP/1.1 404 Not Found\r\n\r\n" + body)
        failure = reader.failure()
        assert failure is not None and (failure.code, failure.message) == ("NOT_FOUND", "the worker answered 404")
