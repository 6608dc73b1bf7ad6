from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.body import Facts, facts
from lb.protocol import lax


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


@pytest.mark.parametrize(("value", "streams"), [
    (True, True), (1, True), (1.0, True), ("true", True), ("Yes", True), ("ON", True), (False, False), (0, False),
    ("0", False), ("off", False), (None, False), (2, False), ("banana", False), ([True], False),
])  # fmt: skip
def test_a_stream_is_what_the_engine_takes_for_one(value: object, streams: bool) -> None:
    for body in ({"stream": value}, {"model": "m", "stream": value}, {"stream": value, "model": "m"}):
        assert facts(json.dumps(body).encode(), "application/json").stream is streams


@given(st.binary(max_size=200))
def test_no_body_is_an_error(body: bytes) -> None:
    assert isinstance(facts(body, "application/json"), Facts)


def test_a_number_too_long_to_be_one_is_no_error() -> None:
    assert facts(b'{"model": "base", "n": ' + b"9" * 5000 + b"}", "application/json") in (Facts(), Facts("base"))


# against json.loads

NAMES = (
    "model",
    "stream",
    "previous_response_id",
    "messages",
    "n",
    'x"model',
    '"stream',
    "model\\",
    "",
    "Model",
    "ключ",
)
PIECES = ("base", "a", '"', "\\", '"model"', '"stream": true', "\\u006d", ",", "}", "{", "é", "😀", "\n", "/", ":")
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
)
keys = st.one_of(st.sampled_from(NAMES), texts)
scalars = st.one_of(texts, st.booleans(), st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))


class Pairs(list[tuple[str, Any]]):
    """An object as written: a key may come twice."""


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(inner, max_size=3), st.lists(st.tuples(keys, inner), max_size=3).map(Pairs))


any_values = st.recursive(scalars, nested, max_leaves=8)


def pairs(names: st.SearchStrategy[str], unique: bool = False) -> st.SearchStrategy[Pairs]:
    one = st.one_of(
        st.tuples(names, any_values),
        st.tuples(st.just("model"), texts),
        st.tuples(st.just("stream"), st.booleans()),
        st.tuples(st.just("previous_response_id"), texts),
    )
    return st.lists(one, max_size=6, unique_by=(lambda pair: pair[0]) if unique else None).map(Pairs)


class Writer:
    """JSON with whatever blanks and escapes its grammar allows."""

    def __init__(self, draw: st.DrawFn, escapes: bool) -> None:
        self._between = draw(st.sampled_from(["", "", " ", "\n  ", "\t\r\n"]))
        self._colon = draw(st.sampled_from([":", ": ", " : "]))
        self._comma = draw(st.sampled_from([",", ", ", " ,\n"]))
        self._ascii = draw(st.booleans())
        self._draw, self._escapes = draw, escapes

    def write(self, value: Any) -> str:
        if isinstance(value, Pairs):
            inside = self._comma.join(f"{self._text(key)}{self._colon}{self.write(item)}" for key, item in value)
            return "{" + self._between + inside + self._between + "}"
        if isinstance(value, list):
            return "[" + self._between + self._comma.join(map(self.write, value)) + self._between + "]"
        return self._text(value) if isinstance(value, str) else json.dumps(value)

    def _text(self, text: str) -> str:
        if not self._escapes or not text or self._draw(st.booleans()):
            return json.dumps(text, ensure_ascii=self._ascii)
        hidden = self._draw(st.integers(0, len(text) - 1))
        digits = "".join(
            f"\\u{text[hidden].encode('utf-16-be').hex()[at : at + 4]}"
            for at in range(0, len(text[hidden].encode("utf-16-be")) * 2, 4)
        )
        return json.dumps(text[:hidden])[:-1] + digits + json.dumps(text[hidden + 1 :])[1:]


@st.composite
def objects(draw: st.DrawFn, escapes: bool = False, unique: bool = False) -> bytes:
    writer = Writer(draw, escapes)
    around = draw(st.sampled_from(["", "", "\n", "  "]))
    return (around + writer.write(draw(pairs(keys, unique))) + around).encode()


