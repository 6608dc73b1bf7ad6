"""What one request may ask for at most: the same answer for bodies that are looked at, read in one go, and read as they
come."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.identity import api_keys
from config.identity.api_keys import ApiKey, Digest
from lb.protocol import body
from lb.protocol.errors import ProxyError
from lb.protocol.fields import lax
from lb.protocol.fields.caps import LISTS, NUMBERS, Caps
from lb.protocol.fields.json_scan import JsonScan
from lb.protocol.routes import WORKERS
from lbfakes import Balanced, Worker, running_balancer, running_worker

CAPS = Caps(n=4, best_of=5, tokens=1000, prompts=3, logprobs=20, depth=16)
JSON = "application/json"

OVER: dict[str, Any] = {
    "n": 5, "best_of": "6", "max_tokens": 1001, "max_completion_tokens": 1e6, "max_output_tokens": " 9_999 ",
    "min_tokens": 10**30, "logprobs": 21, "top_logprobs": 10**9, "prompt_logprobs": -1, "prompt": ["a"] * 4,
    "input": [[1, 2], [3], [4], [5]], "messages": [[{"role": "user", "content": "a,b"}]] * 4,
    "documents": ["a,b"] * 4, "chat_template": "{{ x }}", "chat_template_kwargs": {"a": {"chat_template": 1}},
}  # fmt: skip
WITHIN: dict[str, Any] = {
    "n": 4, "best_of": 5, "max_tokens": 1000, "max_completion_tokens": None, "logprobs": True, "top_logprobs": 20,
    "prompt": ["a,b,c,d,e"] * 3, "input": [1, 2, 3, 4, 5, 6], "messages": [{"role": "user", "content": "a"}] * 9,
    "chat_template": None, "chat_template_kwargs": {"enable_thinking": False, "list": [1, 2, 3, 4, 5]},
    "tools": [{"function": {"parameters": {"properties": {"n": 500, "max_tokens": 10**9, "chat_template": 1}}}}],
}  # fmt: skip


def refused(written: bytes, caps: Caps = CAPS, kind: str = JSON, pieces: int = 0) -> str | None:
    """The field that the 400 names; None: it is taken. ``pieces``: of so many bytes, as it comes."""
    try:
        if pieces:
            scan = body.scan(kind, caps)
            for at in range(0, len(written), pieces):
                scan.feed(written[at : at + pieces])
            scan.facts()
        else:
            body.facts(written, kind, caps=caps)
    except ProxyError as error:
        assert error.status == 400
        return error.param or str(error)
    return None


def every_way(written: bytes, caps: Caps = CAPS) -> str | None:
    """However it comes."""
    found = {refused(written, caps, pieces=pieces) for pieces in (0, 1, 7, 10**6)}
    assert len(found) == 1
    return found.pop()


def _written(fields: dict[str, Any], *, escaped: bool = False) -> bytes:
    text = json.dumps({"model": "base", **fields, "stream": True})
    if escaped:
        for name in fields:
            text = text.replace(f'"{name}"', '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"')
    return text.encode()


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("name", OVER)
def test_what_is_beyond_is_refused_by_its_name(name: str, escaped: bool) -> None:
    assert every_way(_written({name: OVER[name]}, escaped=escaped)) == name


def test_all_of_them_are_tried() -> None:
    assert set(NUMBERS) <= set(OVER)


@pytest.mark.parametrize("name", WITHIN)
def test_what_is_within_is_taken(name: str) -> None:
    assert every_way(_written({name: WITHIN[name]})) is None
    assert body.facts(_written(WITHIN), JSON, caps=CAPS) == body.facts(_written(WITHIN), JSON)


@given(st.sampled_from(sorted(NUMBERS)), st.one_of(
    st.integers(-5, 2000), st.floats(-5, 2000), st.booleans(), st.none(), st.text("0123456789._ +", max_size=6),
    st.lists(st.integers(0, 3), max_size=2),
))  # fmt: skip
def test_numbers_are_those_that_the_engine_sees(name: str, value: Any) -> None:
    cap = getattr(CAPS, NUMBERS[name])
    try:
        number = 0 if value is None else lax.as_int(value)
    except ValueError:
        number = 0
    over = number > cap or (number < 0 and NUMBERS[name] == "logprobs")
    assert (every_way(_written({name: value})) == name) == over


_TEXTS = st.text(',"[]{}\\ab', max_size=6)


@given(st.sampled_from(sorted(LISTS)), st.one_of(
    st.lists(_TEXTS, max_size=6), st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=6), _TEXTS,
    st.lists(st.integers(0, 9), max_size=9), st.lists(st.lists(_TEXTS, max_size=5), max_size=6),
))  # fmt: skip
def test_prompts_are_counted_as_the_engine_does(name: str, value: Any) -> None:
    assert (every_way(_written({name: value})) == name) == (lax.prompts_in(value) > CAPS.prompts)


@pytest.mark.parametrize(("levels", "over"), [(16, False), (17, True), (40, True)])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_depth(levels: int, over: bool, opening: str) -> None:
    """Brackets in texts are none."""
    closing = "]" if opening == "[" else "}"
    value = opening * levels + '"[[[[[[[[[[[[[[[[[[[[[["' + closing * levels
    assert (every_way(('{"model":"base","x":' + value + "}").encode()) is not None) == over


def test_each_is_a_setting() -> None:
    for name, cap in NUMBERS.items():
        assert refused(_written({name: 30}), Caps(**{cap: 30})) is None
        assert refused(_written({name: 31}), Caps(**{cap: 30})) == name
    assert refused(_written({"chat_template": "x"}), Caps(chat_template=True)) is None
    kwargs = _written({"chat_template_kwargs": {"chat_template": "x"}})
    assert refused(kwargs, Caps(chat_template=True)) is None
    assert refused(_written({"chat_template_kwargs": {}}), Caps(chat_template_kwargs=False)) == "chat_template_kwargs"


def test_most_bodies_are_not_read_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fed(self: JsonScan, piece: bytes) -> None:
        raise AssertionError(piece)

    monkeypatch.setattr(JsonScan, "feed", fed)
    chat = {"messages": [{"role": "user", "content": "hello, you"}] * 20, "max_tokens": 512, "temperature": 0.7}
    body.facts(_written(chat), JSON, caps=Caps())
    body.facts(_written({"prompt": "x", "max_completion_tokens": 99}), JSON, caps=Caps(tokens=100))
    with pytest.raises(AssertionError):
        body.facts(_written({"prompt": "x", "n": 2}), JSON, caps=Caps())


@pytest.mark.parametrize(("value", "param"), [("5", "n"), ("4", None), ("many", None), ("5" * 2000, "n")])
def test_forms(value: str, param: str | None) -> None:
    kind = "multipart/form-data; boundary=b"
    parts = {"model": "base", "n": value, "file": "x" * 500}
    form = "".join(f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in parts.items())
    for pieces in (0, 1, 50):
        assert refused(f"{form}--b--\r\n".encode(), kind=kind, pieces=pieces) == param


# through the balancer


@asynccontextmanager
async def _house(folder: Path, **config: Any) -> AsyncIterator[tuple[Balanced, Worker]]:
    async with running_worker("instance_0") as worker, running_balancer(folder, **config) as balancer:
        balancer.push(worker.spec())
        yield balancer, worker


async def test_on_every_route_whatever_the_size(tmp_path: Path) -> None:
    async with _house(tmp_path, cap_n=4) as (balancer, worker):  # who has set one means everybody
        for path in sorted(WORKERS - {"/load", "/version", "/v1/realtime"}):
            for filler in (0, 20_000, 2_000_000):
                given = {"model": "base", "prompt": "x" * filler, "n": 5}
                status, said = await balancer.answer("POST", path, json=given)
                assert status == 400 and "n is 5, and 4 is the most here" in said["error"]["message"], path
        assert (await balancer.answer("POST", "/v1/completions", json={"model": "base", "n": 4}))[0] == 200
        assert len([seen for seen in worker.seen if seen.target == "/v1/completions" and len(seen.body) < 99]) == 1


@pytest.mark.parametrize(("config", "status"), [({}, 200), ({"insecure": True}, 400), ({"cap_best_of": 9}, 400)])
async def test_while_nobody_needs_a_key_they_hold_where_that_is_meant(
    tmp_path: Path, config: dict[str, Any], status: int
) -> None:
    async with _house(tmp_path, **config) as (balancer, _):
        key = ApiKey("a", digests=(Digest(api_keys.digest("cck_a")),)).to_json()
        for filler in (0, 20_000):
            given = {"model": "base", "prompt": "x" * filler, "n": 129}
            assert (await balancer.answer("POST", "/v1/completions", json=given))[0] == status
        balancer.parts.keys.apply({"version": [1, 1], "keyed": True, "keys": [key]})
        for filler in (0, 20_000):
            given = {"model": "base", "prompt": "x" * filler, "n": 129}
            headers = {"x-api-key": "cck_a"}
            assert (await balancer.answer("POST", "/v1/completions", json=given, headers=headers))[0] == 400


_TEXT = st.text('[]{},\\"\n x', max_size=20)
_NESTED = st.recursive(_TEXT, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner), max_leaves=30)


@given(st.dictionaries(st.sampled_from(["prompt", "input", "x"]), _NESTED), st.booleans())
def test_what_is_not_suspicious_is_within(said: dict[str, Any], deep: bool) -> None:
    given = {**said, "y": json.loads("[" * 16 + "]" * 16)} if deep else said
    written = json.dumps(given).encode()
    if not CAPS.suspects(written):
        assert refused(written, pieces=len(written)) is None


def test_no_text_is_suspicious() -> None:
    """Such as code: it would be read for nothing."""
    for code in ("{[(,)]}", "tokens", "{[(,)]}\n", '{["a", "b\\"]}', '\\"'):
        assert not CAPS.suspects(json.dumps({"prompt": code * 100, "model": "a"}).encode())
        assert CAPS.suspects(json.dumps({"prompt": code, "x": json.loads("[" * 20 + "]" * 20)}).encode())
