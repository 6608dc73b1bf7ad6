"""One word for all balancer processes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.disk.strategy_file import StrategyReader, StrategyWriter, _newer
from config.topology import STRATEGIES


def test_a_switch_is_seen_by_all_at_once(tmp_path: Path) -> None:
    writer = StrategyWriter(tmp_path / "s")
    readers = [StrategyReader(tmp_path / "s") for _ in range(3)]
    version = (1, 1)
    for revision, strategy in enumerate(STRATEGIES, 1):
        writer.write((1, revision), strategy)
        assert [reader.current(version, "random") for reader in readers] == [strategy] * 3
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("written", "version", "expected"),
    [
        ((1, 5), (1, 4), "weighted"),
        ((1, 5), (1, 5), "weighted"),
        ((1, 5), (1, 6), "random"),
        ((1, 900), (2, 1), "random"),
        ((2, 1), (1, 900), "weighted"),
    ],
)
def test_the_newer_of_set_and_file_counts(
    tmp_path: Path, written: tuple[int, int], version: tuple[int, int], expected: str
) -> None:
    StrategyWriter(tmp_path / "s").write(written, "weighted")
    assert StrategyReader(tmp_path / "s").current(version, "random") == expected


def test_a_newer_set_is_noticed_though_the_file_is_the_same(tmp_path: Path) -> None:
    StrategyWriter(tmp_path / "s").write((1, 5), "weighted")
    reader = StrategyReader(tmp_path / "s")
    assert [reader.current((1, n), "random") for n in (4, 5, 6)] == ["weighted", "weighted", "random"]


def test_the_next_supervisor_writes_into_the_same_file(tmp_path: Path) -> None:
    first = StrategyWriter(tmp_path / "s")
    first.write((1, 9), "weighted")
    reader = StrategyReader(tmp_path / "s")
    first.close()
    second = StrategyWriter(tmp_path / "s")
    assert reader.current((1, 9), "random") == "weighted"  # until it has something to say
    second.write((2, 1), "response_time")
    assert reader.current((1, 9), "random") == "response_time"


@pytest.mark.parametrize("content", [None, b"", b"x", b"clstrat1", b"somebody else's file", b"clstrat1" + bytes(8)])
def test_without_a_word_in_the_file_the_set_counts(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "s").write_bytes(content)
    assert StrategyReader(tmp_path / "s").current((0, 0), "random") == "random"


@pytest.mark.parametrize("content", [b"", b"x", b"clstrat1", b"somebody else's file"])
def test_a_file_that_is_not_ours_is_made_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(content)
    StrategyWriter(tmp_path / "s").write((1, 1), "weighted")
    assert StrategyReader(tmp_path / "s").current((1, 1), "random") == "weighted"


def test_a_strategy_of_a_later_release_is_none_of_ours() -> None:
    assert _newer(1 << 40 | 1 << 8 | 255, (1, 1)) is None


@given(st.integers(0, 2**24 - 1), st.integers(0, 2**32 - 1), st.sampled_from(STRATEGIES))
def test_what_is_written_is_read(epoch: int, revision: int, strategy: str) -> None:
    word = epoch << 40 | revision << 8 | STRATEGIES.index(strategy) + 1
    assert word < 2**64
    assert _newer(word, (epoch, revision)) == strategy
    assert _newer(word, (epoch, revision + 1)) is None
