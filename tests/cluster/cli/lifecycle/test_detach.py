"""When `up --detach` waits no longer: as soon as nothing can become ready any more."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.cli.lifecycle.detach import hopeless


def _worker(state: str, **fields: Any) -> dict[str, Any]:
    return {"managed": True, "state": state, "is_running": state == "ready", "reason": "", "phase": "", **fields}


def _backend(state: str = "starting", **fields: Any) -> dict[str, Any]:
    return {**_worker(state), "managed": False, **fields}


def _snapshot(*instances: dict[str, Any], **balancer: Any) -> dict[str, Any]:
    return {
        "load_balancer": {"restarts": 0, "standby": None, **balancer},
        "instances": {str(number): instance for number, instance in enumerate(instances)},
    }


FAILED = _worker("failed", reason="crash loop")
SILENT = _backend(reason="/v1/models: no answer in 5 s")


@pytest.mark.parametrize("instances", [
    [FAILED, _worker("starting")], [FAILED, _worker("backoff")], [FAILED, _worker("ready")],
    [FAILED, _backend()],  # it has not been asked yet
    [FAILED, _backend(phase="loading adapters, waiting for the first token")],
    [FAILED, SILENT, _backend("ready")],
    [SILENT],  # somebody may be about to start it
    [],
])  # fmt: skip
def test_there_is_something_to_wait_for(instances: list[dict[str, Any]]) -> None:
    assert hopeless(_snapshot(*instances)) == ""


@pytest.mark.parametrize(("instances", "why"), [
    ([FAILED], "every worker has failed"),
    ([FAILED, FAILED], "every worker has failed"),
    ([FAILED, SILENT], "every worker has failed, and no other server answers"),
    ([FAILED, SILENT, _backend(reason="not ready: 404")], "every worker has failed, and no other server answers"),
    ([FAILED, _backend("unhealthy", reason="/health: 500")], "every worker has failed, and no other server answers"),
])  # fmt: skip
def test_nothing_can_become_ready_any_more(instances: list[dict[str, Any]], why: str) -> None:
    assert hopeless(_snapshot(*instances)) == why


@pytest.mark.parametrize(("restarts", "standby", "over"), [(0, None, False), (4, None, False), (5, None, True),
                                                           (9, 4711, False)])  # fmt: skip
def test_nobody_waits_for_a_balancer_that_does_not_come_up(restarts: int, standby: int | None, over: bool) -> None:
    """A standby is there only where one has served."""
    why = hopeless(_snapshot(_worker("ready"), restarts=restarts, standby=standby))
    assert why.startswith("the load balancer does not come up") == over
