"""What a request has done to workers."""

from __future__ import annotations

from lb.forwarding.retry.poison import Record


def test_a_worker_is_suspected_once() -> None:
    record = Record()
    for incarnation in (1, 1, 2):
        record.failed(("instance_0", incarnation))
    assert list(record) == [("instance_0", 1), ("instance_0", 2)]