def expected(body: bytes) -> Facts:
    data = json.loads(body)
    model, previous = data.get("model"), data.get("previous_response_id")
    return Facts(
        model if isinstance(model, str) and model else None,
        lax.is_true(data.get("stream")),
        previous if isinstance(previous, str) else None,
    )


@given(objects())
def test_any_object_is_read_as_json_reads_it(body: bytes) -> None:
    assert facts(body, "application/json") == expected(body)


@given(objects(escapes=True))
def test_any_object_is_read_as_json_reads_it_whatever_is_escaped(body: bytes) -> None:
    assert facts(body, "application/json") == expected(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","stream":true,"model":"b"}',
        b'{"stream":true,"stream":false,"model":"a"}',
        b'{"model":"a","messages":[{"model":"b"}]}',
        b'{"messages":[{"model":"b"}],"model":"a"}',
        b'{"x":{"model":"b"}}',
        b'{"messages":[{"role":"user","content":"\\"model\\": \\"b\\""}],"model":"a"}',
        b'{"x":["model"],"y":"model"}',
        b'{"x":"model","model":"a"}',
        b'{"model":"a\\"b"}',
        b'{"model":"a\\u0062"}',
        b'{"\\u006dodel":"a"}',
        b'{"model":"a","mo\\u0064el":"b"}',
        b'{"model":"a","\\u006Dodel":"b"}',
        '{"model":"ä€😀"}'.encode(),
        b'{"a":1,"model":"x","b":{"c":"}"},"d":["]","{"],"e":-1.5e+3}',
        b'{"model":"x"}',
        b' {"model" : "x" , "stream" : true } \n',
        b'{"model":"x","stream":"true"}',
        b'{"model":"x","stream":1}',
        b'{"model":"x","stream":null}',
    ],
)
def test_a_body_is_read_as_json_reads_it(body: bytes) -> None:
    assert facts(body, "application/json") == expected(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","metadata":{"stream":true}}',
        b'{"metadata":{"stream":true},"model":"a"}',
        b'{"model":"a","messages":[{"stream": true}]}',
    ],
)
def test_a_stream_deep_inside_is_none(body: bytes) -> None:
    assert facts(body, "application/json") == expected(body)


@pytest.mark.parametrize(
    "body",
    [b'{"x\\"model": "y"}', b'{"model":"a","x\\"stream": true}', b'{"a":1,"\\"model":"y"}', b'{"\\\\\\"model":"y"}'],
)
def test_a_name_that_ends_like_another_behind_a_quote_is_not_that_one(body: bytes) -> None:
    assert facts(body, "application/json") == expected(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","\\u0073tream":true}',
        b'{"model":"a","s\\u0074ream":true}',
        b'{"\\u0073tream":true}',
        b'{"\\u0070revious_response_id":"r"}',
        b'{"model":"a","\\u0070revious_response_id":"r"}',
        b'{"model":"a","previous\\u005fresponse_id":"r"}',
    ],
)
def test_a_name_in_escapes_is_that_name(body: bytes) -> None:
    assert facts(body, "application/json") == expected(body)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_json_in_another_encoding_is_read_as_a_worker_reads_it(encoding: str) -> None:
    body = '{"model": "a", "stream": true}'.encode(encoding)
    assert json.loads(body) == {"model": "a", "stream": True}
    assert facts(body, "application/json") == Facts("a", True)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", "\t: ")])
@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
@pytest.mark.parametrize("first", [True, False])
def test_how_it_is_laid_out_makes_no_difference(
    separators: tuple[str, str], indent: int | str | None, first: bool
) -> None:
    rest = {
        "messages": [{"role": "user", "content": 'say "model": \\ {['}],
        "stream": True,
        "tools": [{"a": {"b": [1]}}],
        "n": 1,
    }
    data = {"model": "base", **rest} if first else {**rest, "model": "base", "seed": -1.5, "stop": ["}", "]"]}
    body = json.dumps(data, indent=indent, separators=separators).encode()
    assert facts(body, "application/json") == Facts("base", True)


# only a beginning


