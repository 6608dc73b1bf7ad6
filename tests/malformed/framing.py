"""Where a body ends is said once and plainly, or the request is refused: lengths, codings, and what hides them."""

from __future__ import annotations

from functools import partial

from httpforms import END, HELLO, IN_CHUNKS, SMUGGLED, Forms, add, get, head, post, show

MALFORMED: Forms = {}
bad = partial(add, MALFORMED)

# Content-Length against Transfer-Encoding

bad(
    "CL.TE",
    {
        "the classic": post(b"Content-Length: 6", b"Transfer-Encoding: chunked", body=END + b"G"),
        "coding first": post(b"Transfer-Encoding: chunked", b"Content-Length: 6", body=END + b"G"),
        "lengths agree": post(b"Content-Length: 15", b"Transfer-Encoding: chunked", body=HELLO),
        "length 0": post(b"Content-Length: 0", b"Transfer-Encoding: chunked", body=HELLO),
        "a prefix is left": post(b"Content-Length: 30", b"Transfer-Encoding: chunked", body=END + SMUGGLED),
        "other fields between": post(b"Content-Length: 5", b"A: b", b"transfer-encoding: chunked", body=HELLO),
        "on a GET": get(b"Content-Length: 5", b"Transfer-Encoding: chunked") + END,
        "named in Connection": post(
            b"Connection: Content-Length", b"Content-Length: 5", b"Transfer-Encoding: chunked", body=HELLO
        ),
    },
)
bad(
    "TE.CL",
    {
        "the classic": post(
            b"Content-Length: 4", b"Transfer-Encoding: chunked", body=IN_CHUNKS
        ),
        "coding first": post(
            b"Transfer-Encoding: chunked", b"Content-Length: 4", body=IN_CHUNKS
        ),
        "coding hidden by Connection": post(
            b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked", b"Content-Length: 5", body=HELLO
        ),
        "an unknown coding": post(b"Transfer-Encoding: identity", b"Content-Length: 5"),
        "an empty coding": post(b"Transfer-Encoding:", b"Content-Length: 5"),
    },
)

# Transfer-Encoding: decisions/0011 wants 400 for all but exactly `chunked`, where RFC 9112 6.1 has 501

for value in (
    b"", b"xchunked", b"x-chunked", b"chunkedx", b"chunke", b"chunked, chunked", b"chunked,chunked", b"chunked chunked",
    b"chunked;q=1", b"chunked; foo", b"chunked;", b'"chunked"', b"'chunked'", b",chunked", b"chunked,", b", chunked",
    b"gzip", b"gzip, chunked", b"chunked, gzip", b"deflate, chunked", b"identity", b"identity, chunked",
    b"chunked, identity", b"trailers, chunked", b"cow", b"null", b"chun ked", b"chun\tked", b"[chunked]", b"chunked=1",
    b": chunked", b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"chunked\x0c", b"chunked\x00", b"\x00chunked",
    b"chunked\x7f", b"chunked\x1f", b"chunked\x85", b"\xa0chunked", b"chunked\xa0", b"\xc2\xa0chunked",
    b"\xef\xbb\xbfchunked", b"chun\xe2\x84\xaaed", b"chunked\rX", b"chunked\nX",
):  # fmt: skip
    bad("TE", {f"[{show(value)}]": post(b"Transfer-Encoding: " + value, body=HELLO)})

bad(
    "TE.TE",
    {
        "the same line twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=HELLO),
        "different case": post(b"transfer-encoding: chunked", b"TRANSFER-ENCODING: chunked", body=HELLO),
        "chunked and identity": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=HELLO),
        "identity and chunked": post(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", body=HELLO),
        "chunked and nothing": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding:", body=HELLO),
        "chunked and x": post(b"Transfer-Encoding: chunked", b"Transfer-encoding: x", body=HELLO),
        "gzip and chunked": post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", body=HELLO),
    },
)

for line in (
    b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked", b" Transfer-Encoding: chunked",
    b"\tTransfer-Encoding: chunked", b"Transfer-Encoding\x00: chunked", b"\x00Transfer-Encoding: chunked",
    b"Transfer-Encoding\x0b: chunked", b"Transfer-Encoding\xa0: chunked", b"Transfer Encoding: chunked",
    b"Transfer-Encoding chunked", b"Transfer-Encoding=chunked", b"Transfer-Encoding\r\n : chunked",
    b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding:\r\n\tchunked", b"Transfer-Encoding: \r\n chunked",
    b"X: y\nTransfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked", b"X: y\r\r\nTransfer-Encoding: chunked",
    b'"Transfer-Encoding": chunked', b"(Transfer-Encoding): chunked", b"Transfer-Encoding;: chunked",
    b"Tran\xc5\xbffer-Encoding: chunked", b"Transfer\xe2\x80\x90Encoding: chunked",
    b"X: y\r\n\x0bTransfer-Encoding: chunked",
):  # fmt: skip
    bad("TE line", {f"[{show(line)}]": post(b"Content-Length: 15", line, body=HELLO)})

