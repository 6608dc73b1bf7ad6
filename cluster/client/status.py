"""What the API says of the whole cluster (`cluster.client.results` has its other answers)."""

# Without postponed annotations: what is required shows at run time only so.

from typing import NotRequired, TypedDict

from cluster.client.job_results import JobsSeen


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


class JoinedMachineStatus(TypedDict):
    """Of a machine with balancers of its own: ``revision`` of the backend set that it goes by."""

    name: str
    address: str
    in_flight: int
    revision: int


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
    state_dir: NotRequired[str]
    failure: NotRequired[str]
    lost_requests: NotRequired[int]
    joined: NotRequired[list[JoinedMachineStatus]]
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
    node: NotRequired[str | None]
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
    origin: NotRequired[str]
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
    learnt: NotRequired[bool]
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


class ZygoteProcess(TypedDict):
    """``reason``: why it forks none."""

    name: str
    pid: int | None
    ready: bool
    memory_mb: float
    restarts: int
    reason: str


class Zygote(TypedDict):
    """What workers are forked from. ``plain``: why they are not, empty if they are."""

    mode: str
    plain: str
    processes: list[ZygoteProcess]


class ServerList(TypedDict):
    """Where other servers are listed. ``missing``: those that the latest list has not, and that stay for now;
    ``failure``: why it cannot be asked, empty if it can; ``age_s``: seconds since it was last heard."""

    source: str
    servers: int
    missing: int
    left_out: str
    failure: str
    age_s: float | None


class Node(TypedDict):
    """On which workers run. ``state``: up, lost, or waiting (not heard of yet); ``heard_s``: seconds since its agent's
    last word, from which on workers go on for ``lease_s``; GPUs as Ray counts them, None where nobody has said it."""

    name: str
    host: str
    state: str
    heard_s: float
    lease_s: float
    agent: str
    gpus: float | None
    free_gpus: float | None
    instances: list[str]


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
    wanted_strategy: NotRequired[str]
    autoscale: NotRequired[Autoscale]
    zygote: NotRequired[Zygote]
    jobs: NotRequired[JobsSeen]
    discovery: NotRequired[list[ServerList]]
    nodes: NotRequired[list[Node]]
    models: NotRequired[list[ClusterModel]]
