"""The contract between supervisor and balancer: what the balancer may send traffic to, as of one revision.

The supervisor is the only writer. It pushes a whole `BackendSet`, or what of it is new, on every change; the balancer
replaces what it had if the revision is newer. Everything the balancer needs to go on alone after the supervisor's
death is in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

#: What the supervisor says of a worker, and of an adapter on a worker.
READY = "ready"
#: As good as ready, but sent nothing until it takes the place of another worker.
SPARE = "spare"
STATES = (
    "starting", READY, SPARE, "unhealthy", "draining", "drained", "asleep", "stopping", "stopped", "backoff", "failed",
)  # fmt: skip
ADAPTER_STATES = ("loaded", "loading", "refused", "lazy")

#: States in which the balancer may start new requests on a backend / lets running ones finish. A backend in any
#: other state has lost its worker, or (``drained``) is to be left alone although it lives: what still runs there has to
#: go on elsewhere, or is ended with an explicit error.
TAKES_NEW = frozenset({READY})
KEEPS_RUNNING = frozenset({READY, SPARE, "unhealthy", "draining"})

#: States out of which a backend gets back into rotation by itself, so that waiting for it is worth while. Out of
#: ``drained`` it is brought by a person.
MAY_RECOVER = frozenset({
    "starting", READY, SPARE, "unhealthy", "draining", "asleep", "stopping", "backoff", "stopped",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do beyond answering requests. The defaults are vLLM's, and what is assumed of a backend that
    nothing is said of. ``lora``: adapters can be loaded and unloaded while it runs. ``token_ids``: it tells the ids of
    the tokens it makes and goes on from such ids, ``detokenize``: it says their text; a broken stream needs both to go
    on there from the middle. ``replay``: it makes given tokens once more before others (`config.replay`). ``progress``:
    its metrics tell whether it makes steps. ``embeddings``: a model of it may make vectors or classes in place of
    text. ``sleep``: started with `worker.spec.SLEEP_FLAG` it can give a GPU's memory back without ending."""

    lora: bool = True
    token_ids: bool = True
    detokenize: bool = True
    replay: bool = False
    progress: bool = True
    embeddings: bool = True
    sleep: bool = True


_USUAL = Capabilities()


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """One upstream. ``incarnation`` changes with every start of the worker: what was in flight on the one before
    is not in flight on this one. ``host`` is its name, ``ip`` what that name resolved to (no look-up is made on the
    request path). ``models`` are the model cards its ``/v1/models`` answered; while it has not answered yet,
    ``expected`` has the names it is going to serve; both empty: not known yet. ``seats``: requests
    that it computes at a time, ``slots``: adapters, None: not known. More would wait there, out of order. ``places``:
    adapters that it keeps in memory; None: not known. ``group``: of the workers that are alike."""

    id: str
    incarnation: int
    state: str
    scheme: str
    host: str
    port: int
    ip: str = ""
    path: str = ""
    weight: int = 1
    managed: bool = True
    api_key: str | None = field(default=None, repr=False)
    models: tuple[dict[str, Any], ...] = ()
    expected: tuple[str, ...] = ()
    capabilities: Capabilities = Capabilities()
    seats: int | None = None
    slots: int | None = None
    places: int | None = None
    group: str = "default"

    @property
    def address(self) -> str:
        """``scheme://host:port/prefix`` without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def to_json(self) -> dict[str, Any]:
        """Capabilities only where they differ from the usual: a balancer of an earlier version knows none."""
        made = _shallow(self)
        if self.capabilities == _USUAL:
            del made["capabilities"]
        else:
            made["capabilities"] = _shallow(self.capabilities)
        return made


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A base model of a cluster that has several: served by the workers of ``group`` under ``names``, loaded or not.
    ``state`` is one of `MODEL_STATES`; ``why`` tells of the latest start that failed, and ``retry_at`` (s since the
    epoch) when the next may be made. A request for it may wait ``wait`` seconds until it is up. ``strategy``: how its
    workers are chosen from; "": as in the whole cluster. ``is_default``: it answers requests that name no model."""

    name: str
    names: tuple[str, ...]
    group: str
    state: str
    wait: float
    strategy: str = ""
    why: str = ""
    retry_at: float = 0.0
    is_default: bool = False


#: Of a model: its workers answer; come up; sleep (in memory, woken in seconds); go; are not there, and come when it is
#: asked for; are not there, as the latest start failed.
MODEL_STATES = ("up", "starting", "asleep", "stopping", "down", "failed")


