"""What the API answers; of the whole cluster: `cluster.client.status`. Times are seconds; ``at``, ``created`` and
``last_used`` since 1970. What is not required is missing where no supervisor has said it yet. Answers may get further
fields."""

# Without postponed annotations: what is required shows at run time only so.

from typing import Any, NotRequired, TypedDict

from cluster.client.job_results import Job as Job
from cluster.client.job_results import JobDetails as JobDetails
from cluster.client.job_results import JobEvents as JobEvents
from cluster.client.job_results import JobProgress as JobProgress
from cluster.client.job_results import JobsSeen as JobsSeen
from cluster.client.status import Autoscale as Autoscale
from cluster.client.status import BalancerProcess as BalancerProcess
from cluster.client.status import ClusterModel as ClusterModel
from cluster.client.status import Instance as Instance
from cluster.client.status import LastExit as LastExit
from cluster.client.status import LoadBalancer as LoadBalancer
from cluster.client.status import Rolling as Rolling
from cluster.client.status import SharedLimits as SharedLimits
from cluster.client.status import Status as Status
from cluster.client.status import Supervisor as Supervisor


class ModelChanged(TypedDict):
    model: ClusterModel


class ModelUnloaded(TypedDict):
    """``adapters``: those of it, which have gone with it."""

    model_name: str
    state: str
    adapters: list[str]


class Scaled(TypedDict):
    """``desired`` workers are wanted, ``current`` are ready now."""

    desired: int
    current: int


class StrategySet(TypedDict):
    strategy: str
    model: NotRequired[str]


class Restarting(TypedDict):
    restarting: list[str]
    rolling: bool
    spare: NotRequired[str | None]


class Drained(TypedDict):
    """``ready``: how many workers take new requests; ``grace`` in seconds."""

    instance_id: str
    drained: bool
    ready: int
    grace: NotRequired[float]


class Weighted(TypedDict):
    instance_id: str
    weight: int


class Change(TypedDict):
    """One setting; ``effect`` says in words what it does to the cluster."""

    setting: str
    old: Any
    new: Any
    effect: str


class Applied(TypedDict):
    """``refused``: only in a dry run, why it would be."""

    changes: list[Change]
    refused: str | None
    dry_run: bool
    spare: str | None
    restarting: list[str]


class ShuttingDown(TypedDict):
    shutting_down: bool


class UiLink(TypedDict):
    """``code`` opens the page once, as ``/ui/#code=…``, within ``expires_in`` seconds."""

    code: str
    expires_in: float


class Event(TypedDict):
    """``kind`` stays the same when the words of ``text`` change."""

    id: int
    at: float
    subject: str
    kind: str
    text: str
    data: dict[str, Any]


class AdapterOnInstance(TypedDict):
    state: str
    version: int | None
    reason: str


class Adapter(TypedDict):
    """``version`` is the active one, ``size`` in bytes; ``instances`` are those that are ready."""

    lora_name: str
    version: int
    state: str
    description: str
    rank: int
    size: int
    base_model: str | None
    auto_load: bool
    instances: dict[str, AdapterOnInstance]
    requests_total: int
    errors_total: int
    last_used: float | None


class AdapterVersion(TypedDict):
    version: int
    hash: str
    rank: int
    target_modules: list[str]
    base_model: str | None
    source: str
    size: int
    created: float
    active: bool


class AdapterDetail(Adapter):
    versions: list[AdapterVersion]


class AdapterChanged(TypedDict):
    """``instances``: state by ready instance; ``unchecked``: what of it could not be checked, in words; ``converted``:
    what was done to make it what the engine loads."""

    lora_name: str
    version: int
    state: str
    instances: dict[str, str]
    unchecked: NotRequired[list[str]]
    converted: NotRequired[list[str]]


class AdapterUnloaded(TypedDict):
    lora_name: str
    state: str


class AuditChange(TypedDict):
    what: str
    before: Any
    after: Any


