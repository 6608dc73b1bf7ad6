"""What balancers are told, and what those are told that come later."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from cluster.balancers.feed import Feed
from cluster.joining.machine import JoinedMachine


class Written:
    """Of a connection: what was written, and what lies in it unread."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.unread, self.aborted, self.transport = 0, False, self

    def write(self, data: bytes) -> None:
        self.lines.append(data)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.aborted = True


def _machine(written: Written, here: bool = False) -> JoinedMachine:
    return JoinedMachine("lb", "10.0.0.6", here, written, 0.0)  # type: ignore[arg-type]


def test_who_comes_later_is_told_whether_the_supervisor_can_be_reached() -> None:
    feed = Feed()
    feed.publish({"epoch": 1}, {"sequence": [1, 1]}, {"type": "keys"})

    def kinds() -> list[Any]:
        return [message["type"] for message in feed.latest()]

    assert kinds() == ["keys", "set", "snapshot", "events"]
    feed.presence(False)
    assert kinds() == ["keys", "set", "snapshot", "events", "supervisor"]
    feed.presence(True)
    assert kinds() == ["keys", "set", "snapshot", "events"]


def test_a_machine_is_told_of_workers_that_it_reaches() -> None:
    backends: Mapping[str, Any] = {"epoch": 1, "backends": [{"id": "a", "host": "127.0.0.1"}]}
    for here, told in ((True, b'"a"'), (False, b'"backends":[]')):
        written = Written()
        _machine(written, here).tell({"type": "set", "set": backends})
        assert told in written.lines[0]


def test_a_machine_that_reads_too_slowly_has_to_come_again() -> None:
    written = Written()
    machine = _machine(written)
    written.unread = 65 * 1024 * 1024
    machine.tell({"type": "snapshot", "snapshot": {}})
    assert written.aborted and not written.lines and not machine.engaged


class Process:
    """A balancer process; ``hears_changes``: one of this version."""

    def __init__(self, hears_changes: bool) -> None:
        self.hears_changes, self.told = hears_changes, list[Any]()

    def send(self, message: bytes, kind: str = "", latest: Callable[[], bytes] | None = None) -> None:
        self.told.append(json.loads(message))
        self.latest = latest


def test_what_is_new_of_a_set_is_told_to_who_knows_what_that_means() -> None:
    """The other is of an earlier version, and goes on while it is replaced."""
    feed, old, new, written = Feed(), Process(False), Process(True), Written()
    sets = [{"epoch": 1, "revision": n, "backends": [{"id": "a", "host": "h", "n": n}]} for n in (1, 2)]
    feed.publish(sets[0])
    feed.processes += [old, new]  # type: ignore[list-item]
    machine = JoinedMachine("lb", "10.0.0.6", False, written, 0.0, hears_changes=True)  # type: ignore[arg-type]
    feed.joined += [machine, _machine(silent := Written())]
    feed.publish(sets[1])
    whole = {"type": "set", "set": sets[1]}
    change = {"type": "change", "base": [1, 1], "gone": [], "set": sets[1]}
    assert (old.told, new.told) == ([whole], [change])
    assert [json.loads(each.lines[0]) for each in (written, silent)] == [change, whole]
    assert new.latest is not None and json.loads(new.latest()) == whole, "for one that does not keep up"
    assert json.loads(feed.greeting()[0]) == whole


def test_the_first_set_is_told_whole() -> None:
    feed, process = Feed(), Process(True)
    feed.processes.append(process)  # type: ignore[arg-type]
    feed.publish({"epoch": 1, "revision": 1, "backends": []})
    assert [message["type"] for message in process.told] == ["set"]
