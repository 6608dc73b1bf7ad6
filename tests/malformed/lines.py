"""Request lines that are not plainly those of HTTP/1.1 are refused: versions, methods, targets."""

from __future__ import annotations

from functools import partial

from httpforms import EOL, Forms, add, get, head, show, target

MALFORMED: Forms = {}
bad = partial(add, MALFORMED)

# versions

for value in (
    b"http/1.1", b"Http/1.1", b"HTTP/1.10", b"HTTP/1.01", b"HTTP/01.1", b"HTTP/11", b"HTTP/1", b"HTTP/1.", b"HTTP/.1",
    b"HTTP/", b"HTTP", b"HTTP/1,1", b"HTTP/1.1.1", b"HTTP/1.x", b"HTTP/x.1", b"HTTP/-1.1", b"HTTP/+1.1", b"HTTP/1.1 ",
    b"HTTP/1.1\t", b"HTTP/1.1x", b"HTTP/1.1 x", b"HTTP/ 1.1", b"HTTP /1.1", b"HTTP\\1.1", b"HTTPS/1.1", b"XTTP/1.1",
    b"ICY/1.1", b"RTSP/1.0", b"HTTP/1.\xb9", b"HTTP/\xd9\xa1.\xd9\xa1", b"HTTP/1.1HTTP/1.1", b'"HTTP/1.1"', b"1.1",
):  # fmt: skip
    bad("version", {f"[{show(value)}]": head(b"GET /version " + value)})
bad(
    "version",
    {
        "0.9": head(b"GET /version HTTP/0.9"),
        "2.0": head(b"GET /version HTTP/2.0"),
        "3.0": head(b"GET /version HTTP/3.0"),
        "9.9": head(b"GET /version HTTP/9.9"),
        "0.0": head(b"GET /version HTTP/0.0"),
    },
    505,
)
# RFC 9110 2.5 would take it for 1.1; decisions/0011 takes what is plainly 1.1.
bad("version", {"1.2": head(b"GET /version HTTP/1.2"), "1.9": head(b"GET /version HTTP/1.9")}, 400, 505)
bad("version", {"HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}, 400, 505)
bad("version", {"HTTP/0.9 with an empty line": b"GET /version\r\n\r\n", "0.9, with Host": head(b"GET /version")})

# request lines

bad(
    "line",
    {
        "a leading space": head(b" GET /version HTTP/1.1"),
        "a leading tab": head(b"\tGET /version HTTP/1.1"),
        "two spaces after the method": head(b"GET  /version HTTP/1.1"),
        "two spaces after the target": head(b"GET /version  HTTP/1.1"),
        "tabs": head(b"GET\t/version\tHTTP/1.1"),
        "a tab after the method": head(b"GET\t/version HTTP/1.1"),
        "a tab after the target": head(b"GET /version\tHTTP/1.1"),
        "space and tab": head(b"GET \t/version HTTP/1.1"),
        "no-break spaces": head(b"GET\xa0/version\xa0HTTP/1.1"),
        "no target": head(b"GET HTTP/1.1"),
        "an empty target": head(b"GET  HTTP/1.1"),
        "no method": head(b"/version HTTP/1.1"),
        "an empty method": head(b" /version HTTP/1.1"),
        "only a method": head(b"GET"),
        "only a version": head(b"HTTP/1.1"),
        "no space after the method": head(b"GET/version HTTP/1.1"),
        "no space after the target": head(b"GET /versionHTTP/1.1"),
        "four words": head(b"GET /version /version HTTP/1.1"),
        "no line": EOL + EOL + head(b"", host=b"Host: x"),
        "two empty lines first": EOL + EOL + get(),
        "three empty lines first": EOL + EOL + EOL + get(),
        "an empty line with a blank first": b" " + EOL + get(),
        "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x01" * 32 + b"\r\n\r\n",
        "PROXY": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + get(),
        "a byte order mark": b"\xef\xbb\xbf" + get(),
        "fields first": b"Host: x\r\n" + get(),
    },
)
for value in (b"G(T", b"GET:", b"GET,", b"G@T", b'"GET"', b"G\xc9T", "GÉT".encode(), b"[GET]", b"GET{}", b"GET\x7f"):
    bad("line", {f"method [{show(value)}]": head(value + b" /version HTTP/1.1")})

# targets

for value in (
    b"/version#x", b"/version#", b"/version?a#b", b"/version?a#", b"/version?#", b"http://x/version?a#b",
    b"http://x/version#b", b"http://x#b",
):  # fmt: skip
    bad("fragment", {f"[{show(value)}]": target(value)})
for value in (
    b"/ver sion", b"/version?a b", b"/version ?a", b"/version\t", b"/v\xc3\xa9rsion", b"/v\xe9rsion",
    b"/version?\xc3\xa9", b"/version?\xff", b"/version\x85", b"\xef\xbc\x8fversion", b"version", b"?a", b"a=b", b"*",
    b"**", b"*/version", b"x", b"x:80", b"x:80/version", b"[::1]:80", b"http:///version", b"http://", b"http:/version",
    b"http:version", b"http:", b"http//x/version", b"://x/version", b"ftp://x/version", b"file:///etc/passwd",
    b"ws://x/version", b"javascript:1", b"data:,x", b"http+unix://x/version", b"h\xc3\xb6st", b"\\version", b"..",
    b"../version", b"./version", b";/version", b"@x/version", b"@169.254.169.254/version", b":80/version",
):  # fmt: skip
    bad("target", {f"[{show(value)}]": target(value)})
for value in (
    b"http://:80/version", b"http://:/version", b"http://?version", b"http://user@x/version",
    b"http://user:pw@x/version", b"http://x@y@z/version", b"http://@x/version", b"http://x:y/version",
    b"http://x:80:80/version", b"http://x:-80/version", b"http://[::1/version", b"http://::1/version",
    b"http://[zz]/version", b"http://[.]/version", b"http://[]/version", b"http://x%/version", b"http://x%zz/version",
    b"http://x\\y/version", b"http://x\\@y/version", b"http://x y/version", b"http://\xc3\xa9/version",
    b"http://x{}/version", b'http://"x"/version', b"http://<x>/version", b"http://x|y/version", b"http://x^/version",
    b"https://:443/version", b"https:///version", b"HTTP:///version",
):  # fmt: skip
    bad("absolute", {f"[{show(value)}]": target(value)})
bad(
    "CONNECT",
    {
        "a host": head(b"CONNECT x:443 HTTP/1.1"),
        "loopback": head(b"CONNECT 127.0.0.1:22 HTTP/1.1", host=b"Host: 127.0.0.1:22"),
        "an address in brackets": head(b"CONNECT [::1]:443 HTTP/1.1"),
        "no port": head(b"CONNECT x HTTP/1.1"),
        "1.0": head(b"CONNECT x:443 HTTP/1.0"),
    },
    400, 405, 501,
)  # fmt: skip
