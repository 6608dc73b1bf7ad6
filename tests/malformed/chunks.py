"""Chunks, what follows them, what is expected before a body, and too much of anything, are refused."""

from __future__ import annotations

from functools import partial

from httpforms import END, EOL, HELLO, MAX_BODY, SMUGGLED, Forms, add, chunks, get, head, post, show, target

MALFORMED: Forms = {}
bad = partial(add, MALFORMED)

# chunks

for value in (
    b"", b"0x5", b"0X5", b"-5", b"+5", b"5 ", b" 5", b"5\t", b"\t5", b"5;", b"5;ext", b"5;ext=1", b"5 ;ext", b"5; ext",
    b'5;ext="x"', b'5;ext="a\r\nb"', b"5;ext\x00", b"5;\xff", b"g", b"5g", b"5,5", b"5 5", b"5_0", b"5.0", b"0x", b"x5",
    b"five", b'"5"', b"5h", b"#5", b"5\x00", b"\x005", b"5\x0b", b"5\x0c", b"5\xa0", b"\xef\xbc\x95", b"\xb5", b"\\x05",
    b"5\r", b"5\n", b"5\r\n ", b"-0", b"1e1;", b"ffffffffffffffff5", b"10000000000000005", b"80000000000000005",
    b"f" * 17, b"f" * 5000, b"5;" + b"a" * 5000,
):  # fmt: skip
    short = f"{show(value)[:24]}{'' if len(value) < 20 else f', {len(value)} bytes'}"
    bad("chunk size", {f"[{short}]": chunks(value + b"\r\nhello\r\n" + END)})
bad(
    "chunk",
    {
        "LF after the size": chunks(b"5\nhello\r\n" + END),
        "CR after the size": chunks(b"5\rhello\r\n" + END),
        "nothing after the size": chunks(b"5hello\r\n" + END),
        "LF after the data": chunks(b"5\r\nhello\n" + END),
        "CR after the data": chunks(b"5\r\nhello\r" + END),
        "nothing after the data": chunks(b"5\r\nhello" + END),
        "CR CR LF after the data": chunks(b"5\r\nhello\r\r\n" + END),
        "LF CR after the data": chunks(b"5\r\nhello\n\r" + END),
        "longer than it says": chunks(b"3\r\nhello\r\n" + END),
        "longer by 2": chunks(b"5\r\nhelloXX" + END),
        "shorter than it says": chunks(b"7\r\nhello\r\n" + END),
        "shorter by 1": chunks(b"6\r\nhello\r\n" + END + b"X"),
        "an empty line between": chunks(b"5\r\nhello\r\n\r\n" + END),
        "an empty line first": chunks(EOL + HELLO),
        "LF everywhere": chunks(HELLO.replace(b"\r", b"")),
        "no chunks at all": chunks(b'{"model": "base"}\r\n'),
        "a request for a size": chunks(SMUGGLED),
        "the second is bad": chunks(b"5\r\nhello\r\nxx\r\nhello\r\n" + END),
        "an extension on the second": chunks(b"5\r\nhello\r\n5;x\r\nhello\r\n" + END),
        "NUL between": chunks(b"5\r\nhello\r\n\x00" + END),
    },
)
bad(
    "last chunk",
    {
        "LF": chunks(b"5\r\nhello\r\n0\n\n"),
        "LF, CRLF": chunks(b"5\r\nhello\r\n0\n\r\n"),
        "CRLF, LF": chunks(b"5\r\nhello\r\n0\r\n\n"),
        "CR CR LF": chunks(b"5\r\nhello\r\n0\r\r\n\r\n"),
        "CRLF, CR": chunks(b"5\r\nhello\r\n0\r\n\rX"),
        "an extension": chunks(b"5\r\nhello\r\n0;x\r\n\r\n"),
        "a blank": chunks(b"5\r\nhello\r\n0 \r\n\r\n"),
        "a hexadecimal 0": chunks(b"5\r\nhello\r\n0x0\r\n\r\n"),
        "minus 0": chunks(b"5\r\nhello\r\n-0\r\n\r\n"),
        "with data": chunks(b"5\r\nhello\r\n0\r\nhello\r\n\r\n"),
        "a request without its empty line": chunks(b"5\r\nhello\r\n0\r\n" + SMUGGLED),
    },
)
for value in (
    b"A", b"A b", b"A : b", b" A: b", b"\tA: b", b": b", b"A: b\r\n c", b"A: b\x00", b"A\x00: b", b"A: b\x01",
    b"A: b\nB: c", b"A: b\rB: c", b"A\xe9: b", b"A(: b", b"A\r\n: b",
):  # fmt: skip
    bad("trailer", {f"[{show(value)}]": chunks(b"5\r\nhello\r\n0\r\n" + value + b"\r\n\r\n")})
