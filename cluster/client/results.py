"""What the API answers. Times are seconds; ``at``, ``created`` and ``last_used`` since 1970. What is not required is
missing where no supervisor has said it yet. Answers may get further fields."""

# Without postponed annotations: what is required shows at run time only so.

from typing import Any, NotRequired, TypedDict


class Rolling(TypedDict):
    """A rolling restart; ``stopped`` says why it does not go on."""

    active: bool
    done: int
    total: int
    spare: str | None
    stopped: str


class Supervisor(TypedDict):
    """``pid`` is None where there is none; the rest is what it said last, ``age_s`` ago."""

    pid: int | None
    state_dir: str
    age_s: NotRequired[float | None]
    started_at: NotRequired[float]
    epoch: NotRequired[int]
    shutting_down: NotRequired[bool]
    settled: NotRequired[bool]
    unsaved: NotRequired[str | None]
    rolling: NotRequired[Rolling]


class BalancerProcess(TypedDict):
    pid: int | None
    restarts: NotRequired[int]
    in_flight: NotRequired[int]


class SharedLimits(TypedDict):
    """``reason``: why they are not ``shared``, empty if they are."""

    store: str
    shared: bool
    reason: str


class LoadBalancer(TypedDict):
    """``draining``: processes that were replaced and finish what they have."""

    pid: int
    in_flight: int
    restarts: int
    replacements: int
    replacing: bool
    standby: int | None
    processes: list[BalancerProcess]
    draining: list[BalancerProcess]
    failure: NotRequired[str]
    lost_requests: NotRequired[int]
    ends: NotRequired[dict[str, int]]
    limits: NotRequired[SharedLimits]


class LastExit(TypedDict):
    at: float
    pid: int
    code: int | None
    signal: int | None
    reason: str
    expected: bool
    log: list[str]


class Instance(TypedDict):
    """``managed``: started by this cluster; ``is_running``: takes new requests; ``degraded``: lacks an adapter."""

    managed: bool
    state: str
    spare: bool
    is_running: bool
    degraded: bool
    reason: str
    phase: str
    progress_s: float | None
    stalls: int
    host: str
    port: int | None
    weight: int
    pid: int | None
    gpus: list[int]
    restarts: int
    restarts_by: dict[str, int]
    started_at: NotRequired[float | None]
    start_seconds: NotRequired[float | None]
    uptime_s: float | None
    cpu_percent: float | None
    memory_mb: float | None
    tokens_total: float | None
    kv_cache_percent: float | None
    models: list[str]
    last_exit: LastExit | None
    in_flight: int
    requests_total: int
    errors_total: int
    cores: NotRequired[list[list[int]]]
    incarnation: NotRequired[int]
    ready_for_s: NotRequired[float | None]
    state_for_s: NotRequired[float]
    log: NotRequired[str | None]
    url: NotRequired[str]
    first_byte_ms: NotRequired[float]


class Autoscale(TypedDict):
    """``target`` workers are wanted by it, or would be; ``needed``: workers, and parts of one, that the load needs."""

    mode: str
    target: int | None
    needed: float | None
    reason: str
    min: NotRequired[int]
    max: NotRequired[int]
    requests_per_worker: NotRequired[float]
    in_flight: NotRequired[int]
    queued: NotRequired[int]
    unread_s: NotRequired[float]


class ClusterModel(TypedDict):
    """One of several. ``instances`` workers when it is up, ``wanted`` now. ``managed``: it can be unloaded. Times are
    seconds; ``retry_at`` and ``last_used`` since the epoch. ``swaps``: how often it was brought up, ``failures`` in a
    row."""

    name: str
    names: list[str]
    group: str
    path: str
    engine: str
    state: str
    why: str
    retry_at: float | None
    is_default: bool
    managed: bool
    pinned: bool
    priority: int
    idle_timeout: float | None
    on_demand: bool
    strategy: str | None
    instances: int
    wanted: int
    ready: int
    min: int
    max: int
    memory_bytes: int
    gpus: list[int]
    swaps: int
    failures: int
    in_flight: int
    waiting: int
    oldest_wait_s: float
    last_used: float | None
    adapters: list[str]


class ModelChanged(TypedDict):
    model: ClusterModel


class ModelUnloaded(TypedDict):
    """``adapters``: those of it, which have gone with it."""

    model_name: str
    state: str
    adapters: list[str]


class Status(TypedDict):
    """``total_instances`` are wanted, ``running_instances`` ready."""

    is_running: bool
    total_instances: int
    running_instances: int
    load_balancer_strategy: str
    engine: str | None
    model: str | None
    min_instances: int | None
    max_instances: int | None
    supervisor: Supervisor
    load_balancer: LoadBalancer
    instances: dict[str, Instance]
    autoscale: NotRequired[Autoscale]
    models: NotRequired[list[ClusterModel]]


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
    """``instances``: state by ready instance; ``unchecked``: what of it could not be checked, in words."""

    lora_name: str
    version: int
    state: str
    instances: dict[str, str]
    unchecked: NotRequired[list[str]]


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
