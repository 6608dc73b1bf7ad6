"""What processes tell each other through rings in mapped files."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lb.telemetry.shared_attempts import MOST, SharedAttempts
from lb.telemetry.shared_counters import Counters

TELL_AND_WAIT = """
import sys
from pathlib import Path
from lb.telemetry.shared_attempts import SharedAttempts
from lb.telemetry.shared_counters import Counters
counters = Counters(Path(sys.argv[1]))
board = SharedAttempts(counters.path, counters.peers)
print("there", flush=True)
for line in sys.stdin:
    board.tell(tuple(map(int, line.split())))
    print("told", flush=True)
"""


def balancer(folder: Path) -> tuple[Counters, SharedAttempts]:
    counters = Counters(folder / "counters.bin")
    return counters, SharedAttempts(counters.path, counters.peers)


def look(*balancers: tuple[Counters, SharedAttempts]) -> None:
    for counters, board in balancers:
        counters.refresh()
        board.look()


def heard(board: SharedAttempts) -> list[list[int] | None]:
    return [None if record is None else list(record) for _, record in board.news()]


def test_each_hears_what_the_others_tell_once_and_in_order(tmp_path: Path) -> None:
    one, two, three = (balancer(tmp_path) for _ in range(3))
    look(one, two, three)
    one[1].tell((1, 2**64 - 1))
    two[1].tell((7,))
    one[1].tell((3, 4, 5))
    assert [heard(each[1]) for each in (one, two)] == [[[7]], [[1, 2**64 - 1], [3, 4, 5]]]
    assert sorted(map(str, heard(three[1]))) == ["[1, 18446744073709551615]", "[3, 4, 5]", "[7]"]
    assert [heard(each[1]) for each in (one, two, three)] == [[], [], []]
    assert len({who for who, _ in one[1].news()}) == 0
    assert stat.S_IMODE((tmp_path / "attempts-2.bin").stat().st_mode) == 0o600


def test_records_of_every_length_go_round_the_ring_whole(tmp_path: Path) -> None:
    one, two = balancer(tmp_path), balancer(tmp_path)
    look(one, two)
    for number in range(5000):
        record = [number] * (1 + number % (MOST - 1))
        one[1].tell(record)
        assert heard(two[1]) == [record]


@pytest.mark.parametrize("values", [30_000, 60_000, 70_000, 200_000])
def test_who_is_late_by_a_ring_is_told_so_and_goes_on_from_there(tmp_path: Path, values: int) -> None:
    one, two = balancer(tmp_path), balancer(tmp_path)
    look(one, two)
    told = values // 10
    for number in range(told):
        one[1].tell([number] * 9)
    assert heard(two[1]) == ([None] if values > 65_000 else [[n] * 9 for n in range(told)])
    one[1].tell((5,))
    assert heard(two[1]) == [[5]]


def test_what_a_process_said_counts_no_more_when_it_was_killed_and_its_file_is_the_next_ones(tmp_path: Path) -> None:
    mine = balancer(tmp_path)
    command = [sys.executable, "-c", TELL_AND_WAIT, str(tmp_path / "counters.bin")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            look(mine)
            process.stdin.write(b"2 77 88\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"told\n"
            ((who, record),) = mine[1].news()
            assert list(record or ()) == [2, 77, 88]
        finally:
            process.kill()
    look(mine)
    assert list(mine[1].news()) == [(who, None)]
    # Whoever comes next is another one, also to who had no time to look meanwhile.
    late = balancer(tmp_path)
    assert late[0].path == tmp_path / "counters-1.bin"
    look(mine)
    late[1].tell((9,))
    ((other, record),) = mine[1].news()
    assert other != who and list(record or ()) == [9]
    late[0].close()
    again = balancer(tmp_path)
    again[1].tell((1,))
    assert [each for _, each in mine[1].news()] == [None]
    again[1].tell((2,))
    assert heard(mine[1]) == [[2]]


def test_a_file_that_is_none_of_ours_is_nobodys_and_is_made_anew(tmp_path: Path) -> None:
    one = balancer(tmp_path)
    (tmp_path / "attempts-1.bin").write_bytes(b"somebody else's")
    counters = Counters(tmp_path / "counters.bin")
    look(one)
    assert heard(one[1]) == []
    board = SharedAttempts(counters.path, counters.peers)
    look(one)
    board.tell((4,))
    assert heard(one[1]) == [[4]]


def test_without_room_for_a_file_nothing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "attempts.bin").mkdir()
    counters, board = balancer(tmp_path)
    board.tell((1, 2))
    assert len(caplog.records) == 1
    assert heard(SharedAttempts(None, counters.peers)) == []


def test_who_has_ended_says_nothing(tmp_path: Path) -> None:
    _, board = balancer(tmp_path)
    board.close()
    board.tell((1,))
    assert heard(board) == []
