"""The routes of vLLM that go through to workers; all others are unknown here and reach none. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lb.protocol.errors import ProxyError

#: What says nothing of a model.
NEUTRAL = frozenset({"/load", "/version", "/ping"})
_POST = frozenset(
    {
        "/ping", "/tokenize", "/detokenize", "/invocations",
        "/v1/completions", "/v1/chat/completions", "/v1/chat/completions/batch", "/v1/messages",
        "/v1/messages/count_tokens", "/v1/responses",
        "/v1/embeddings", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank",
        "/v1/audio/transcriptions", "/v1/audio/translations",
    }
)  # fmt: skip
WEBSOCKET = frozenset({"/v1/realtime"})

#: Every path of workers that has a name of its own.
WORKERS = NEUTRAL | _POST | WEBSOCKET
RESPONSES = "/v1/responses"
INVOCATIONS = "/invocations"
_RESPONSE = re.compile(r"/v1/responses/([^/?#]{1,256})(/cancel)?")

#: A chat of a route of models.
_ROUTE_CHAT = re.compile(r"/v1/chat/([A-Za-z0-9._-]{1,128})")

#: The same over gRPC, where that is spoken; over HTTP there is no such path.
RPC_CHAT = "/clusterctl.v1.InternalChat/StreamChat"

#: Characters of a path that is repeated.
_MOST_SHOWN = 256


#: Answered by the balancer itself to whoever may ask for models.
MODELS = "/v1/models"

#: What the balancer answers itself, for everybody.
_OPEN = frozenset({"/health", MODELS})

#: For everybody on this machine.
METRICS = "/metrics"

#: For whoever has a code that works once: asked for from the page, of this site only.
SESSION = "/v1/cluster/ui/session"

#: What it answers to those only who may manage the cluster: adapter routes change it.
_PROTECTED = (
    "/v1/cluster", "/v1/system", "/v1/lora_adapters", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
)  # fmt: skip


#: The page for browsers: for everybody, as what it shows is asked for from the routes above.
_PAGE = ("/", "/ui")


#: Parts of a path that some readers of it take for a step elsewhere.
_STEPS = frozenset({"", ".", ".."})

_GET_HEAD, _ONLY_POST = frozenset({"GET", "HEAD"}), frozenset({"POST"})


@dataclass(frozen=True, slots=True)
class Route:
    """What a path (as sent, without its query) is. ``methods``: those that are passed on, none for a path that is not;
    of one that is ``ours``, the balancer's own, the management API decides. ``open``: everybody may call it;
    ``model``: whoever may ask for models may read it, and who manages the cluster may change it.
    ``generation``: to repeat it on another worker changes nothing but the time it takes (for `RESPONSES` its body may
    say otherwise). ``response``: the id of the
    response that it is about; ``asks``: the route of models that is asked in a form of our own, empty where any
    model may be, and the only route without one. ``direct``: it goes to
    workers as it is."""

    path: str
    methods: frozenset[str] = frozenset()
    ours: bool = False
    open: bool = False
    model: bool = False
    generation: bool = False
    websocket: bool = False
    response: str | None = None
    asks: str | None = None
    direct: bool = True

    def is_for_models(self, method: str) -> bool:
        """Whether it tells of models only, of those that there are for whoever asks."""
        return self.path == MODELS or (self.model and method in _GET_HEAD)

    def check(self, method: str) -> None:
        """Raises ProxyError (404, 405) for what is not passed on."""
        if not self.methods:
            raise ProxyError(404, f"no route {shown(self.path)}")
        if method not in self.methods:
            allowed = ", ".join(sorted(self.methods))
            message = f"{shown(self.path)} takes {allowed}, not {shown(method)}"
            raise ProxyError(405, message, headers={"Allow": allowed})


def shown(text: str) -> str:
    """What of a client's ``text``, a path for one, is repeated or written down."""
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"


def template(path: str) -> str:
    """What stands for ``path`` where there may not be one for each: names of routes and ids of responses are taken
    out."""
    if path.startswith("/v1/responses/"):
        return "/v1/responses/{id}"
    return "/v1/chat/{route}" if path not in _POST and _ROUTE_CHAT.fullmatch(path) else path


def of(path: str, further: frozenset[str] = frozenset()) -> Route:
    """``further``: paths that are passed on as well, with GET and POST."""
    if path in _OPEN or path == METRICS or path.startswith(_PROTECTED):
        return Route(path, ours=True, open=path in _OPEN, direct=False)
    if path.startswith(MODELS + "/") and not _STEPS.isdisjoint(path.lower().replace("%2e", ".").split("/")[3:]):
        return Route(path)
    if path.startswith(MODELS + "/"):
        return Route(path, ours=True, model=True, direct=False)
    if (path in _PAGE and path not in further) or path.startswith("/ui/"):
        return Route(path, ours=True, open=True, direct=False)
    methods = _ONLY_POST if path in _POST else frozenset()
    if path in NEUTRAL or path in WEBSOCKET:
        methods |= _GET_HEAD
    response = None
    if not methods and (match := _RESPONSE.fullmatch(path)):
        methods, response = _ONLY_POST if match[2] else _GET_HEAD, match[1]
    if path in further:
        methods |= _GET_HEAD | _ONLY_POST
    if not methods and (match := _ROUTE_CHAT.fullmatch(path)):
        return Route(path, _ONLY_POST, asks=match[1], direct=False)
    generation = path in _POST and path != "/ping"
    return Route(path, methods, generation=generation, websocket=path in WEBSOCKET, response=response)