#: A change that was asked for (`who`, `changed`), or refusals that are alike (`reason`, `count`). ``at``: seconds since
#: the epoch; ``from``: an address, or ``socket``.
AuditEntry = TypedDict("AuditEntry", {
    "id": int, "at": float, "seal": str, "who": NotRequired[str], "from": NotRequired[str],
    "method": NotRequired[str], "path": NotRequired[str], "status": NotRequired[int],
    "changed": NotRequired[list[AuditChange]], "reason": NotRequired[str], "count": NotRequired[int],
})  # fmt: skip


class Audit(TypedDict):
    """``broken_at``: where the chain of seals does not hold, None where it does; only if that was asked for."""

    entries: list[AuditEntry]
    broken_at: NotRequired[int | None]


class RouteRule(TypedDict):
    model: str
    keywords: NotRequired[list[str]]
    pattern: NotRequired[str]


class Route(TypedDict):
    rules: list[RouteRule]
    default: str


class Alias(TypedDict):
    """``sides``: weights by model."""

    sides: dict[str, float]
    shadow: bool


class NameChanged(TypedDict):
    """``now``: what the name stands for; None: nothing."""

    name: str
    now: Route | Alias | None


class RouteChoice(TypedDict):
    """``reason``: the rule that fits, and by what."""

    model: str
    reason: str


class KeySecret(TypedDict):
    """One that holds; ``until``: None as long as its key."""

    until: float | None


class Key(TypedDict):
    """An API key. ``source``: made on the cluster (``state``) or standing in a ``file``; ``secrets``: those that
    hold."""

    name: str
    scope: str
    models: list[str] | None
    rpm: int | None
    tpm: int | None
    max_concurrent: int | None
    priority: str
    weight: float
    expires: float | None
    budget: str | None
    created: float
    expired: bool
    source: str
    secrets: list[KeySecret]


class KeyWithSecret(Key):
    secret: str


class UsageRow(TypedDict):
    """``cached_tokens``: those of the prompts that had been read before. Of ``key``, ``model`` and ``day`` (ISO 8601)
    what it was asked by."""

    key: NotRequired[str]
    model: NotRequired[str]
    day: NotRequired[str]
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


Usage = TypedDict("Usage", {"from": str, "to": str, "by": list[str], "usage": list[UsageRow]})


class KeyRevoked(TypedDict):
    name: str
    revoked: bool


class JoinedBalancer(TypedDict):
    """A machine that has joined. ``address`` and ``in_flight``: while it is connected; ``age_s``: since it joined."""

    name: str
    connected: bool
    address: str | None
    in_flight: int | None
    age_s: float


class NewJoinToken(TypedDict):
    """``expires``: s since the epoch; ``port``: where machines join."""

    id: str
    token: str
    port: int
    expires: float


class Model(TypedDict):
    """``parent``: of an adapter, its base model."""

    id: str
    object: NotRequired[str]
    created: NotRequired[int]
    owned_by: NotRequired[str]
    root: NotRequired[str | None]
    parent: NotRequired[str | None]
    max_model_len: NotRequired[int | None]
    permission: NotRequired[list[dict[str, Any]]]


class InstanceHealth(TypedDict):
    healthy: bool
    state: str
    reason: str
    degraded: bool


class SystemHealth(TypedDict):
    """``status``: healthy, degraded or unhealthy."""

    status: str
    ready: int
    total: int
    supervisor: bool
    load_balancer: bool
    instances: dict[str, InstanceHealth]


class InstanceMetrics(TypedDict):
    requests_total: int
    errors_total: int
    success_rate: float | None
    mean_latency_ms: float | None
    active_connections: int
    healthy: bool
    state: str
    cpu_percent: float | None
    memory_mb: float | None
    traffic_share: float


class SystemMetrics(TypedDict):
    requests_total: int
    errors_total: int
    active_connections: int
    instances: dict[str, InstanceMetrics]
