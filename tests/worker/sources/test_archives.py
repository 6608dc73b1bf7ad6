"""What archives of strangers may do here: bring files that are wanted, below one folder, and nothing else."""

from __future__ import annotations

import io
import resource
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostilearchives import HOSTILE, LOOT
from origins import Origin
from pulling import Pulling
from worker.jobs.job import JobFailed
from worker.sources import archive


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    origin: Origin, pulling: Pulling, name: str, tmp_path: Path
) -> None:
    ending, make, sentence = HOSTILE[name]
    origin.files[f"a{ending}"] = make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(JobFailed, match=sentence) as failed:
        pulling(f"{origin.url}/a{ending}")
    assert failed.value.status in (400, 404)
    assert "\x1b" not in str(failed.value) and "\n" not in str(failed.value)
    assert not pulling.left(), "it would be no better the next time"
    assert not list(tmp_path.rglob(f"*{LOOT}*")) and not Path("/tmp", LOOT).exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"


@settings(max_examples=50)
@given(st.lists(st.text(st.sampled_from("ab./~\\-_ "), min_size=1, max_size=12), min_size=1, max_size=6))
def test_whatever_names_are_written_nothing_is_written_outside(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as out:
            for name in names:
                out.addfile(tarfile.TarInfo(name))
        (root / "x.tar").write_bytes(raw.getvalue())
        inside = root / "a" / "b"
        inside.mkdir(parents=True)
        try:
            archive.unpack(root / "x.tar", inside, lambda name: True, 1 << 20)
        except JobFailed:
            pass
        everything = {path for path in root.rglob("*") if path.is_file()}
        assert all(path.is_relative_to(inside) for path in everything - {root / "x.tar"})


def test_what_nobody_needs_is_not_written(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as out:
        for name in ("x/a.json", "x/setup.py"):
            out.addfile(tarfile.TarInfo(name))
    (tmp_path / "x.tar").write_bytes(raw.getvalue())
    (tmp_path / "in").mkdir()
    archive.unpack(tmp_path / "x.tar", tmp_path / "in", lambda name: PurePosixPath(name).suffix == ".json", 1 << 20)
    assert [path.name for path in (tmp_path / "in").rglob("*")] == ["a.json"]
