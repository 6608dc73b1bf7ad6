from __future__ import annotations

import os
import signal
import stat
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.telemetry.shared_counters import Counters

COUNT_AND_WAIT = """
import sys
from pathlib import Path
from lb.telemetry.shared_counters import Counters
counters = Counters(Path(sys.argv[1]))
for _ in range(1000):
    counters.add("instance_0", requests=1)
counters.add("instance_0", errors=3)
share = counters.share("instance_0", 7)
share.put(5)
print("counted", flush=True)
sys.stdin.read()
"""


@contextmanager
def _another_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has counted, has five requests in flight on incarnation 7, and waits; killed afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", COUNT_AND_WAIT, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"counted\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def _old_file(rows: dict[str, tuple[int, int, int]]) -> bytes:
    """As the release before wrote it."""
    packed = b"".join(struct.pack("<144sQQQ", name.encode(), *values) for name, values in rows.items())
    return b"clusterctl counters 2\n".ljust(32, b"\0") + packed.ljust(2048 * 168, b"\0")


def _die(counters: Counters) -> None:
    """What SIGKILL leaves: the lock is gone, the file is as it was."""
    counters._own.close()
    counters._file.close()



def test_it_adds(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c")
    counters.add("instance_0", requests=1)
    counters.add("instance_0", requests=2, errors=1)
    counters.add("instance_1", errors=5)
    assert counters.get("instance_0") == (3, 1)
    assert counters.get("instance_1") == (0, 5)
    assert counters.get("instance_2") == (0, 0)
    assert counters.names() == ["instance_0", "instance_1"]


def test_counts_survive_a_reopening(tmp_path: Path) -> None:
    first = Counters(tmp_path / "c")
    first.add("instance_0", requests=7, errors=2)
    first.add("backend_0", requests=1)
    first.close()
    again = Counters(tmp_path / "c")
    assert again.names() == ["instance_0", "backend_0"]
    again.add("instance_0", requests=1)
    again.add("instance_1", requests=1)
    assert [again.get(name) for name in ("instance_0", "backend_0", "instance_1")] == [(8, 2), (1, 0), (1, 0)]


@pytest.mark.processes
def test_counts_survive_sigkill_of_the_process_that_counted(tmp_path: Path) -> None:
    with _another_process(tmp_path / "c") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert Counters(tmp_path / "c").get("instance_0") == (1000, 3)


@pytest.mark.parametrize("content", [b"", b"x", b"somebody else's file\n" * 9, b"clusterctl counters 1\n"])
def test_a_file_that_is_not_ours_or_is_cut_short_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    counters = Counters(tmp_path / "c")
    assert counters.names() == []
    counters.add("instance_0", requests=1)
    counters.close()
    assert Counters(tmp_path / "c").get("instance_0") == (1, 0)


def test_only_the_user_may_read_it(tmp_path: Path) -> None:
    Counters(tmp_path / "c")
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o600


def test_one_name_too_many_goes_uncounted_and_harms_nobody(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c")
    for number in range(2049):
        counters.add(f"instance_{number}", requests=1)
    assert counters.get("instance_2047") == (1, 0)
    assert counters.get("instance_2048") == (0, 0)
    assert len(Counters(tmp_path / "c").names()) == 2048


def test_a_folder_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Counters(tmp_path / "nowhere" / "c")


# several processes


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_has_a_file_of_its_own_and_reads_all(tmp_path: Path) -> None:
    first = Counters(tmp_path / "c.bin")
    second, third = Counters(tmp_path / "c.bin"), Counters(tmp_path / "c.bin")
    assert _files(tmp_path) == ["c-1.bin", "c-2.bin", "c.bin"]
    for number, counters in enumerate((first, second, third), 1):
        counters.add("instance_0", requests=number, errors=1, used_ms=1000 * number)
        counters.add(f"instance_{number}", requests=1)
        counters.refresh()
    first.refresh()
    for counters in (first, third):
        assert counters.get("instance_0") == (6, 3)
        assert counters.last_used("instance_0") == 3.0
        assert sorted(counters.names()) == [f"instance_{number}" for number in range(4)]
    assert [list(c.recently_used().values()) for c in (first, second, third)] == [[1.0], [2.0], [3.0]]


@pytest.mark.processes
def test_a_file_is_free_as_soon_as_its_process_is_gone(tmp_path: Path) -> None:
    with _another_process(tmp_path / "c") as process:
        beside = Counters(tmp_path / "c")
        assert _files(tmp_path) == ["c", "c-1"]
        process.kill()
        process.wait()
        Counters(tmp_path / "c")
        assert _files(tmp_path) == ["c", "c-1"]
    assert beside.get("instance_0") == (1000, 3)


@pytest.mark.processes
def test_what_a_dead_process_had_in_flight_counts_no_more_and_its_totals_do(tmp_path: Path) -> None:
    with _another_process(tmp_path / "c") as process:
        mine = Counters(tmp_path / "c")
        share, another = mine.share("instance_0", 7), mine.share("instance_1", 7)
        assert share is not None and another is not None
        mine.refresh()
        assert (share.others(), another.others()) == (5, 0)
        process.kill()
        process.wait()
        mine.refresh()
        assert share.others() == 0
        assert mine.get("instance_0") == (1000, 3)
    later = Counters(tmp_path / "c")
    assert later.get("instance_0") == (1000, 3)
    share.put(2)
    seen = later.share("instance_0", 7)
    assert seen is not None and seen.others() == 2


@pytest.mark.processes
def test_the_next_owner_of_a_dead_process_file_begins_with_nothing_in_flight(tmp_path: Path) -> None:
    with _another_process(tmp_path / "c"):
        pass
    owner = Counters(tmp_path / "c")
    beside = Counters(tmp_path / "c")
    share = beside.share("instance_0", 7)
    assert share is not None and share.others() == 0
    owner.close()


def test_in_flight_is_counted_by_incarnation(tmp_path: Path) -> None:
    one, two = Counters(tmp_path / "c"), Counters(tmp_path / "c")
    old, new = one.share("instance_0", 1), two.share("instance_0", 2)
    assert old is not None and new is not None
    one.refresh()
    two.refresh()
    old.put(9)
    new.put(4)
    assert (old.others(), new.others()) == (0, 0)
    now = one.share("instance_0", 2)
    assert now is not None
    now.put(1)
    assert (now.others(), new.others()) == (4, 1)


def test_restarts_of_a_worker_take_no_more_rows(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c")
    for incarnation in range(5000):
        assert counters.share("instance_0", incarnation) is not None
    assert counters.names() == ["instance_0"]


def test_where_there_is_no_row_left_nothing_is_shared(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "c")
    for number in range(2048):
        assert counters.share(f"instance_{number}", 1) is not None
    assert counters.share("instance_2048", 1) is None


def test_one_that_ends_has_nothing_in_flight(tmp_path: Path) -> None:
    one, two = Counters(tmp_path / "c"), Counters(tmp_path / "c")
    mine, others = one.share("instance_0", 1), two.share("instance_0", 1)
    assert mine is not None and others is not None
    others.put(3)
    one.refresh()
    assert mine.others() == 3
    two.close()
    one.refresh()
    assert mine.others() == 0


@pytest.mark.processes
def test_a_living_process_is_not_taken_for_dead(tmp_path: Path) -> None:
    with _another_process(tmp_path / "c"):
        mine = Counters(tmp_path / "c")
        share = mine.share("instance_0", 7)
        for _ in range(100):
            mine.refresh()
        assert share is not None and share.others() == 5


@pytest.mark.parametrize("killed_while_it_grew", [False, True])
def test_a_file_of_the_release_before_goes_on(tmp_path: Path, killed_while_it_grew: bool) -> None:
    rows = {"instance_0": (7, 2, 0), "adapter:poet": (3, 1, 5000)}
    old = _old_file(rows)
    (tmp_path / "c").write_bytes(old + bytes(2048 * 16 if killed_while_it_grew else 0))
    counters = Counters(tmp_path / "c")
    assert counters.names() == ["instance_0"]
    assert (counters.get("instance_0"), counters.get("adapter:poet")) == ((7, 2), (3, 1))
    assert counters.last_used("adapter:poet") == 5.0
    counters.add("instance_0", requests=1)
    counters.add("instance_1", requests=1)
    counters.close()
    again = Counters(tmp_path / "c")
    assert [again.get(name) for name in ("instance_0", "instance_1", "adapter:poet")] == [(8, 2), (1, 0), (3, 1)]


@pytest.mark.parametrize("content", [b"", b"x", b"clusterctl counters 3\n", _old_file({"a": (1, 1, 1)})])
def test_a_file_that_is_not_ready_is_nobodys_yet(tmp_path: Path, content: bytes) -> None:
    counters = Counters(tmp_path / "c")
    (tmp_path / "c-1").write_bytes(content)
    (tmp_path / "c-x").write_bytes(b"")
    counters.refresh()
    assert counters.get("a") == (0, 0)
    Counters(tmp_path / "c").add("b", requests=1)
    counters.refresh()
    assert counters.get("b") == (1, 0)


_NAMES = st.sampled_from(["instance_0", "instance_1", "backend_0"])
_STEPS = st.one_of(
    st.tuples(st.just("count"), st.integers(0, 2), _NAMES, st.integers(0, 3)),
    st.tuples(st.just("flight"), st.integers(0, 2), _NAMES, st.integers(0, 9)),
    st.tuples(st.sampled_from(["die", "end"]), st.integers(0, 2), _NAMES, st.just(0)),
)


@settings(max_examples=6 * settings.default.max_examples // 10)
@given(st.lists(_STEPS, max_size=30))
def test_whatever_three_processes_do_the_sums_are_right(steps: list[tuple[str, int, str, int]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        every = [Counters(path) for _ in range(3)]
        shares = [{name: c.share(name, 1) for name in ("instance_0", "instance_1", "backend_0")} for c in every]
        requests: Counter[str] = Counter()
        flights: list[Counter[str]] = [Counter(), Counter(), Counter()]
        for what, which, name, amount in steps:
            if what == "count":
                every[which].add(name, requests=amount)
                requests[name] += amount
            elif what == "flight":
                shares[which][name].put(amount)
                flights[which][name] = amount
            else:
                _die(every[which]) if what == "die" else every[which].close()
                every[which] = Counters(path)
                shares[which] = {n: every[which].share(n, 1) for n in shares[which]}
                flights[which] = Counter()
        for counters in every:
            counters.refresh()
        for which, counters in enumerate(every):
            for name, share in shares[which].items():
                assert counters.get(name) == (requests[name], 0)
                assert share.others() == sum(flights[i][name] for i in range(3) if i != which)
        assert len(list(path.parent.iterdir())) == 3
        for counters in every:
            counters.close()
