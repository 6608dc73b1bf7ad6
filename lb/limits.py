"""What the process may use, and what clients may of it, as its configuration and the machine have it."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable

from config.topology import BalancerConfig
from lb.admission.access.admin_guard import is_loopback
from lb.admission.allowance import Admission
from lb.admission.budget import BodyBudget
from lb.admission.concurrency import ConcurrencyLimits
from lb.admission.crowd import Crowd
from lb.downstream.cors import Cors
from lb.forwarding.caching.response_cache import ResponseCache
from lb.forwarding.collaborators import ForwardingSettings
from lb.protocol.fields.caps import Caps, CapsByTenant
from lb.protocol.messages import Limits
from lb.upstream.headers import FORWARDED, Trusted

log = logging.getLogger(__name__)


def raise_open_files() -> int:
    """As many open files as the system lets us have: every stream takes two. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


#: Files that are no connections of requests: logs, links, links to itself, the reserve of connections.
_OTHERS = 256


def most_connections() -> int:
    """Of clients, for whom there are open files: each may need one to a worker as well."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return max(16, (hard - _OTHERS) // 2)


def concurrency(config: BalancerConfig) -> ConcurrencyLimits:
    pairs = (pair.rpartition("=") for pair in config.per_adapter)
    return ConcurrencyLimits(
        config.max_concurrent, config.per_adapter_limit, {name: int(count) for name, _, count in pairs}
    )


def admission(config: BalancerConfig) -> Admission:
    most = min(config.max_connections, most_connections())
    if most < config.max_connections:
        log.debug("at most %d connections, as no more files may be open (ulimit -n)", most)
    limits = Limits(
        max_body=config.max_body, buffer=config.stream_buffer, connections=most, head=config.head_timeout,
        body=config.body_timeout, send=config.send_timeout, rate=config.min_client_rate, wait=config.queue_timeout,
    )  # fmt: skip
    trusted = Trusted(config.trusted_proxies)
    crowd = Crowd(
        most, config.max_client_connections or max(1, most // 2), config.max_client_uploads or max(1, most // 4),
        lambda peer: is_loopback(peer) or peer in trusted,
    )  # fmt: skip
    return Admission(limits, BodyBudget(config.max_buffered // config.processes, config.max_body), crowd)


def response_cache(config: BalancerConfig, clock: Callable[[], float]) -> ResponseCache | None:
    """None where no answers are kept."""
    size, ttl = config.response_cache_size, config.response_cache_ttl
    return None if size is None or ttl is None else ResponseCache(size, ttl, clock)


def cors(config: BalancerConfig) -> Cors | None:
    given = config.cors
    if given is None:
        return None
    return Cors(given.origins, given.methods, given.headers, given.credentials, given.expose)


def forwarding(config: BalancerConfig) -> ForwardingSettings:
    return ForwardingSettings(
        config.queue_timeout, Trusted(config.trusted_proxies), config.resume, config.migration_limit,
        config.stall_timeout, config.first_byte_timeout,
        FORWARDED | {name.encode() for name in config.forward_headers}, b"https" if config.tls else b"http",
        caps(config), bool(config.move_streams),
    )  # fmt: skip


def caps(config: BalancerConfig) -> CapsByTenant:
    caps = Caps(
        config.cap_n, config.cap_best_of, config.cap_tokens, config.cap_prompts, config.cap_logprobs, config.cap_depth,
        config.allow_chat_template, config.allow_chat_template_kwargs,
    )  # fmt: skip
    return CapsByTenant.of(caps, exposed=config.insecure)
