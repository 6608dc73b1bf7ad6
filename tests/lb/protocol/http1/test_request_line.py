"""The first line of a request, and its host."""

from __future__ import annotations

import pytest

from requestheads import head, read, refused


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "get", "M-SEARCH", "!#$%&'*+-.^_`|~0"])
def test_any_token_is_a_method(method: str) -> None:
    assert read(start=method.encode() + b" / HTTP/1.1").method == method


@pytest.mark.parametrize(
    "target", ["/", "/v1/models", "//x", "/?", "/a?b=c&d=%20?/", "/%zz", '/"{}|\\^`<>', "/" + "a" * 9000]
)
def test_a_target_goes_through_as_it_is(target: str) -> None:
    found = read(start=b"GET " + target.encode() + b" HTTP/1.1")
    assert (found.target, found.path) == (target, target.split("?")[0])


@pytest.mark.parametrize(
    ("target", "host", "rest"),
    [
        ("http://a", "a", "/"),
        ("http://a/", "a", "/"),
        ("https://a:8080/b?c", "a:8080", "/b?c"),
        ("HTTP://a?b", "a", "/?b"),
        ("http://[::1]:80/b", "[::1]:80", "/b"),
        ("http://a//b", "a", "//b"),
    ],
)
def test_an_absolute_target_says_the_host_whatever_the_host_header_says(target: str, host: str, rest: str) -> None:
    found = read(start=b"GET " + target.encode() + b" HTTP/1.1", host=b"other")
    assert (found.host, found.target) == (host, rest)


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"x",
        b"a:443",
        b"ftp://a/",
        b"http:/a",
        b"http://",
        b"http:///a",
        b"http://u@a/",
        b"http://a:b/",
        b"?a",
        b"http://a b/",
    ],
)
def test_any_other_target_is_refused(target: bytes) -> None:
    assert refused(head(start=b"GET " + target + b" HTTP/1.1")) == 400


@pytest.mark.parametrize("target", [b"/a#b", b"/#", b"http://a/b#c", b"http://a#c"])
def test_a_fragment_has_no_place_in_a_target(target: bytes) -> None:
    assert refused(head(start=b"GET " + target + b" HTTP/1.1")) == 400


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET / http/1.1",
        b"GET / HTTP/1",
        b"GET / HTTP/11.1",
        b"GET / HTTP/1.10",
        b"GE(T / HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET / HTTP/1.1\n",
        b"\x16\x03\x01\x02\x00",
        b"PRI * HTTP/2.0\x00",
        b"GET /\r HTTP/1.1",
    ],
)
def test_what_is_no_request_line_is_refused(start: bytes) -> None:
    assert refused(head(start=start)) == 400


@pytest.mark.parametrize("version", [b"0.9", b"1.2", b"1.9", b"2.0", b"3.0", b"9.9"])
def test_other_versions_are_not_spoken(version: bytes) -> None:
    assert refused(head(start=b"GET / HTTP/" + version)) == 505


# Host


@pytest.mark.parametrize(
    "host", [b"a", b"a:1", b"[::1]", b"[fe80::1]:8000", b"1.2.3.4:65535", b"a_b.c-d", b"", b"\t a \t"]
)
def test_a_host_is_told_without_blanks(host: bytes) -> None:
    assert read(host=host).host == host.strip(b" \t").decode()


@pytest.mark.parametrize(
    "host", [b"a b", b"a/b", b"a,b", b"u@a", b"a:b", b"a:123456", b"[::1", b"a\\b", b"\xc3\xa4", b"a?b", b'a"']
)
def test_what_is_no_host_is_refused(host: bytes) -> None:
    assert refused(head(host=host)) == 400


def test_a_host_is_needed_in_1_1_only_and_never_twice() -> None:
    assert refused(head(host=None)) == 400
    assert read(start=b"GET / HTTP/1.0", host=None).host == ""
    assert refused(head(b"host: x")) == 400
    assert refused(head(b"Host: y", start=b"GET http://x/ HTTP/1.1")) == 400
    assert refused(head(host=None, start=b"GET http://x/ HTTP/1.1")) == 400
