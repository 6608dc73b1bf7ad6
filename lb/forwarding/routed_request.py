"""A request on its way to workers: what it asks for, and what of that any of them is asked."""

from __future__ import annotations

import functools
from urllib.parse import parse_qsl

from config import replay
from lb.admission.concurrency import Claim
from lb.forwarding import features
from lb.forwarding.collaborators import Collaborators
from lb.forwarding.early_head import EarlyHead
from lb.forwarding.relay import Relay
from lb.forwarding.resume import plan
from lb.forwarding.resume.follow.plan import MESSAGES, FollowPlan
from lb.forwarding.resume.followed import FollowedStream
from lb.forwarding.resume.transcript import StreamTranscript
from lb.protocol import body as request_body
from lb.protocol import responses, sagemaker
from lb.protocol.errors import ProxyError
from lb.protocol.facts import MOST_NAME, Facts
from lb.protocol.messages import Request
from lb.protocol.routes import INVOCATIONS, NEUTRAL, RESPONSES, Route
from lb.protocol.tenant import ANYBODY
from lb.routing.router import Pinned
from lb.routing.strategies.base import RequestInfo
from lb.telemetry.model_metrics import RequestRecorder

#: Routes whose streams are read along.
_STREAMS = ("/v1/completions", "/v1/chat/completions", MESSAGES, RESPONSES)


