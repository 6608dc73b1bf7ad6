"""The supervisor's times as series, alike in every balancer process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from lb.admin.recovery_metrics import NAMES, RecoverySeries
from lb.telemetry.exposition import samples

_SEEN = {
    "bounds": [0.5, 1.0],
    "detect": {"exit": {"count": 2, "sum": 0.25, "max": 0.2, "buckets": [2, 0, 0]}},
    "restore": {"exit": {"count": 3, "sum": 5.0, "max": 3.0, "buckets": [1, 1, 1]}},
}


def _rendered(seen: dict[str, object]) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RecoverySeries(lambda: seen))
    return generate_latest(registry).decode()


def test_they_are_histograms_by_cause() -> None:
    lines = _rendered(_SEEN).splitlines()
    assert "# TYPE clusterctl_detect_seconds histogram" in lines
    for line in (
        'clusterctl_detect_seconds_bucket{cause="exit",le="0.5"} 2.0',
        'clusterctl_restore_seconds_bucket{cause="exit",le="0.5"} 1.0',
        'clusterctl_restore_seconds_bucket{cause="exit",le="1.0"} 2.0',
        'clusterctl_restore_seconds_bucket{cause="exit",le="+Inf"} 3.0',
        'clusterctl_restore_seconds_count{cause="exit"} 3.0',
        'clusterctl_restore_seconds_sum{cause="exit"} 5.0',
    ):
        assert line in lines


def test_several_balancers_do_not_add_them_up() -> None:
    text = _rendered(_SEEN)
    assert samples([text, text], NAMES)['clusterctl_restore_seconds_count{cause="exit"}'] == 3.0


def test_before_the_first_snapshot_there_are_none() -> None:
    assert "{" not in _rendered({})