@given(objects(unique=True), st.integers(0, 10_000))
def test_of_a_beginning_only_what_the_whole_says_too_is_told(body: bytes, end: int) -> None:
    told, whole = facts(body[: end % (len(body) + 1)], "application/json", whole=False), expected(body)
    assert told.model in (None, whole.model)
    assert told.previous in (None, whole.previous)
    assert whole.stream or not told.stream


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model":"base","messages":["', "base"),
        (b' { "model" : "base" ,', "base"),
        (b'{"model":"ba', None),
        (b'{"model":"base"', None),
        (b'{"x":1,"model":"base","messages":["', None),
        (b'{"x":{"model":"base"}', None),
        (b'{"model":["base"', None),
        (b'{"model":"base","x":"\\u006d', None),
        (b'{"model":"a","model":"b","', None),
        (b'[{"model":"base","', None),
    ],
)
def test_of_a_beginning_a_model_is_told_that_stands_first(body: bytes, model: str | None) -> None:
    assert facts(body, "application/json", whole=False).model == model


# forms

KIND = "multipart/form-data; boundary=xyz"


def form(*parts: tuple[str, bytes]) -> bytes:
    """Each with what stands behind its ``form-data`` and its content."""
    return (
        b"".join(
            b"--xyz\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (head.encode(), content)
            for head, content in parts
        )
        + b"--xyz--\r\n"
    )


def a_file(name: str, content: bytes = b"RIFF\x00\xff") -> tuple[str, bytes]:
    return f'name="{name}"; filename="a.wav"\r\nContent-Type: audio/wav', content


@pytest.mark.parametrize(
    "body",
    [
        form(('name="model"', b"whisper")),
        form(("name=model", b"whisper")),
        form(a_file("file"), ('name="model"', b"whisper")),
        form(('name="model"', b"whisper"), a_file("file")),
        form(('name="model"\r\nContent-Type: text/plain', b"whisper")),
        form(('name="language"', b"en"), ('name="model"\r\nContent-Type: text/plain\r\nContent-Length: 7', b"whisper")),
        form(('name="x"', b"model"), ('name="model"', b"whisper")),
    ],
)
def test_the_form_field_model_is_read(body: bytes) -> None:
    assert facts(body, KIND) == Facts("whisper")
    assert facts(body, KIND.title(), whole=False) == Facts("whisper")


def test_forms_as_clients_write_them_are_read() -> None:
    asked = httpx.Request(
        "POST", "http://x/", data={"language": "en", "model": "whisper"}, files={"file": ("a.wav", b"RIFF\r\n\x00")}
    )
    assert facts(asked.read(), asked.headers["Content-Type"]) == Facts("whisper")


@pytest.mark.parametrize(
    "body", [form(), form(('name="x"', b"y")), form(('name="models"', b"y")), form(('name="model"', b""))]
)
def test_a_form_without_a_model_says_nothing(body: bytes) -> None:
    assert facts(body, KIND) == Facts()


def test_a_file_that_is_called_model_is_no_model() -> None:
    assert facts(form(('name="file"; filename="model"\r\nContent-Type: audio/wav', b"RIFF")), KIND) == Facts()


def test_a_field_whose_name_ends_in_model_is_another() -> None:
    assert facts(form(('xname="model"', b"y")), KIND) == Facts()


@pytest.mark.parametrize(
    "body", [b"name=model\r\n" * 2500, b"name=model\r\n\r\n" * 2500, b'name="model"\r\n' + b"a: b\r\n" * 5000]
)
def test_a_form_of_any_kind_is_read_in_no_time(body: bytes) -> None:
    began = time.perf_counter()
    facts(body, KIND)
    assert time.perf_counter() - began < 0.1


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"model":"x"' + b',"k":[1]' * 50_000 + b"x}",
        b'{"a":1,"model":"x",' + b" " * 300_000 + b"x}",
        b'{"model":"x",' + b'"stream" ' * 50_000 + b"}",
        b'{"a":1,"model":"x","b":{' + b'"a" ' * 50_000 + b"x]}",
        b'{"a":1,"model":"x"}' + b" " * 300_000 + b"x",
        b'{"model":' + b'"model":' * 50_000,
        b'{"model":"' + b"a" * 400_000,
    ],
)
def test_json_of_any_kind_is_read_in_no_time(body: bytes) -> None:
    began = time.perf_counter()
    facts(body, "application/json")
    assert time.perf_counter() - began < 0.5
