"""What balancers need that is not always installed: said in one line before they start, which would end them."""

from __future__ import annotations

from importlib.util import find_spec

from config.errors import UsageError

#: What an extra brings.
_TRACING = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_GRPC = ("grpc", "grpc_health", "grpc_reflection")


def check(otlp_endpoint: str | None, limits_store: str | None, grpc_port: int | None) -> None:
    """Raises UsageError for a setting whose extra is missing on this machine."""
    _require("--otlp-endpoint", otlp_endpoint, _TRACING, "OpenTelemetry", "otel")
    _require("--limits-store", limits_store, ("redis",), "Redis' client", "redis")
    _require("--grpc-port", grpc_port, _GRPC, "gRPC", "grpc")


def _require(flag: str, given: object, modules: tuple[str, ...], what: str, extra: str) -> None:
    if given and not _can_import(*modules):
        raise UsageError(f"{flag} needs {what}, which is not installed: pip install 'clusterctl[{extra}]'")


def _can_import(*modules: str) -> bool:
    """Whether an extra is installed; without importing it."""
    try:
        return all(map(find_spec, modules))
    except ModuleNotFoundError:
        return False
