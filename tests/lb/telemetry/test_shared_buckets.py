from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lb.admission.rate_limits import TokenBucket
from lb.telemetry import shared_buckets
from lb.telemetry.shared_buckets import SharedBuckets

#: Takes one at a time from a bucket of 3,000, in a moment that does not pass; says how many it got, and waits.
TAKE_AND_WAIT = """
import sys
from pathlib import Path
from lb.admission.rate_limits import TokenBucket
from lb.telemetry.shared_buckets import SharedBuckets
print("here", flush=True)
sys.stdin.readline()
bucket = TokenBucket(3000, SharedBuckets(Path(sys.argv[1])).share("a"))
print(sum(bucket.take(1, 50.0) for _ in range(2000)), flush=True)
sys.stdin.readline()
"""


def _bucket(buckets: SharedBuckets, limit: int = 10, name: str = "a") -> TokenBucket:
    cells = buckets.share(name)
    assert cells is not None
    return TokenBucket(limit, cells)


def test_several_take_from_the_same(tmp_path: Path) -> None:
    first, second = (SharedBuckets(tmp_path / "b") for _ in range(2))
    one, two = _bucket(first), _bucket(second)
    assert one.take(6, 100.0) and two.take(4, 100.0)
    assert not one.take(1, 100.0) and not two.take(1, 100.0)
    assert _bucket(second, name="other").take(10, 100.0)
    assert two.take(1, 106.0) and not one.take(1, 106.0)
    two.settle(-3, 106.0)
    assert one.take(3, 106.0)


@pytest.mark.processes
def test_processes_never_take_more_than_there_is_together(tmp_path: Path) -> None:
    path = tmp_path / "b"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE_AND_WAIT, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        got = []
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "here\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout is not None
            got.append(int(process.stdout.readline()))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert 2990 <= sum(got) <= 3000
    again = SharedBuckets(path)  # they are dead, and what they took is not forgotten
    bucket = _bucket(again, 3000)
    assert bucket.level(50.0) == 3000 - sum(got)
    assert bucket.level(110.0) == 3000


def test_a_column_is_free_again_after_its_process(tmp_path: Path) -> None:
    first, second = SharedBuckets(tmp_path / "b"), SharedBuckets(tmp_path / "b")
    for each in (first, second):
        assert _bucket(each).take(4, 1.0)
    first.close()
    third = SharedBuckets(tmp_path / "b")
    assert _bucket(third).level(1.0) == 2
    assert third._column == first._column != second._column


def test_after_a_start_of_the_machine_it_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _bucket(SharedBuckets(tmp_path / "b")).take(10, 10.0**7)
    boot = tmp_path / "boot"
    boot.write_text("another")
    monkeypatch.setattr(shared_buckets, "_BOOT", boot)
    assert _bucket(SharedBuckets(tmp_path / "b")).take(10, 5.0)


def test_without_a_file_each_counts_for_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    buckets = SharedBuckets(tmp_path / "missing" / "b")
    assert buckets.share("a") is None and buckets.share("b") is None
    assert caplog.text.count("by itself") == 1


def test_where_there_is_no_room_for_more_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets = SharedBuckets(tmp_path / "b")
    kept = _bucket(buckets)
    monkeypatch.setattr(shared_buckets, "_ROWS", 1)
    assert buckets.share("b") is None
    assert kept.take(10, 1.0) and not _bucket(SharedBuckets(tmp_path / "b")).take(1, 1.0)
