from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.protocol.body import Facts, facts, is_light, names, with_model
from lb.protocol.errors import ProxyError
from lb.protocol.fields import lax
from lb.protocol.fields.json_scan import JsonScan


def test_model_stream_and_previous_are_read() -> None:
    body = b'{"model": "base", "stream": true, "previous_response_id": "resp_1"}'
    assert facts(body, "application/json; charset=utf-8") == Facts("base", True, "resp_1")


def test_json_without_a_content_type_is_read_as_vllm_does() -> None:
    assert facts(b'{"model": "base"}', "").model == "base"


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "application/json; x=multipart/form-data",
                                  "application/x-www-form-urlencoded", "Application/JSON", "a/b+json"])  # fmt: skip
def test_json_is_read_whatever_it_says_to_be(kind: str) -> None:
    """Some servers take it for JSON, the others refuse it."""
    assert facts(b'{"model": "base"}', kind).model == "base"


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "application/octet-stream", "audio/wav"])
def test_what_is_no_json_says_nothing(kind: str) -> None:
    assert facts(b"model=base&x=1", kind) == Facts()


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


def pairs(names: st.SearchStrategy[str]) -> st.SearchStrategy[Pairs]:
    one = st.one_of(
        st.tuples(names, any_values),
        st.tuples(st.just("model"), texts),
        st.tuples(st.just("stream"), st.booleans()),
        st.tuples(st.just("previous_response_id"), texts),
    )
    return st.lists(one, max_size=6).map(Pairs)


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
def objects(draw: st.DrawFn, escapes: bool = False) -> bytes:
    writer = Writer(draw, escapes)
    around = draw(st.sampled_from(["", "", "\n", "  "]))
    return (around + writer.write(draw(pairs(keys))) + around).encode()


def expected(body: bytes) -> Facts | None:
    """None: it names two models."""
    data = json.loads(body)
    written = json.loads(body, object_pairs_hook=Pairs)
    models = {value if isinstance(value, str) and value else None for key, value in written if key == "model"}
    if len(models) > 1:
        return None
    model, previous = data.get("model"), data.get("previous_response_id")
    return Facts(
        model if isinstance(model, str) and model else None,
        lax.is_true(data.get("stream")),
        previous if isinstance(previous, str) else None,
    )


def read(body: bytes) -> Facts | None:
    try:
        return facts(body, "application/json")
    except ProxyError as error:
        assert (error.status, error.param) == (400, "model")
        return None


def scanned(body: bytes, cuts: Iterable[int]) -> Facts | None:
    """The same, read as a large one is: in pieces that end at ``cuts``."""
    scan = JsonScan()
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    try:
        for begin, end in itertools.pairwise(edges):
            scan.feed(body[begin:end])
        found = scan.facts()
    except ProxyError:
        return None
    return found


@given(objects())
def test_any_object_is_read_as_json_reads_it(body: bytes) -> None:
    assert read(body) == expected(body)


@given(objects(escapes=True), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_object_is_read_as_json_reads_it_whatever_is_escaped(body: bytes, cuts: list[int]) -> None:
    assert read(body) == expected(body) == scanned(body, cuts)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","stream":true,"model":"a"}',
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
        b'{"model":"a","mo\\u0064el":"a"}',
        b'{"model":"a","\\u006Dodel":"\\u0061"}',
        b'{"model":"a","x":{"model":"b"},"y":[{"model":"c"}]}',
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
    assert facts(body, "application/json") == expected(body) == scanned(body, range(len(body)))


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","stream":true,"model":"b"}',
        b'{"model":"a","mo\\u0064el":"b"}',
        b'{"model":"a","\\u006Dodel":"b"}',
        b'{"model":"a","model":null}',
        b'{"model":["a"],"model":"b"}',
        b'{"m\\u006fdel":"a","model":"b","messages":[{"role":"user"}]}',
        '{"model":"a","model":"b"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"model":"a","x":[],"model":"b"}',
    ],
)
def test_two_models_are_refused(body: bytes) -> None:
    """Which of them counts is another in each reader."""
    assert read(body) is None and scanned(body, range(len(body))) is None


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


@pytest.mark.measured
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
    began = time.thread_time()
    with contextlib.suppress(ProxyError):
        facts(body, "application/json")
    assert time.thread_time() - began < 0.1


# names


@pytest.mark.parametrize("body", [
    {"model": "a" * 257}, {"x": {"y": [{}]}, "model": "ä" * 257, "z": [[]]}, {"model": "😀" * 300, "model ": 1},
    {"model": "a" * 900_000},
])  # fmt: skip
def test_a_name_too_long_to_exist_is_404_and_not_repeated(body: dict[str, Any]) -> None:
    written = json.dumps(body).encode()
    for reader in (lambda: facts(written, ""), lambda: JsonScan().feed(written)):
        with pytest.raises(ProxyError, match="no name has more than 256 characters") as caught:
            reader()
        assert (caught.value.status, caught.value.param) == (404, "model") and len(str(caught.value)) < 100


def test_a_name_of_256_characters_is_a_name() -> None:
    for name in ("a" * 256, "😀" * 256):
        assert facts(json.dumps({"model": name}).encode(), "").model == name
        assert scanned(json.dumps({"x": [], "model": name}).encode(), range(4000)) == Facts(name)


def test_half_a_character_is_no_name() -> None:
    with pytest.raises(ProxyError, match="no text"):
        facts(b'{"model":"a\\ud800"}', "")


@given(objects(escapes=True), st.text(max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
def test_another_name_is_written_where_the_first_stood_and_nothing_else_changes(
    body: bytes, name: str, cuts: list[int]
) -> None:
    before = expected(body)
    if before is None or before.model is None:
        return
    found = names(body, "")
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    pieces = [body[begin:end] for begin, end in itertools.pairwise(edges)]
    written = b"".join(with_model(pieces, found, name, form=False))
    assert json.loads(written) == {**json.loads(body), "model": name}
    start, end = found.spans[0]
    assert written[:start] == body[:start] and json.loads(body[start:end]) == before.model
    tail = len(body) - found.spans[-1][1]
    assert written[len(written) - tail :] == body[len(body) - tail :]


def test_of_broken_json_the_name_is_rewritten_too() -> None:
    body = b'{"model":"base_model:pirate","messages":[,]}'
    written = b"".join(with_model([body], names(body, ""), "pirate", form=False))
    assert written == b'{"model":"pirate","messages":[,]}'


# what is parsed


@pytest.mark.parametrize(("body", "light"), [
    (b"[]," * 5000, True), (b"[]," * 300_000, False), (b'"' + b"a" * 900_000, True), (b"1," * 40_000, False),
    (b"a" * 2_000_000, False), (b'{"a":1},' * 3000, True),
])  # fmt: skip
def test_what_would_keep_others_waiting_is_not_parsed(body: bytes, light: bool) -> None:
    assert is_light(body) is light