class RoutedRequest:
    """``path``: the one that the client asked, if that is not ``route``'s. ``came``: s, monotonic.
    ``generation``: its answer takes long to make and can be made again. ``body`` and ``target``: what workers are
    asked, where that is not the client's own, and ``replays`` whether it has tokens before it; ``extra_field``: one
    more line of its head.
    ``pinned``: the one worker that can answer it; ``root``: the version of the model that its stream began with;
    ``broken``: the relay whose stream is being continued; ``early``: the head that goes out before a worker is asked;
    ``claim``: once it has asked for a worker. ``info``, ``recorder`` and ``came`` are there once ``is_read``.

    Two attributes more than a class should have: each is one fact of the request."""

    # Defaults stand here and not in `__init__`: most requests are over without any of them being set.
    path = ""
    transcript: StreamTranscript | FollowedStream | None = None
    body: bytes | None = None
    target: bytes | None = None
    extra_field = b""
    pinned: Pinned | None = None
    root: str | None = None
    broken: Relay | None = None
    early: EarlyHead | None = None
    claim: Claim | None = None
    websocket = is_read = replays = False

    info: RequestInfo
    recorder: RequestRecorder
    came: float

    def __init__(self, request: Request, route: Route) -> None:
        self.request, self.route = request, route
        upload = request.upload
        self.generation = route.generation and (upload is None or upload.kept)

    def read(self, parts: Collaborators) -> str | None:
        """Finds out what it is about, and counts it; the response that it asks for or goes on from. Raises
        ProxyError."""
        request, route, pool = self.request, self.route, parts.pool
        head = request.head
        if head.content_type.lower().startswith(replay.CONTENT_TYPE):
            raise ProxyError(415, "no client's body is of that type")  # workers take it from us
        if route.websocket:
            self.websocket = head.upgrade and (head.find(b"upgrade") or "").lower() == "websocket"
        caps = parts.settings.caps
        facts = request.facts or request_body.facts(
            request.body, head.content_type, previous=route.path == RESPONSES,
            caps=caps.anybody if request.tenant is ANYBODY else caps.keyed,
        )  # fmt: skip
        model = named = facts.model
        if route.path == INVOCATIONS:
            named = sagemaker.model(head, model)
            if (model := self._canonical(parts, named, model)) is not None:
                self.extra_field = sagemaker.field(model)
        elif model is not None and ":" in model:
            model = self._canonical(parts, model, model)
        chosen = None
        if not pool.knows(model):
            model, chosen = self._choose(parts, model, named, facts)
        elif (models := request.tenant.models) is not None and (route.websocket or model not in models):
            self._check_model(parts, models, model, named)
        self.info, self.came = RequestInfo(model, self.path or route.path, request.id), parts.clock()
        if chosen is not None:
            self.info.asked, self.info.chosen = named, chosen
        self.info.first_name = served = pool.first_name(model)
        if parts.router.needs:
            self.info.features = features.of(request, served, pool.registered, parts.router.needs, facts.stream)
        self.recorder = parts.metrics.models.begin(served)
        if request.tenant is not ANYBODY:
            self.recorder.reads_usage = True
        self.is_read = True
        parts.budget.request(self.came)
        if route.path == RESPONSES and request.tenant.mark:
            parts.responses.sign(request.tenant.mark, request)
        if facts.stream and route.path in _STREAMS and request.upload is None and request_body.is_light(request.body):
            self._read_along(parts, route.path)
        if pool.registered:
            parts.accounting.touch(model)
        if pool.offered.models:
            parts.demand.asked(model)
        return facts.previous if route.path == RESPONSES else route.response

    def _choose(
        self, parts: Collaborators, model: str | None, named: str | None, facts: Facts
    ) -> tuple[str, str]:
        """The model that the route or alias ``model`` chooses, and why. Raises ProxyError (404, 400)."""
        request, choice = self.request, parts.choices.choose(self.request, model, named)
        if facts.model is not None:
            is_known = request.facts is None and facts.names is None
            body = request_body.with_model_at_once(request.body, facts, choice.model) if is_known else None
            if body is None:
                request.rename(choice.model)
            else:
                request.body = body
        if self.route.path == INVOCATIONS:
            self.extra_field = sagemaker.field(choice.model)
        return choice.model, choice.reason

    def _check_model(
        self, parts: Collaborators, models: frozenset[str], model: str | None, named: str | None
    ) -> None:
        """Whether there is such a model for whoever may ask for those ``models`` only. Raises ProxyError: 404 as for
        one that nobody has, by the name that it was ``named`` by; 403 over a WebSocket."""
        route = self.route
        if route.websocket:
            self._check_websocket(parts, models)
        elif route.response is None and route.path not in NEUTRAL and not parts.pool.offers(model, models):
            raise parts.router.unknown(named, models)

    def _check_websocket(self, parts: Collaborators, models: frozenset[str]) -> None:
        """vLLM's answers over a WebSocket are the base model's, whatever adapter a message or the query names; what
        those of a server that was not started here are, nobody knows. Raises ProxyError (403, 404)."""
        pool = parts.pool
        if not pool.backends or not all(backend.spec.managed for backend in pool.backends.values()):
            raise ProxyError(403, "this key is bound to models, and over a WebSocket any could be named")
        query = parse_qsl(self.request.head.target.partition("?")[2])
        named = [value for name, value in query if name == "model"]
        if unknown := [name for name in named if name not in models]:
            raise parts.router.unknown(unknown[0][:MOST_NAME], models)
        if not all(pool.offers(None, frozenset((name,))) for name in named) or not pool.offers(None, models):
            raise ProxyError(403, "over a WebSocket the base model answers: this key has to be for it, and it named")

    def _canonical(self, parts: Collaborators, model: str | None, in_body: str | None) -> str | None:
        """The plain name of ``model``, which is the one that counts. A body that names another is made to name it, but
        not what stands for another."""
        model = parts.pool.canonical(model)
        if model is not None and in_body is not None and model != in_body and model not in parts.pool.named:
            self.request.rename(model)
        return model

    def _read_along(self, parts: Collaborators, path: str) -> None:
        """A stream: what comes of it is written down, so that another worker can go on with it."""
        body, recorder = self.request.body, self.recorder
        if path in (MESSAGES, RESPONSES):
            if parts.settings.resume and self.is_idempotent:
                self.transcript = FollowedStream(FollowPlan(path, body), recorder)
            return
        replays = any(backend.spec.capabilities.replay for backend in parts.pool.backends.values())
        wanted = plan.read(body, chat=path != _STREAMS[0], resume=parts.settings.resume, replays=replays)
        if wanted.follows:
            self.transcript = followed = FollowedStream(FollowPlan(path, body, known=wanted.request()), recorder)
            recorder.tokens = followed.count
            return
        self.transcript = transcript = StreamTranscript(wanted, recorder, parts.builds.of(self.info.model))
        self.body, recorder.tokens, recorder.exact = wanted.body, transcript.tokens.count, wanted.ids

    @functools.cached_property
    def is_stream(self) -> bool:
        """Whether a stream was asked for; looked up for those only that take long."""
        request = self.request
        if self.transcript is not None:
            return True
        if request.upload is not None:
            return False
        return (request.facts or request_body.facts(request.body, request.head.content_type)).stream

    @property
    def is_idempotent(self) -> bool:
        """Whether nothing but time is lost if it is made twice."""
        if self.route.path != RESPONSES or self.request.head.method != "POST":
            return self.route.generation or self.request.head.method != "POST"
        if self.request.upload is not None:
            return False  # its body is in pieces, and ``body`` the first of them: what stands behind it cannot be told
        body = self.request.body
        return responses.may_be_repeated(body, request_body.is_light(body))
