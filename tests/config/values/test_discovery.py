"""``--backend-discovery``, as text and as values."""

from __future__ import annotations

import pytest

from config.values.discovery import parse

GOOD = [
    "file:/etc/servers.json",
    "dns:vllm.default.svc:8000",
    "dns:_http._tcp.vllm.example",
    "dns://10.0.0.2:53/vllm:8000",
    "dns://[::1]:8600/vllm.service.consul?scheme=https",
    "consul:http://127.0.0.1:8500/vllm",
    "consul:https://consul.example/prefix/vllm?tag=gpu&tag=big&dc=dc1&scheme=https",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_is_read_is_written_the_same(text: str) -> None:
    assert str(parse(text)) == text


def test_what_is_usual_is_left_out() -> None:
    assert str(parse("dns://10.0.0.2/vllm:8000?scheme=http")) == "dns://10.0.0.2:53/vllm:8000"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no list of servers"),
        ("http://a:1", "names no list of servers"),
        ("dns:", "names no list of servers"),
        ("dns:a:b", "the port is no number"),
        ("dns:a:0", "the port is no number"),
        ("dns:a:65536", "the port is no number"),
        ("dns:10.0.0.7:8000", "no name that DNS could know"),
        ("dns:a b:1", "a space or a control character"),
        ("dns:a\n:1", "a space or a control character"),
        ("dns://ns.example/a:1", "the name server is an address"),
        ("dns:a:1?ttl=3", "ttl=3 is not understood"),
        ("dns:a:1#x", "behind '#'"),
        ("consul:vllm", "the URL of an agent and a service"),
        ("consul:http://h:8500/", "the last part of the path is the service"),
        ("consul:http://h:99999/vllm", "Port out of range"),
        ("consul:http://[::1/vllm", "Invalid IPv6 URL"),
        ("consul:http://h/vllm?index=3", "index=3 is not understood"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(text)


@pytest.mark.parametrize("text", ["consul:http://u:s3cret@h/vllm", "consul:ftp://u:s3cret@h:x/vllm", "dns://s3cret@h/a"])
def test_a_password_in_it_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(text)
    assert "s3cret" not in str(error.value) and "CONSUL_HTTP_TOKEN" in str(error.value)


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("file:/a", True),
        ("dns:a:1", False),
        ("dns://10.0.0.2/a:1", False),
        ("dns://127.0.0.1:8600/a:1", True),
        ("consul:http://localhost:8500/a", True),
        ("consul:http://[::1]:8500/a", True),
        ("consul:http://consul.example/a", False),
    ],
)
def test_loopback_is_ours_only_if_this_machine_says_so(text: str, ours: bool) -> None:
    assert parse(text).on_this_machine is ours
