from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lb.counters import Counters

COUNT_AND_WAIT = """
import sys
from pathlib import Path
from lb.counters import Counters
counters = Counters(Path(sys.argv[1]))
for _ in range(1000):
    counters.add("instance_0", requests=1)
counters.add("instance_0", errors=3)
print("counted", flush=True)
sys.stdin.read()
"""




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


def test_counts_survive_sigkill_of_the_process_that_counted(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COUNT_AND_WAIT, str(tmp_path / "c")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"counted\n"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
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
