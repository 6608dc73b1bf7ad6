from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.drivers import scratch
from worker.spec import WorkerEndpoint, WorkerSpec


def _spec(name: str = "instance_0", incarnation: int = 1) -> WorkerSpec:
    run = Path("/state/run") / name
    return WorkerSpec(name, incarnation, (), {}, run, run, run, WorkerEndpoint(1), "key")


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path, as that of pytest is none."""
    with tempfile.TemporaryDirectory(prefix="s") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield Path(short)


def test_each_start_has_one_that_is_its_users_alone_and_it_goes_with_all_that_is_in_it() -> None:
    folder = scratch.make(_spec())
    assert folder is not None and folder.stat().st_mode & 0o777 == 0o700 == folder.parent.stat().st_mode & 0o777
    (folder / "deep").mkdir()
    (folder / "deep" / "left").touch()
    other = scratch.make(_spec(incarnation=2))
    scratch.remove(_spec())
    assert not folder.exists() and other is not None and other.exists()
    scratch.remove(_spec(incarnation=2))
    assert not other.parent.exists()
    scratch.remove(_spec())  # there is none any more


def test_one_from_before_that_was_killed_too_is_used_again() -> None:
    assert scratch.make(_spec()) == scratch.make(_spec())


def test_a_long_name_of_a_model_makes_no_long_path() -> None:
    folder = scratch.make(_spec("m" * 200 + ".instance_0"))
    assert folder is not None and folder.name.endswith("instance_0-1")


def test_where_it_would_lie_too_deep_for_sockets_or_cannot_be_made_there_is_none(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert scratch.make(_spec()) is None
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    assert scratch.make(_spec()) is None
