"""Whether a request has come through a proxy, by what proxies leave in it. Pure.

A proxy on this machine makes the whole world local: its connections come over loopback, and perhaps from root. What
shows that it is one is taken at its word, as nobody who is local gains by claiming it. A proxy that leaves no trace is
known by the user that it runs as, or not at all.
"""

from __future__ import annotations

from lb.protocol.http1 import fields
from lb.protocol.http1.request import RequestHead

#: Header names, lower case: what those begin with that proxies, load balancers and content networks add.
_BEGINNINGS = (
    "x-forwarded", "x-original-", "x-real-", "x-remote-", "x-client-", "x-cluster-client-", "x-originating-",
    "x-proxy", "x-ssl-", "x-tls-", "x-envoy-", "x-haproxy-", "x-nginx-", "x-varnish", "x-accel-", "x-squid-",
    "x-arr-", "x-azure-", "x-fd-", "x-appengine-", "x-google-", "x-cloud-trace-", "x-amz-cf-", "x-amzn-",
    "x-akamai-", "x-vercel-", "x-nf-", "x-auth-request-", "akamai-", "cf-", "cdn-", "fastly-", "fly-", "ngrok-",
    "tailscale-", "do-connecting-", "surrogate-", "proxy-", "ssl-", "remote-",
)  # fmt: skip

_NAMES = frozenset(
    {
        "via", "forwarded", "forwarded-for", "x-forward-for", "client-ip", "true-client-ip", "http-client-ip",
        "wl-proxy-client-ip", "x-user-ip", "x-host", "x-port", "x-scheme", "x-https", "front-end-https",
        "x-script-name", "x-server-name", "max-forwards",
    }
)  # fmt: skip

#: What a client says of its own connection. A proxy may pass on what its client named beside these, and so take out
#: its own traces.
_OWN_CONNECTION = frozenset({b"close", b"keep-alive", b"upgrade", b"te", b"http2-settings"})


def sign_of_proxy(head: RequestHead) -> str:
    """What gives it away, for an error message; empty where nothing does."""
    if head.version == 0:
        return "HTTP/1.0"  # what nginx's `proxy_pass` speaks unless told otherwise, with our own name as Host
    for name in (*head.ours, *(line.partition(b":")[0] for line in head.kept)):
        low = name.decode("latin-1").lower()
        if low in _NAMES or low.startswith(_BEGINNINGS):
            return low
    if extra := set(fields.tokens(head.ours.get(b"connection", b""))) - _OWN_CONNECTION:
        return f"Connection: {min(extra).decode('latin-1')}"
    return ""
