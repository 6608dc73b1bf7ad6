"""Forms of requests, by family: how they are written down, and what is asked of every one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from strictreader import Message, Pair, only_answer, read_answer

#: The balancer behind the forms takes bodies of at most so many bytes.
MAX_BODY = 1000

EOL = b"\r\n"
END = b"0\r\n\r\n"
HELLO = b"5\r\nhello\r\n" + END
SMUGGLED = b"GET /version?smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
IN_CHUNKS = b"%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n"
PLAIN = b"GET /version?plain HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True)
class Form:
    data: bytes
    allowed: frozenset[int]


def head(line: bytes, *lines: bytes, host: bytes = b"Host: x") -> bytes:
    return EOL.join((line, *((host,) if host else ()), *lines, b"", b""))


def get(*lines: bytes) -> bytes:
    return head(b"GET /version HTTP/1.1", *lines)


def post(*lines: bytes, body: bytes = b"hello") -> bytes:
    return head(b"POST /v1/completions HTTP/1.1", *lines) + body


def chunks(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def target(given: bytes) -> bytes:
    return head(b"GET " + given + b" HTTP/1.1")


Forms = dict[str, dict[str, Form]]


def add(forms: Forms, family: str, given: dict[str, bytes], *allowed: int) -> None:
    """``allowed``: the statuses that may answer them; 400 if none is given."""
    named = forms.setdefault(family, {})
    for name, data in given.items():
        assert name not in named, name
        named[name] = Form(data, frozenset(allowed or (400,)))


def show(data: bytes) -> str:
    return data.decode("latin-1").encode("unicode_escape").decode() or "nothing"


def families(forms: Forms) -> pytest.MarkDecorator:
    """A test for each family: its forms one after the other, as a balancer for each would cost more than they do."""
    return pytest.mark.parametrize("forms", list(forms.values()), ids=list(forms))


def every(count: int, forms: Forms) -> Forms:
    """One in ``count`` of those that are not long."""
    short = [
        (family, name, form) for family, named in forms.items() for name, form in named.items() if len(form.data) <= 400
    ]
    chosen: Forms = {}
    for number, (family, name, form) in enumerate(short):
        if number % count == 0 or "empty lines" in name:
            chosen.setdefault(family, {})[name] = form
    return chosen


@contextmanager
def of(name: str) -> Iterator[None]:
    """What goes wrong within says whose it is."""
    try:
        yield
    except Exception as error:
        error.add_note(f"the form: {name}")
        raise


def check_error(answer: Message, form: Form) -> None:
    assert answer.status in form.allowed, (form.data[:300], answer)
    error = json.loads(answer.body)["error"]
    assert (error["code"], bool(error["message"])) == (answer.status, True)


async def refused(pair: Pair, forms: dict[str, Form]) -> None:
    """One answer, with which the connection ends; and nothing behind it is read."""
    for name, form in forms.items():
        with of(name):
            for data in (form.data, form.data + SMUGGLED):
                check_error(await pair.refusal(data), form)
            await pair.saw_nothing()


async def refused_bytewise(pair: Pair, forms: dict[str, Form]) -> None:
    for name, form in forms.items():
        with of(name):
            check_error(await pair.bytewise(form.data), form)
            await pair.saw_nothing()


async def refused_behind_another(pair: Pair, forms: dict[str, Form]) -> None:
    """Behind a request that is in order, and answered."""
    for name, form in forms.items():
        with of(name):
            async with pair.balancer.connection() as (reader, writer):
                writer.write(PLAIN + form.data + SMUGGLED)
                assert (await read_answer(reader)).status == 200
                check_error(await only_answer(reader, form.data), form)
            assert pair.worker.targets == [b"/version?plain"]
            pair.worker.connections.clear()
