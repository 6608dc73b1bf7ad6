"""The job as a process: refused connections, a death in the middle, a full disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config.jobs.folder import JobFollower, JobSpec, write_spec
from config.jobs.said import JobFailure, JobProgress, JobResult
from config.values.references import parse
from harness import poll
from origins import Origin, adapter_files
from worker.sources.store import SourceStore

pytestmark = pytest.mark.processes

SIZE = 40 << 20


def start(tmp_path: Path, name: str, most_of_a_file: int | None = None, **arguments: Any) -> subprocess.Popen[bytes]:
    write_spec(tmp_path / name, JobSpec("pull", {"store": str(tmp_path / "sources"), **arguments}))

    def limit() -> None:
        if most_of_a_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_of_a_file, most_of_a_file))

    env = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "worker.jobs", str(tmp_path / name)], env=env, preexec_fn=limit,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def end_of(tmp_path: Path, name: str) -> Any:
    return list(JobFollower(tmp_path / name).read())[-1]


def test_fetched_and_private_addresses_refused(origin: Origin, tmp_path: Path) -> None:
    url = f"{origin.url}/org/pirate/adapter_model.safetensors"
    assert start(tmp_path, "a", references=[url]).wait(30) == 1  # before it lies in the store, which both share
    assert start(tmp_path, "b", references=[url], private=True).wait(30) == 0
    end = end_of(tmp_path, "a")
    assert isinstance(end, JobFailure) and end.status == 403
    assert end.message.startswith("127.0.0.1 is an address of this machine or of a private network")
    result = end_of(tmp_path, "b")
    assert isinstance(result, JobResult) and not result.values["failed"]
    assert Path(result.values["fetched"][url]["folder"]).is_dir()
    assert any(isinstance(said, JobProgress) and said.unit == "bytes" for said in JobFollower(tmp_path / "b").read())


def test_killed_in_the_middle_the_next_one_goes_on(
    hub: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the hub's own library, which would begin anew."""
    whole = os.urandom(SIZE)
    hub.put("org/big", {**adapter_files(), "adapter_model.safetensors": whole})
    hub.stall_after = 25 << 20
    first = start(tmp_path, "a", references=["hf://org/big"])
    store = tmp_path / "sources"

    def part() -> int:
        return sum(path.stat().st_size for path in store.rglob("*.part"))

    poll(lambda: part() >= 20 << 20 or None, 30)
    first.kill()
    first.wait()
    hub.stall_after = None
    kept = part()
    hub.log.clear()
    assert start(tmp_path, "b", references=["hf://org/big"]).wait(30) == 0, end_of(tmp_path, "b")
    assert [headers["range"] for headers in hub.asked("safetensors")] == [f"bytes={kept}-"]
    found = SourceStore(store).find(parse("hf://org/big"), "adapter")
    assert found is not None and Path(found.folder, "adapter_model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("reference", ["hf://org/pirate", "URL"])
def test_a_full_disk_is_said_and_nothing_is_left(hub: Origin, tmp_path: Path, reference: str) -> None:
    text = reference.replace("URL", f"{hub.url}/org/pirate/adapter_model.safetensors")
    assert start(tmp_path, "a", 100_000, references=[text], private=True).wait(30) == 1
    end = end_of(tmp_path, "a")
    assert isinstance(end, JobFailure) and end.status == 507, end
    assert "no room in" in end.message and "nothing of it was left" in end.message
    assert not [path for path in (tmp_path / "sources").rglob("*") if path.is_file() and path.name != "lock"]


def test_of_several_those_that_can_be_had_are_there(hub: Origin, tmp_path: Path) -> None:
    names = ["hf://org/pirate", "hf://org/nobody"]
    assert start(tmp_path, "a", references=names).wait(30) == 0
    result = end_of(tmp_path, "a")
    assert (list(result.values["fetched"]), list(result.values["failed"])) == ([names[0]], [names[1]])


def test_what_is_no_job_is_refused(tmp_path: Path) -> None:
    assert start(tmp_path, "a", references=["gopher://x"]).wait(30) == 1
    assert end_of(tmp_path, "a").status == 400