@dataclass(frozen=True, slots=True)
class BackendSet:
    """All upstreams at one revision. ``registered``: the model cards of all adapters, held by a worker or not.
    ``names``: routes and aliases, as `config.model_names` writes them. ``homes``: by adapter, the workers where it
    belongs, while not all hold all; ``ranks``: of adapters. ``models``: the base models, where there may be several.
    ``epoch`` is the supervisor's run: a later supervisor starts a new epoch, so
    that its revision 1 is newer than its predecessor's revision 900."""

    epoch: int
    revision: int
    strategy: str
    backends: tuple[BackendSpec, ...] = ()
    shutting_down: bool = False
    registered: tuple[dict[str, Any], ...] = ()
    names: dict[str, Any] = field(default_factory=dict)
    homes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    models: tuple[OfferedModel, ...] = ()

    @property
    def version(self) -> tuple[int, int]:
        return (self.epoch, self.revision)

    def to_json(self, row: Callable[[BackendSpec], dict[str, Any]] | None = None) -> dict[str, Any]:
        """Names, homes, ranks and models only if there are any: a balancer of an earlier version knows none. ``row``
        makes that of one backend in place of `BackendSpec.to_json`."""
        made = {
            **_shallow(self), "backends": [(row or BackendSpec.to_json)(spec) for spec in self.backends],
            "models": [_shallow(model) for model in self.models],
        }
        for later in ("names", "homes", "ranks", "models"):
            if not made[later]:
                del made[later]
        return made

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BackendSet:
        """Inverse of `to_json`; what a later version says beside that is left out. Raises KeyError/
        TypeError for anything else."""
        backends = tuple(
            BackendSpec(**{
                **_known(BackendSpec, b), "models": tuple(b["models"]), "expected": tuple(b["expected"]),
                "capabilities": Capabilities(**_known(Capabilities, b.get("capabilities", {}))),
            })
            for b in data["backends"]
        )  # fmt: skip
        homes = {name: tuple(ids) for name, ids in data.get("homes", {}).items()}
        models = tuple(
            OfferedModel(**{**_known(OfferedModel, model), "names": tuple(model["names"])})
            for model in data.get("models", ())
        )
        return cls(**{
            **_known(BackendSet, data), "backends": backends, "registered": tuple(data["registered"]), "homes": homes,
            "models": models,
        })  # fmt: skip


@dataclass(frozen=True, slots=True)
class CorsConfig:
    """Which cross-origin requests of browsers are allowed; "*" for any. ``expose``: fields of answers, besides those of
    the Fetch standard, that a page may read."""

    origins: tuple[str, ...]
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False
    expose: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: a certificate and its chain; its private key; the authorities whose client certificates are asked
    for."""

    cert: str
    key: str
    client_ca: str | None = None


@dataclass(frozen=True, slots=True)
class BalancerConfig:
    """What a balancer process is started with, one of ``processes``. The listening sockets come as inherited
    descriptors: HTTP's and, where it is spoken, gRPC's. ``may_be_joined``: there may be balancers on other machines.
    ``max_buffered`` is for all ``processes`` together; without
    ``response_cache_size`` (bytes, of each) no answers are kept."""

    listen_fd: int
    state_dir: str
    host: str
    port: int
    queue_timeout: float
    admin_key: str | None = field(default=None, repr=False)
    log_level: str = "info"
    processes: int = 1
    may_be_joined: bool = False
    max_body: int = 64 * 1024 * 1024
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    extra_routes: tuple[str, ...] = ()
    max_connections: int = 10_000
    head_timeout: float = 10.0
    body_timeout: float = 60.0
    stream_buffer: int = 256 * 1024
    resume: bool = True
    migration_limit: int = 3
    stall_timeout: float = 10.0
    first_byte_timeout: float = 30.0
    log_format: str = "text"
    access_log: str = "errors"
    log_prompts: bool = False
    otlp_endpoint: str | None = None
    forward_headers: tuple[str, ...] = ()
    protect_metrics: bool = False
    max_buffered: int = 1024 * 1024 * 1024
    send_timeout: float = 60.0
    min_client_rate: float = 500.0
    max_client_connections: int | None = None
    max_client_uploads: int | None = None
    max_concurrent: int | None = None
    per_adapter_limit: int | None = None
    per_adapter: tuple[str, ...] = ()
    max_queue: int = 10_000
    max_queue_wait: float = 600.0
    cors: CorsConfig | None = None
    tls: TlsFiles | None = None
    cap_n: int = 128
    cap_best_of: int = 128
    cap_tokens: int | None = None
    cap_prompts: int = 2048
    cap_logprobs: int | None = None
    cap_depth: int = 200
    allow_chat_template: bool = False
    allow_chat_template_kwargs: bool = True
    anonymous_models: tuple[str, ...] = ()
    insecure: bool = False
    limits_store: str | None = field(default=None, repr=False)
    grpc_fd: int | None = None
    response_cache_size: int | None = None
    response_cache_ttl: float | None = None
    move_streams: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """What is not used is left out where a balancer of an earlier version does not know it."""
        return {name: value for name, value in asdict(self).items() if value is not None or name not in _LATER}

    def digest(self) -> str:
        """The same for the same settings, whatever the descriptor."""
        same = replace(self, listen_fd=-1, grpc_fd=None if self.grpc_fd is None else -1)
        settings = json.dumps(same.to_json(), sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BalancerConfig:
        given = _tuples(data)
        cors, tls = given.pop("cors", None), given.pop("tls", None)
        return cls(
            **given, cors=None if cors is None else CorsConfig(**_tuples(cors)),
            tls=None if tls is None else TlsFiles(**tls),
        )  # fmt: skip


_LATER = frozenset({"tls", "limits_store", "grpc_fd", "response_cache_size", "response_cache_ttl", "move_streams"})


def _shallow(values: Any) -> dict[str, Any]:
    """`dataclasses.asdict` without its copies of what is in there: of a thousand backends those take a tenth of a
    second, after every change, and nobody changes what a set holds."""
    return {name: getattr(values, name) for name in values.__slots__}


def _known(kind: type[BackendSet | BackendSpec | Capabilities | OfferedModel], data: dict[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in kind.__slots__ if name in data}


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}


#: The one that adapters are placed for.
ADAPTIVE = "adaptive"

#: What a cluster may be told instead: `adaptive` while adapters outnumber the slots of an engine, the default else.
AUTO_STRATEGY, PLAIN = "auto", "least_connections"

#: The strategies' names live in the contract: the command line must know them without importing the balancer.
STRATEGIES = (
    "round_robin",
    PLAIN,
    "weighted",
    "random",
    "response_time",
    "power_of_two",
    ADAPTIVE,
    "adapter_affinity",
    "prefix_affinity",
)