bad("trailer", {"20000 bytes": chunks(b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 3334 + b"\r\n")}, 400, 431)
bad("trailer", {"one of 20000 bytes": chunks(b"5\r\nhello\r\n0\r\nA: " + b"b" * 20000 + b"\r\n\r\n")}, 400, 431)

# expectations

for value in (
    b"200-ok", b"100-continued", b"100", b"continue", b"100-continue, 200-ok", b"200-ok, 100-continue",
    b"100-continue=1", b"x",
):  # fmt: skip
    bad("Expect", {f"[{show(value)}]": post(b"Expect: " + value, b"Content-Length: 5")}, 417)
for value in (b"100 continue", b"100-continue;q=1", b'"100-continue"', b"100-continue 100-continue"):
    bad("Expect", {f"[{show(value)}]": post(b"Expect: " + value, b"Content-Length: 5")}, 400, 417)
bad("Expect", {"two": post(b"Expect: 100-continue", b"Expect: 200-ok", b"Content-Length: 5")}, 400, 417)
bad("Expect", {"in 1.0": head(b"GET /version HTTP/1.0", b"Expect: 100-continue\x00")})

# too much

bad(
    "too large a head",
    {
        "129 fields": head(b"GET /version HTTP/1.1", *(b"A%d: b" % number for number in range(128))),
        "5000 fields": head(b"GET /version HTTP/1.1", *(b"A: b",) * 5000),
        "a long value": get(b"A: " + b"b" * 66_000),
        "a long name": get(b"A" * 66_000 + b": b"),
        "many long values": get(*(b"A: " + b"b" * 1000,) * 100),
        "no end of a value": get(b"A: " + b"b" * 70_000)[:-4],
        "no end of fields": get(*(b"A: b",) * 20_000)[:-2],
        "Host": head(b"GET /version HTTP/1.1", host=b"Host: " + b"x" * 66_000),
    },
    431,
)
bad(
    "too large a line",
    {
        "a long target": target(b"/version?" + b"a" * 66_000),
        "a long target without end": b"GET /" + b"a" * 70_000,
        "a long host in the target": target(b"http://" + b"a" * 66_000 + b"/version"),
    },
    414, 431,
)  # fmt: skip
bad("too large a line", {"a long method": head(b"G" * 66_000 + b" /version HTTP/1.1")}, 400, 431, 501)
bad(
    "too large a body",
    {
        "one byte": post(b"Content-Length: %d" % (MAX_BODY + 1), body=b""),
        "one byte, begun": post(b"Content-Length: %d" % (MAX_BODY + 1), body=b"hello"),
        "18 digits": post(b"Content-Length: " + b"9" * 18, body=b""),
        "4 GiB": post(b"Content-Length: 4294967301"),
        "to be continued": post(b"Expect: 100-continue", b"Content-Length: %d" % (MAX_BODY + 1), body=b""),
        "one chunk": chunks(b"%x\r\n" % (MAX_BODY + 1) + b"a" * (MAX_BODY + 1) + b"\r\n" + END),
        "many chunks": chunks((b"64\r\n" + b"a" * 100 + b"\r\n") * 11 + END),
        "a chunk without end": chunks(b"fffffff\r\n" + b"a" * (MAX_BODY + 1)),
        "small chunks": chunks(b"1\r\na\r\n" * (MAX_BODY + 1) + END),
    },
    413,
)
