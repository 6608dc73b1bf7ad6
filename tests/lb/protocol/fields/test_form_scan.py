"""Forms are read as the engine's own parser reads them, or not at all."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from lb.protocol.body import facts, names, with_model
from lb.protocol.errors import ProxyError
from lb.protocol.facts import Facts
from lb.protocol.fields.form_scan import FormScan

KIND = "multipart/form-data; boundary=xyz"


def part(head: str, content: bytes = b"whisper") -> bytes:
    return b"--xyz\r\n%b\r\n\r\n%b\r\n" % (head.encode(), content)


def field(name: str, content: bytes = b"whisper") -> bytes:
    return part(f"Content-Disposition: form-data; {name}", content)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--xyz--\r\n"


FILE = field('name="file"; filename="a.wav"\r\nContent-Type: audio/wav', b"RIFF\x00\xff\r\n--xy \r\n\r\n")


def read(body: bytes, kind: str = KIND) -> Facts | int:
    """What it says, or the status that it is refused with: the same, however it comes."""
    answers: list[Facts | int] = []
    for step in (len(body) or 1, 1, 7):
        try:
            scan = FormScan(kind)
            for at in range(0, len(body), step):
                scan.feed(body[at : at + step])
            answers.append(scan.facts())
        except ProxyError as error:
            answers.append(error.status)
    assert answers[0] == answers[1] == answers[2]
    return answers[0]


async def _stream(body: bytes) -> AsyncIterator[bytes]:
    yield body


def theirs(body: bytes, kind: str = KIND) -> Any:
    """The model that FastAPI hands to vLLM: of several the last. None where it refuses the form."""
    parser = MultiPartParser(Headers({"content-type": kind}), _stream(body))  # type: ignore[arg-type]
    try:
        return asyncio.run(parser.parse()).get("model", "")
    except (MultiPartException, UnicodeDecodeError):
        return None


@pytest.mark.parametrize(
    "body",
    [
        form(field('name="model"')),
        form(field("name=model")),
        form(FILE, field('name="model"')),
        form(field('name="model"'), FILE),
        form(part('content-disposition:form-data ; NAME="model"\r\nContent-Type: text/plain')),
        form(field('name="language"', b"en"), field('name="model"\r\nContent-Type: text/plain\r\nContent-Length: 7')),
        form(field('name="x"', b"model"), field('name="model"')),
        form(field('name="model"'), field('name="model"')),
        form(field('name="file"; filename="model"', b'Content-Disposition: form-data; name="model"\r\n\r\no'),
             field('name="model"')),
        form(field('name="file"; filename="C:\\\\x\\"y.wav"'), field('name="model"')),
        form(field('name="file"; filename*=UTF-8\'\'a.wav'), field('name="model"')),
        form(field('name="Model"', b"other"), field('name="model"')),
        form(field('name="model"')) + b"--xyz\r\n" + field('name="model"', b"other"),
    ],
)
def test_the_field_model_is_read_as_the_engine_reads_it(body: bytes) -> None:
    assert read(body) == Facts("whisper")
    assert theirs(body) == "whisper"


def test_forms_as_clients_write_them_are_read() -> None:
    asked = httpx.Request(
        "POST", "http://x/", data={"language": "en", "model": "whisper"}, files={"file": ("a.wav", b"RIFF\r\n\x00")}
    )
    assert facts(asked.read(), asked.headers["Content-Type"]) == Facts("whisper")


@pytest.mark.parametrize("body", [form(), form(field('name="x"')), form(field('name="models"')),
                                  form(field('name="model"', b"")), form(FILE)])  # fmt: skip
def test_a_form_without_a_model_says_nothing(body: bytes) -> None:
    assert read(body) == Facts()


@pytest.mark.parametrize(
    "body",
    [
        form(field('name="model"', b"a"), field('name="model"', b"b")),
        form(field('name="model"', b"a"), FILE, field("name=model", b"b")),
        form(field('name="model"', b"a"), field('name="model"', b"")),
        form(field('name="model"; filename="x"')),
        form(field('name="model"'), field('name="model"; filename="x"')),
        form(field('name="a"; name="model"')),
        form(field('name="model"; name="a"')),
        form(field("name*=UTF-8''model")),
        form(field("name=\"a\"; name*=UTF-8''model")),
        form(field('name="mod\\el"')),
        form(field('name = "model"')),
        form(field('name="a\r\n b"')),
        form(part('Content-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="model"')),
        form(part('Content-Disposition: form-data; name="a"\nContent-Disposition: form-data; name="model"')),
        form(part("Content-Type: text/plain")),
        form(part('Content-Disposition: attachment; name="model"')),
        form(part('Content-Disposition : form-data; name="model"')),
        form(field('name="model"\r\nContent-Transfer-Encoding: base64', b"d2hpc3Blcg==")),
        form(field('name="model"', b"\xff")),
        b"preamble\r\n" + form(field('name="model"')),
        b"\r\n" + form(field('name="model"')),
        form(field('name="model"')).replace(b"--xyz\r\n", b"--xyz \r\n"),
        form(field('name="model"'))[:-10],
        form(field('name="x"', b"a\r\n--xyzb\r\nc"), field('name="model"')),
        form(*[field('name="x"', b"")] * 2001),
        form(part("X: " + "a" * 9000 + '\r\nContent-Disposition: form-data; name="model"')),
        b"--xyz",
        b'{"model":"whisper"}',
    ],
)  # fmt: skip
def test_what_readers_may_read_differently_is_refused(body: bytes) -> None:
    assert read(body) == 400


@pytest.mark.parametrize("kind", [
    "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=a; boundary=xyz",
    "multipart/form-data; boundary=xyz; charset=utf-16", "multipart/form-data; boundary*=xyz", "multipart/form-datax",
    'multipart/form-data; boundary="x\\yz"', "multipart/form-data; boundary=" + "x" * 71,
    "multipart/form-data, application/json; boundary=xyz", "multipart/form-data; boundary=xyz; x=y",
])  # fmt: skip
def test_a_kind_that_names_no_plain_boundary_is_refused(kind: str) -> None:
    assert read(form(field('name="model"')), kind) == 400


@pytest.mark.parametrize("kind", ['multipart/form-data; boundary="xyz"', "Multipart/Form-Data;Boundary=xyz",
                                  "multipart/form-data; charset=UTF-8; boundary=xyz"])  # fmt: skip
def test_a_kind_may_be_written_in_its_ways(kind: str) -> None:
    body = form(field('name="model"'))
    assert read(body, kind) == Facts("whisper") and theirs(body, kind) == "whisper"


def test_a_name_too_long_is_404() -> None:
    assert read(form(field('name="model"', b"a" * 257))) == 404
    assert read(form(field('name="model"', b"a" * 5000))) == 404
    assert read(b"--xyz\r\n" + field('name="model"', b"a" * 5000)[7:-2]) == 404  # and nothing is waited for
    assert read(form(field('name="model"', b"a" * 256))) == Facts("a" * 256)


def test_another_name_is_written_for_each() -> None:
    body = form(FILE, field('name="model"', b"base:whisper"), field("name=model", b"base:whisper"))
    pieces = [body[at : at + 3] for at in range(0, len(body), 3)]
    written = b"".join(with_model(pieces, names(body, KIND), "whisper", form=True))
    assert written == body.replace(b"base:whisper", b"whisper")


HEADS = st.sampled_from([
    'Content-Disposition: form-data; name="model"', "Content-Disposition: form-data; name=model",
    'content-disposition: form-data; name="model"; filename="model"', 'Content-Disposition: form-data; name="file"',
    'Content-Disposition: form-data; name="x"; filename="a\\"; name=\\"model"', "Content-Type: text/plain",
    'Content-Disposition: form-data; name="a;name=model"', "Content-Disposition: form-data; NAME=\"model\"",
    'Content-Disposition: form-data; filename="a"; name="model"', "Content-Disposition: form-data; name*=utf-8''model",
    'Content-Disposition: form-data; name="model" ', "X: y", 'Content-Disposition: form-data; name="a"; name="model"',
])  # fmt: skip
CONTENTS = st.lists(
    st.sampled_from([b"a", b"b", b"\r\n", b"--xyz", b"\r\n--xyz", b"--", b"model", b"\r\n\r\n", b"\xff"]), max_size=4
).map(b"".join)  # fmt: skip
PARTS = st.builds(
    lambda heads, content, edge, end: edge + "\r\n".join(heads).encode() + b"\r\n\r\n" + content + end,
    st.lists(HEADS, min_size=1, max_size=2), CONTENTS, st.sampled_from([b"--xyz\r\n", b"--xyz\r\n", b"--xyz\n"]),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b""]),
)  # fmt: skip


@settings(max_examples=3 * settings.default.max_examples)
@given(st.lists(PARTS, max_size=4), st.sampled_from([b"--xyz--\r\n", b"--xyz--", b"--xyz", b""]))
def test_any_form_says_what_the_engine_reads_or_is_refused(parts: list[bytes], end: bytes) -> None:
    body = b"".join(parts) + end
    ours = read(body)
    if isinstance(ours, Facts) and (seen := theirs(body)) is not None:
        assert (ours.model or "") == seen


@pytest.mark.measured
def test_the_worst_of_forms_are_read_in_no_time() -> None:
    import time

    for body in (
        form(field('name="x"', b"\r\n--xy" * 700_000)),
        form(field('name="x"', b"\r" * 4_000_000)),
        form(*[field('name="x"', b"")] * 1999),
        form(part("a: b\r\n" * 1000 + 'Content-Disposition: form-data; name="x"')),
        form(field("".join(f'a{n}="' + "\\\\" * 10 + '"; ' for n in range(200)) + 'name="x"')),
    ):
        scan, worst = FormScan(KIND), 0.0
        for begin, end in itertools.pairwise([*range(0, len(body), 4096), len(body)]):
            began = time.thread_time()
            scan.feed(body[begin:end])
            worst = max(worst, time.thread_time() - began)
        assert worst < 0.01 and scan.facts() == Facts()
