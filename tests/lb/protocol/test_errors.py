from __future__ import annotations

import json
from http import HTTPStatus

import pytest

from lb.protocol import error_shapes
from lb.protocol.errors import ProxyError, Source, error_body


def test_an_error_has_openais_shape() -> None:
    error = ProxyError(404, "no such model", param="model")
    assert error.body() == {
        "error": {"message": "no such model", "type": "NotFoundError", "param": "model", "code": 404}
    }


@pytest.mark.parametrize("status", [status.value for status in HTTPStatus if status >= 400])
def test_every_status_has_a_type(status: int) -> None:
    assert error_body(status, "x")["error"]["type"].endswith("Error")


def test_a_code_of_its_own_is_kept() -> None:
    assert ProxyError(400, "x", code="bad_lines").body()["error"]["code"] == "bad_lines"


def test_an_error_is_the_clients_unless_it_says_otherwise() -> None:
    assert ProxyError(400, "x").source is Source.CLIENT


def test_the_last_event_of_a_broken_stream_is_one_event() -> None:
    event = error_shapes.event("/v1/completions", "it broke\n\nhere")
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    assert json.loads(event[6:])["error"]["message"] == "it broke\n\nhere"
