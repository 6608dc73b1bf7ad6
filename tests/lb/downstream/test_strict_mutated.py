"""Whatever is done to a head, it is refused or arrives well-formed."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from httpforms import HELLO, MAX_BODY, chunks, get, head, post, target
from strictreader import Pair

BASES = (
    get(b"Accept: */*"),
    target(b"/version?a=b&c=d"),
    target(b"http://x:80/version?a"),
    head(b"GET /version HTTP/1.0", b"Connection: keep-alive"),
    post(b"Content-Type: application/json", b"Content-Length: 17", body=b'{"model": "base"}'),
    post(b"Content-Length: 5", b"Connection: keep-alive", b"Authorization: Bearer x"),
    chunks(HELLO),
    post(b"Host2: y", b"Transfer-Encoding: chunked", b"X-Forwarded-For: 1.2.3.4", body=HELLO),
)
SPLINTERS = (
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b": ", b"#", b"?", b"%", b",", b";", b"@", b"\x7f", b"\xff",
    b"\r\n\r\n", b"\r\n ", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n",
    b"Host: y\r\n", b"Expect: x\r\n", b"Connection: host, content-length\r\n", b"Upgrade: websocket\r\n", b"chunked",
    b"HTTP/1.1", b"GET ", b"\r\nA: b", b"0", b"-", b"+", b"http://", b"/", b"//", b"..",
)  # fmt: skip

Edit = tuple[str, float, bytes]
edits = st.lists(
    st.tuples(
        st.sampled_from(("insert", "insert", "delete", "replace")),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.sampled_from(SPLINTERS), st.binary(min_size=1, max_size=2)),
    ),
    min_size=1,
    max_size=3,
)


def mutated(base: bytes, changes: list[Edit]) -> bytes:
    top, body = base[: base.index(b"\r\n\r\n") + 4], base[base.index(b"\r\n\r\n") + 4 :]
    for kind, where, piece in changes:
        at = int(where * len(top))
        top = top[:at] + (b"" if kind == "delete" else piece) + top[at + (kind != "insert") :]
    return top + body


@settings(
    max_examples=4 * settings.default.max_examples, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(base=st.sampled_from(BASES), changes=edits)
@example(base=BASES[1], changes=[("insert", 0.3, b"\r\n")])
async def test_a_mutated_request_is_refused_or_arrives_well_formed(
    pair: Pair, base: bytes, changes: list[Edit]
) -> None:
    """NULs follow it, which end whatever has not come to its end: a head, a chunk, and with so many of them a length
    that was announced. So the connection always comes to an end, too."""
    data = mutated(base, changes)
    pair.worker.connections.clear()
    answers = await pair.ask(data + b"\x00" * (MAX_BODY + 1))
    asked = [answer for answer in answers if answer.status == 200]
    assert len(asked) == len(pair.worker.requests) <= 1, (data, answers, pair.worker.connections)
    assert all(answer.status == 200 or 400 <= answer.status <= 505 for answer in answers)
    assert 1 <= len(answers) <= 2
    if answers[0].closes and answers[0].status >= 400:
        assert len(answers) == 1
    for seen in pair.worker.requests:
        assert seen.start[1].partition(b"?")[0] in (b"/version", b"/v1/completions")
        assert seen.all(b"host") == [b"127.0.0.1:%d" % pair.worker.port]
        assert not (seen.all(b"connection") + seen.all(b"upgrade") + seen.all(b"expect"))
