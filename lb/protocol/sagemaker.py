"""How ``/invocations`` names a model. Pure.

vLLM takes the adapter there from a header and *not* from the body (`inject_adapter_id` of
model_hosting_container_standards replaces ``model``, with nothing if the header is not there). So the worker is always
sent the header, with the name that the request was routed by.
"""

from __future__ import annotations

from lb.protocol.errors import ProxyError
from lb.protocol.facts import model_name, refused
from lb.protocol.http1.request import ADAPTER, RequestHead


def model(head: RequestHead, in_body: str | None) -> str | None:
    """The name that counts. Raises ProxyError (400, 404)."""
    given = head.ours.get(ADAPTER)
    if given is None:
        return in_body
    name = model_name(given.strip(b" \t").decode("latin-1"))
    if name is None:
        raise ProxyError(400, "X-Amzn-SageMaker-Adapter-Identifier is empty")
    return name


def field(name: str) -> bytes:
    """The field line for the worker, with a CRLF before it. Raises ProxyError (400) for a name that fits in none."""
    if not (name.isascii() and name.isprintable() and name == name.strip()):
        raise refused("on this route a model's name is of visible ASCII characters", "model")
    return b"\r\nX-Amzn-SageMaker-Adapter-Identifier: " + name.encode()
