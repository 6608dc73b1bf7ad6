"""Line ends, controls and fields that are not plainly those of HTTP/1.1 are refused."""

from __future__ import annotations

from functools import partial

from httpforms import Forms, add, get, head, show, target

MALFORMED: Forms = {}
bad = partial(add, MALFORMED)

# line ends

bad(
    "LF",
    {
        "everywhere": b"GET /version HTTP/1.1\nHost: x\n\n",
        "after the request line": b"GET /version HTTP/1.1\nHost: x\r\n\r\n",
        "after a field": b"GET /version HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
        "as the empty line": b"GET /version HTTP/1.1\r\nHost: x\r\n\n",
        "before the empty line": b"GET /version HTTP/1.1\r\nHost: x\n\r\n",
        "before the request": b"\n" + get(),
        "in a value": get(b"A: b\nc"),
        "a field in a value": get(b"A: b\nContent-Length: 40"),
        "in a name": get(b"A\nb: c"),
        "in the target": target(b"/ver\nsion"),
        "before CRLF": get(b"A: b\n"),
        "as separator": b"GET\n/version HTTP/1.1\r\nHost: x\r\n\r\n",
        "alone": b"\n",
    },
)
bad(
    "CR",
    {
        "everywhere": b"GET /version HTTP/1.1\rHost: x\r\rX",
        "after the request line": b"GET /version HTTP/1.1\rHost: x\r\n\r\n",
        "after a field": b"GET /version HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
        "as the empty line": b"GET /version HTTP/1.1\r\nHost: x\r\n\rX\r\n\r\n",
        "before the request": b"\r" + get(),
        "in a value": get(b"A: b\rc"),
        "at the end of a value": get(b"A: b\r"),
        "at the beginning of a value": get(b"A: \rb"),
        "in a name": get(b"A\rb: c"),
        "after a name": get(b"A\r: c"),
        "at the beginning of a line": get(b"\rA: c"),
        "in the target": target(b"/ver\rsion"),
        "after the version": b"GET /version HTTP/1.1\r\r\nHost: x\r\n\r\n",
        "as separator": b"GET\r/version HTTP/1.1\r\nHost: x\r\n\r\n",
        "LF CR": b"GET /version HTTP/1.1\n\rHost: x\n\r\n\r",
    },
)
bad(
    "fold",
    {
        "with a space": get(b"A: b\r\n c"),
        "with a tab": get(b"A: b\r\n\tc"),
        "an empty one": get(b"A: b\r\n "),
        "only a tab": get(b"A: b\r\n\t"),
        "into an empty value": get(b"A:\r\n b"),
        "before the colon": get(b"A\r\n : b"),
        "after the request line": head(b"GET /version HTTP/1.1", b"A: b", host=b" Host: x"),
        "a field after the request line": head(b"GET /version HTTP/1.1", b"Host: x", host=b" A: b"),
        "Host": head(b"GET /version HTTP/1.1", host=b"Host:\r\n x"),
        "Host to another": head(b"GET /version HTTP/1.1", host=b"Host: x\r\n y"),
        "with an LF": get(b"A: b\n c"),
        "with a CR": get(b"A: b\r c"),
    },
)

# NUL and other controls