bad(
    "TE in 1.0",
    {
        "chunked": head(b"POST /v1/completions HTTP/1.0", b"Transfer-Encoding: chunked") + HELLO,
        "chunked, kept alive": head(
            b"POST /v1/completions HTTP/1.0", b"Connection: keep-alive", b"Transfer-Encoding: chunked"
        ) + HELLO,
        "with a length": head(b"POST /v1/completions HTTP/1.0", b"Content-Length: 5", b"Transfer-Encoding: chunked")
        + HELLO,
        "identity": head(b"POST /v1/completions HTTP/1.0", b"Transfer-Encoding: identity") + HELLO,
        "without Host": head(b"POST /v1/completions HTTP/1.0", b"Transfer-Encoding: chunked", host=b"") + HELLO,
    },
)  # fmt: skip

# framing in a spelling that some readers fold into the right one

for line in (
    b"Transfer_Encoding: chunked", b"transfer_encoding: chunked", b"TRANSFER_ENCODING: chunked",
    b"Transfer_Encoding:chunked", b"Content_Length: 5", b"content_length: 0", b"CONTENT_LENGTH: 50",
):  # fmt: skip
    bad(
        "underscore",
        {
            f"[{show(line)}] beside a length": post(b"Content-Length: 15", line, body=HELLO),
            f"[{show(line)}] before a length": post(line, b"Content-Length: 15", body=HELLO),
            f"[{show(line)}] beside chunks": post(b"Transfer-Encoding: chunked", line, body=HELLO),
            f"[{show(line)}] alone": post(line, body=HELLO),
            f"[{show(line)}] on a GET": get(line) + HELLO,
        },
    )
bad(
    "underscore",
    {
        show(line): get(line)
        for line in (
            b"X_Forwarded_For: 1.2.3.4", b"X-Forwarded_For: 1.2.3.4", b"X_Forwarded-Proto: https", b"X_Request_Id: a",
            b"Proxy_Connection: close", b"Keep_Alive: 5", b"Content_Type: application/json", b"X_Forwarded_Host: a",
        )
    },
)  # fmt: skip

# Content-Length

for value in (
    b"", b"+5", b"-5", b"-0", b"-1", b"0x5", b"0b101", b"0o5", b"5,5", b"5, 5", b"5,6", b"5 5", b"5_0", b"5;", b"5.0",
    b"5e0", b'"5"', b"'5'", b"five", b"5h", b",5", b"5,", b"0,5", b"NaN", b"inf", b"true", b"5\t5", b"5\x0b", b"5\x0c",
    b"5\x00", b"\x005", b"5\x7f", b"5\xa0", b"\xb25", b"\xd9\xa5", b"\xef\xbc\x95", b"\xe0\xa5\xab", b"5\r", b"5\n",
    b"5\r5", b"5\n5", b"5\r\n 5", b"\r\n 5", b"(5)", b"5 (five)", b"5=5", b": 5",
):  # fmt: skip
    bad("CL", {f"[{show(value)}]": post(b"Content-Length: " + value)})
for name, value in {
    "2 to the 63rd": b"9223372036854775808", "2 to the 64th and 5": b"18446744073709551621", "30 digits": b"9" * 30,
    "5000 digits": b"9" * 5000,
}.items():  # fmt: skip
    bad("CL", {name: post(b"Content-Length: " + value)}, 400, 413)

bad(
    "CL twice",
    {
        "the same": post(b"Content-Length: 5", b"Content-Length: 5"),
        "another, larger": post(b"Content-Length: 5", b"Content-Length: 50"),
        "another, smaller": post(b"Content-Length: 50", b"Content-Length: 5"),
        "0 first": post(b"Content-Length: 0", b"Content-Length: 5"),
        "0 last": post(b"Content-Length: 5", b"Content-Length: 0"),
        "different case": post(b"content-length: 5", b"CONTENT-LENGTH: 5"),
        "one is empty": post(b"Content-Length: 5", b"Content-Length:"),
        "on a GET": get(b"Content-Length: 0", b"Content-Length: 5") + b"hello",
        "far apart": post(b"Content-Length: 5", *(b"A: b",) * 20, b"Content-Length: 6"),
    },
)
for line in (
    b"Content-Length : 5", b"Content-Length\t: 5", b" Content-Length: 5", b"\tContent-Length: 5",
    b"Content-Length\x00: 5", b"Content-Length\x0b: 5", b"Content Length: 5", b"Content-Length 5", b"Content-Length=5",
    b"Content-Length", b"Content-Length\r\n : 5", b"Content-Length:\r\n 5", b"X: y\nContent-Length: 5",
    b"X: y\rContent-Length: 5", b"Content-Length\xad: 5",
):  # fmt: skip
    bad("CL line", {f"[{show(line)}]": post(line)})
