"""What is listed, as URLs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.discovery.listing import MOST, SourceFailed, of_file, of_network
from config.text import printable


@pytest.mark.parametrize(
    ("data", "urls"),
    [
        ([], ()),
        (["10.0.0.7:8000", "https://gpu.example/v1"], ("http://10.0.0.7:8000", "https://gpu.example:443")),
        (["http://a:1", "a:1"], ("http://a:1",)),
        ([{"targets": ["a:1", "b:2"], "labels": {"job": "vllm"}}], ("http://a:1", "http://b:2")),
        ([{"targets": ["a:1"], "labels": {"__scheme__": "https"}}], ("https://a:1",)),
        (["[::1]:8000", "127.0.0.1:8000"], ("http://[::1]:8000", "http://127.0.0.1:8000")),
    ],
)
def test_a_file_lists_urls_or_what_prometheus_reads(data: Any, urls: tuple[str, ...]) -> None:
    assert of_file(data).urls == urls


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "a list of servers is needed"),
        ({"targets": []}, "a list of servers is needed"),
        ([3], "entry 1 is neither"),
        (["a:1", {"target": "a"}], "entry 2 is neither"),
        ([{"targets": "a:1"}], "entry 1: targets is a list"),
        ([{"targets": ["a:1"], "labels": 3}], "entry 1 is neither"),
        (["ftp://a"], r"entry 1, ftp://a: a URL"),
        (["a:x"], "entry 1, http://a:x: "),
        (["http://u:p@a"], "a URL"),
        (["a b"], "a space or a control character"),
        ([f"10.0.{n >> 8}.{n & 255}:80" for n in range(MOST + 1)], f"{MOST + 1} servers are listed"),
    ],
)
def test_a_file_is_taken_as_a_whole_or_not_at_all(data: Any, why: str) -> None:
    with pytest.raises(SourceFailed, match=why):
        of_file(data)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("10.0.0.7", ""),
        ("fd00::7", ""),
        ("gpu-1.example", ""),
        ("127.0.0.1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("localhost", "loopback"),
        ("LOCALHOST.", "loopback"),
        ("2130706433", "no host"),
        ("127.1", "no host"),
        ("0x7f.0x1", "no host"),
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("224.0.0.1", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("a/../b", "no host"),
        ("a\r\nb", "no host"),
        ("", "no host"),
    ],
)
def test_what_cannot_be_a_server_elsewhere_is_left_out(host: str, why: str) -> None:
    listing = of_network([("10.0.0.9", 8000), (host, 8000)], "http", on_this_machine=False)
    assert len(listing.urls) == (1 if why else 2)
    assert (why in listing.left_out) if why else listing.left_out == ""
    assert listing.left_out == printable(listing.left_out)


def test_loopback_is_a_server_if_this_machine_says_so() -> None:
    assert of_network([("127.0.0.1", 1)], "https", on_this_machine=True).urls == ("https://127.0.0.1:1",)


def test_nothing_but_such_is_no_list() -> None:
    with pytest.raises(SourceFailed, match=r"nothing but 0.0.0.0:1 \(unspecified\)"):
        of_network([("0.0.0.0", 1)], "http", on_this_machine=True)
    assert of_network([], "http", on_this_machine=True).urls == ()


@pytest.mark.parametrize("port", [0, -1, 65536, 10**30])
def test_a_port_that_is_none_is_left_out(port: int) -> None:
    assert "no port" in of_network([("a", 1), ("a", port)], "http", on_this_machine=True).left_out


@given(st.lists(st.tuples(st.text(max_size=40), st.integers())), st.booleans())
def test_strangers_words_make_urls_or_none(found: list[tuple[str, int]], ours: bool) -> None:
    try:
        listing = of_network(found, "http", on_this_machine=ours)
    except SourceFailed as error:
        assert str(error) == printable(str(error))
    else:
        assert all(url.isprintable() and " " not in url and url.count("/") == 2 for url in listing.urls)
