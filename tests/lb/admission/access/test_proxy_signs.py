from __future__ import annotations

import pytest

from lb.admission.access.proxy_signs import sign_of_proxy
from lb.protocol.http1.request import parse


def sign(*lines: str, version: str = "1.1") -> str:
    head = "\r\n".join([f"GET /v1/cluster/status HTTP/{version}", "Host: 127.0.0.1:8000", *lines, "", ""])
    return sign_of_proxy(parse(head.encode("latin-1")))


@pytest.mark.parametrize("name", [
    "Via", "Forwarded", "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port",
    "X-Forwarded-Server", "X-Forwarded", "X-FORWARDED-anything", "CF-Connecting-IP", "CF-Ray", "True-Client-IP",
    "X-Client-IP", "X-Cluster-Client-IP", "X-Original-Forwarded-For", "X-Original-URL", "X-Envoy-External-Address",
    "X-Remote-Addr", "X-Originating-IP", "Max-Forwards", "CDN-Loop", "Fastly-Client-IP", "Fly-Client-IP", "Client-IP",
    "X-Amz-Cf-Id", "X-Amzn-Trace-Id", "X-Appengine-User-IP", "X-Azure-ClientIP", "X-ARR-LOG-ID", "Front-End-Https",
    "X-Varnish", "Tailscale-User-Login", "Ngrok-Auth-User-Email", "X-ProxyContextPath", "X-Script-Name",
    "X-Auth-Request-User", "Proxy-Connection", "Proxy-Authorization", "SSL-Client-Cert", "X-Scheme", "X-HAProxy-Id",
    "Surrogate-Capability", "DO-Connecting-IP", "Akamai-Origin-Hop",
])  # fmt: skip
def test_what_proxies_add_gives_them_away(name: str) -> None:
    assert sign(f"{name}: 127.0.0.1") == name.lower()


@pytest.mark.parametrize("lines", [
    (), ("User-Agent: curl/8.5.0", "Accept: */*"), ("Connection: keep-alive", "Accept-Encoding: gzip, deflate"),
    ("Connection: close",), ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
    ("Connection: TE, close", "TE: trailers"),
    ("X-Request-Id: a", "traceparent: 00-1-1-01", "Content-Type: application/json", "Authorization: Bearer x"),
    ("Origin: http://127.0.0.1:8000", "Sec-Fetch-Site: same-origin", "Sec-Ch-Ua: x", "Cookie: a=b", "DNT: 1",
     "Referer: http://127.0.0.1:8000/ui/", "Priority: u=1", "Last-Event-ID: 5", "X-Requested-With: x"),
])  # fmt: skip
def test_programs_of_this_machine_look_like_none(lines: tuple[str, ...]) -> None:
    assert sign(*lines) == ""


def test_nginx_as_it_is_set_up_speaks_http_1_0() -> None:
    assert sign("Connection: close", version="1.0") == "HTTP/1.0"


@pytest.mark.parametrize("line", ["Connection: close, X-Forwarded-For", "Connection: x-real-ip", "connection: via"])
def test_a_client_cannot_have_the_signs_taken_out_for_it(line: str) -> None:
    """By naming them as its connection's, which a proxy passes on (as Apache did, CVE-2022-31813)."""
    assert sign(line, "X-Real-IP: 10.0.0.9").startswith(("Connection: ", "x-real-ip"))
    assert sign(line) != ""
