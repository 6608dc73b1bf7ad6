"""What is said where the Ray that this machine was part of is there no more."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ray._private import services

from harness import free_port
from worker.drivers.ray.connection import NoRay, connect


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a killed Ray leaves behind; no Ray runs here."""
    monkeypatch.setattr(services, "find_gcs_addresses", frozenset)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def refusal(address: str) -> str:
    """Within seconds: ``ray.init`` alone waits for more than a minute."""
    began = time.monotonic()
    with pytest.raises(NoRay) as refused:
        connect(address, "test")
    assert time.monotonic() - began < 20
    return str(refused.value)


@pytest.mark.parametrize("words", ["127.0.0.2:{port}", "", "127.0.0.2:", "127.0.0.2:None", "rubbish"])
def test_the_file_that_a_killed_ray_leaves_is_named(left: Path, words: str) -> None:
    left.write_text(words.format(port=free_port()))
    said = refusal("auto")
    assert said.startswith(f"no Ray at {left.read_text()!r}: ") and "\n" not in said
    assert f"; {left} names it" in said and "`ray stop` removes that" in said and "invalid literal" not in said


def test_without_that_file_none_runs(left: Path) -> None:
    assert refusal("auto").startswith("none runs on this machine: `ray start --head`")


def test_an_address_that_somebody_gave_comes_from_no_file(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = f"127.0.0.2:{free_port()}"
    left.write_text(gone)
    assert refusal(gone) == f"no Ray at {gone!r}: nobody answers there (Connection refused)"
    monkeypatch.setenv("RAY_ADDRESS", gone)
    assert refusal("auto").endswith("; RAY_ADDRESS names it")