bad(
    "NUL",
    {
        "first": b"\x00" + get(),
        "in the method": head(b"G\x00ET /version HTTP/1.1"),
        "after the method": head(b"GET\x00 /version HTTP/1.1"),
        "in the target": target(b"/ver\x00sion"),
        "after the target": target(b"/version\x00"),
        "in the query": target(b"/version?a=\x00"),
        "in the version": head(b"GET /version HTTP/1\x00.1"),
        "after the version": head(b"GET /version HTTP/1.1\x00"),
        "in a name": get(b"A\x00b: c"),
        "before a name": get(b"\x00A: c"),
        "before the colon": get(b"A\x00: c"),
        "after the colon": get(b"A:\x00c"),
        "in a value": get(b"A: b\x00c"),
        "after a value": get(b"A: b\x00"),
        "in Host": head(b"GET /version HTTP/1.1", host=b"Host: x\x00y"),
        "a line of it": get(b"\x00"),
        "many": b"\x00" * 100,
    },
)
for byte in (*range(1, 9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F):
    bad("control", {f"{byte:02x} in a value": get(b"A: b" + bytes((byte,)) + b"c")})
bad(
    "control",
    {
        "01 in a name": get(b"A\x01: b"),
        "7f in a name": get(b"A\x7f: b"),
        "1b in the target": target(b"/version?\x1b[2J"),
        "01 in the target": target(b"/ver\x01sion"),
        "7f in the target": target(b"/version?\x7f"),
        "01 in the method": head(b"GET\x01 /version HTTP/1.1"),
        "0b at the end of a line": get(b"A: b\x0b"),
        "0c for a blank": head(b"GET\x0c/version\x0cHTTP/1.1"),
        "0b for a blank": head(b"GET\x0b/version\x0bHTTP/1.1"),
        "01 in Host": head(b"GET /version HTTP/1.1", host=b"Host: \x01x"),
    },
)

# fields

bad(
    "field",
    {
        "a space before the colon": get(b"A : b"),
        "a tab before the colon": get(b"A\t: b"),
        "spaces before the colon": get(b"A   : b"),
        "no colon": get(b"A"),
        "no colon, with a blank": get(b"A b"),
        "an empty name": get(b": b"),
        "only a colon": get(b":"),
        "two colons first": get(b":: b"),
        "a blank for a name": get(b" : b"),
        "a tab for a name": get(b"\t: b"),
        "a blank before the name": get(b" A: b"),
        "a tab before the name": get(b"\tA: b"),
        "a blank in the name": get(b"A b: c"),
        "a tab in the name": get(b"A\tb: c"),
        "a line of a blank": get(b" "),
        "a name in latin-1": get(b"\xe9: b"),
        "a name in UTF-8": get("é: b".encode()),
        "a byte order mark": get(b"\xef\xbb\xbfA: b"),
        "a name with a no-break space": get(b"A\xa0: b"),
        "a full-width colon": get("A： b".encode()),
        "a second request line": get(b"GET /version HTTP/1.1"),
        "a status line": get(b"HTTP/1.1 200 OK"),
    },
)
for byte in b'(),/;<=>?@[\\]{}"':
    bad("field", {f"{chr(byte)} in a name": get(b"A" + bytes((byte,)) + b"b: c")})

# Host

bad(
    "Host",
    {
        "none": head(b"GET /version HTTP/1.1", b"A: b", host=b""),
        "no field at all": head(b"GET /version HTTP/1.1", host=b""),
        "none on a POST": head(b"POST /v1/completions HTTP/1.1", b"Content-Length: 5", host=b"") + b"hello",
        "none beside an absolute target": head(b"GET http://x/version HTTP/1.1", host=b""),
        "twice the same": get(b"Host: x"),
        "two": get(b"Host: y"),
        "two, in different case": get(b"hOST: y"),
        "two, one empty": get(b"Host:"),
        "two beside an absolute target": head(b"GET http://x/version HTTP/1.1", b"Host: y"),
        "two in 1.0": head(b"GET /version HTTP/1.0", b"Host: y"),
        "a blank before the colon": head(b"GET /version HTTP/1.1", host=b"Host : x"),
    },
)
for value in (
    b"x y", b"x\ty", b"x, y", b"x/y", b"x/", b"x?y", b"x#y", b"x@y", b"user:pw@x", b"http://x", b"//x", b"x:y",
    b"x:80:80", b"x:-1", b"x:+80", b"x:0x50", b"x: 80", b"x :80", b"[::1", b"::1]", b"::1", b"[::1]x", b"[]",
    b"[zz]", b"[.]", b"[1]", b"[:]", b"[1.2.3.4]", b"[::1]:y", b"[::1%]", b"[::1]]", b"x\\y", b"\\x", b'"x"', b"<x>",
    b"x{}", b"x|y", b"x^y", b"x`y", b"x%", b"x%2", b"x%zz", b"x\xe9", "é".encode(), b"x\x7f",
):  # fmt: skip
    bad("Host", {f"[{show(value)}]": head(b"GET /version HTTP/1.1", host=b"Host: " + value)})
bad("Host", {"malformed beside an absolute target": head(b"GET http://x/version HTTP/1.1", host=b"Host: x/y")})
bad("Host", {"malformed in 1.0": head(b"GET /version HTTP/1.0", host=b"Host: x y")})
