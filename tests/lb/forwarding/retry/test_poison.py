"""What a request has done to workers."""

from __future__ import annotations

from lb.forwarding.retry.poison import Record


def test_a_worker_is_suspected_once_and_only_if_the_request_may_have_been_its_end() -> None:
    record = Record()
    record.failed(("instance_0", 1), made_nothing=False, alone=False)
    assert len(record) == 0
    record.failed(("instance_0", 1), made_nothing=True, alone=False)
    record.failed(("instance_0", 1), made_nothing=True, alone=True)
    record.failed(("instance_1", 1), made_nothing=False, alone=True)
    assert list(record) == [("instance_0", 1), ("instance_1", 1)]
