"""What the requests of one balancer share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from config.aio import Tasks
from lb.admission.model_demand import ModelDemand
from lb.admission.request_admission import RequestAdmission
from lb.forwarding.accounting import Accounting
from lb.forwarding.model_choice import ModelChoices
from lb.forwarding.response_finder import ResponseFinder
from lb.forwarding.resume.plan import Builds
from lb.forwarding.retry.poison import PoisonRules
from lb.forwarding.retry.retry_budget import RetryBudget
from lb.protocol.fields.caps import NONE_AT_ALL, CapsByTenant
from lb.records.decision_log import DecisionLog
from lb.records.loss_report import LossReport
from lb.routing.pool import Pool
from lb.routing.router import Router
from lb.telemetry.metrics import Metrics
from lb.upstream.client import WorkerClient
from lb.upstream.connections import Upstream
from lb.upstream.headers import FORWARDED, Trusted


@dataclass(frozen=True, slots=True)
class ForwardingSettings:
    """Times are seconds; ``migration_limit`` is how often one request may be moved or made again;
    ``move_streams``: also to free a slot for an adapter.
    ``forwarded_headers``: the names, lower case, of the client's fields that backends get; ``scheme``: what clients
    speak to us; ``caps``: the most that they may ask for."""

    queue_timeout: float
    trusted: Trusted
    resume: bool = True
    migration_limit: int = 3
    stall_timeout: float = 10.0
    first_byte_timeout: float = 0.0
    forwarded_headers: frozenset[bytes] = FORWARDED
    scheme: bytes = b"http"
    caps: CapsByTenant = NONE_AT_ALL
    move_streams: bool = False


@dataclass(frozen=True, slots=True)
class Collaborators:
    """``clock``: s, monotonic."""

    settings: ForwardingSettings
    pool: Pool
    router: Router
    choices: ModelChoices
    admission: RequestAdmission
    demand: ModelDemand
    upstream: Upstream
    client: WorkerClient
    accounting: Accounting
    metrics: Metrics
    decision_log: DecisionLog
    losses: LossReport
    responses: ResponseFinder
    poison: PoisonRules
    budget: RetryBudget
    builds: Builds
    tasks: Tasks
    clock: Callable[[], float]
