"""Which folders of jobs stay."""

from __future__ import annotations

from pathlib import Path

from cluster.jobs.folders import sweep


def test_the_latest_stay_as_long_as_there_is_room_and_what_runs_always(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "open", "stray"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_bytes(b"x" * 100_000)
    outside = tmp_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "kept").write_text("")
    (tmp_path / "stray" / "link").symlink_to(outside)
    sweep(tmp_path, ["a", "b", "c"], {"open"}, most=250_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c", "open"]
    assert (outside / "kept").exists()


def test_no_folder_is_no_trouble(tmp_path: Path) -> None:
    sweep(tmp_path / "none", ["a"], ())
