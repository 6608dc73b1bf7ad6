"""As many pods as workers, each with one; and pods that end, are deleted, or say nothing any more."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import kubestub
from fakes import eventually
from worker.drivers.base import Handle
from worker.drivers.kubernetes import api, driver, pods
from worker.drivers.kubernetes.directory import KubernetesDirectory
from worker.drivers.kubernetes.driver import KubernetesDriver
from worker.spec import WorkerEndpoint, WorkerSpec

pytestmark = pytest.mark.processes

#: Says what it was given, and ends with 3 when it is asked to.
_WORKER = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
print("there", os.environ.get("HF_HOME"), flush=True)
time.sleep(600)
"""


class Site:
    def __init__(self, folder: Path, kubernetes: kubestub.Kubernetes) -> None:
        self.folder, self.stub, self.kubernetes = folder, kubernetes.stub, kubernetes
        self.driver = KubernetesDriver(KubernetesDirectory(kubestub.NAME, kubestub.KEY))

    def up(self, count: int) -> None:
        """So many pods are wanted, and there."""
        self.driver.expect(count)
        eventually(lambda: len(self.driver.nodes_up()) == count, 20)

    def start(self, name: str = "instance_0", endpoint: WorkerEndpoint | None = None) -> Handle:
        spec = WorkerSpec(
            name, 1, (sys.executable, "-S", "-c", _WORKER), {"PATH": os.environ["PATH"]}, self.folder,
            self.folder / f"{name}.log", self.folder / f"{name}.run", endpoint or self.driver.reserve(()), "key",
        )  # fmt: skip
        self.driver.prepare(spec.run_file, {"incarnation": 1})
        handle = self.driver.start(spec, "its title")
        eventually(lambda: any("there" in line for line in handle.logs(1)))
        return handle

    def uid(self, number: int) -> str:
        pod = self.stub.pods.get(f"{kubestub.NAME}-{number}")
        return pod.uid if pod is not None and not pod.leaving else ""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(pods, "FEWER_AFTER_S", 0.5)
    monkeypatch.setenv("HF_HOME", "/of-the-container")
    with kubestub.running(tmp_path / "kubernetes") as made:
        monkeypatch.setenv("KUBECONFIG", str(made.config))
        site = Site(tmp_path, made)
        yield site
        site.driver.close()


async def _end(handle: Handle, patience: float = 10) -> int | None:
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    handle.watch(ended.set_result)
    return await asyncio.wait_for(ended, patience)


def test_as_many_pods_as_workers_and_none_is_taken_from_one_that_is_used(site: Site) -> None:
    with pytest.raises(OSError, match="no pod is free: 0 of 0 answer"):
        site.driver.reserve(())
    site.up(2)
    first = site.driver.reserve(())
    second = site.driver.reserve([first])
    assert first.host == site.stub.pods[f"{kubestub.NAME}-0"].host != second.host
    with pytest.raises(OSError, match="2 of 2 answer, 2 have a worker"):
        site.driver.reserve([first, second])
    handle = site.start(endpoint=second)
    assert handle.logs(1) == ["there /of-the-container"]
    assert site.driver.reserve(()).host == first.host
    assert site.driver.crowded() == second.host, "it could be in the pod below"
    site.driver.expect(1)
    eventually(lambda: sum("PATCH" in asked for asked in site.stub.requests) == 1)
    assert site.stub.replicas == 2, "the one below cannot go without it"
    eventually(lambda: not handle.destroy())
    eventually(lambda: site.stub.replicas == 1)
    assert site.driver.crowded() is None


def test_no_pod_comes_back_after_the_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nobody has said meanwhile that fewer workers are wanted."""
    monkeypatch.setattr(driver, "_LOOK_S", 0.02)
    site.up(2)
    site.driver.expect(3)
    site.driver.end()
    asked = len(site.stub.requests)
    eventually(lambda: not site.stub.pods, 20)
    assert site.stub.replicas == 0 and not [one for one in site.stub.requests[asked:] if "PATCH" in one]


@pytest.mark.parametrize("refused", [[409, 429], [500, 503], [0]])
def test_an_api_server_that_refuses_is_asked_again_to_take_the_pods_away(
    site: Site, monkeypatch: pytest.MonkeyPatch, refused: list[int]
) -> None:
    monkeypatch.setattr(api, "_CALL_S", 0.3)
    site.up(1)
    site.stub.patches = refused
    site.driver.end()
    assert site.stub.replicas == 0 and not site.stub.patches


def test_what_may_not_be_taken_away_is_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_END_S", 0.3)
    site.up(1)
    site.stub.patches = [500] * 9
    with pytest.raises(OSError, match=r"the pods of workers stay .*500"):
        site.driver.end()
    site.stub.patches, began = [403], time.monotonic()
    monkeypatch.setattr(driver, "_END_S", 60.0)
    with pytest.raises(OSError, match="403"):
        site.driver.end()
    assert time.monotonic() - began < 30, "what is forbidden is not asked for again and again"


async def test_a_pod_that_is_deleted_asks_its_worker_to_end_and_another_comes(site: Site) -> None:
    await asyncio.to_thread(site.up, 1)
    handle, before = await asyncio.to_thread(site.start), site.uid(0)
    site.kubernetes.call(lambda: site.stub.delete(f"{kubestub.NAME}-0"))
    assert await _end(handle) == 3
    await asyncio.to_thread(eventually, lambda: site.uid(0) not in ("", before), 20)
    await asyncio.to_thread(eventually, lambda: not handle.destroy())
    assert handle.empty()
    again = await asyncio.to_thread(eventually, lambda: _reserved(site), 20)
    assert again.host != handle.endpoint.host


@pytest.mark.measured
async def test_a_pod_that_is_gone_is_noticed_before_its_silence_would_tell(site: Site) -> None:
    await asyncio.to_thread(site.up, 1)
    handle = await asyncio.to_thread(site.start)
    began = asyncio.get_running_loop().time()
    site.kubernetes.call(lambda: site.stub.kill(f"{kubestub.NAME}-0"))
    assert await _end(handle) is None
    assert asyncio.get_running_loop().time() - began < 4.4
    await asyncio.to_thread(eventually, lambda: _reserved(site), 20)
    assert not handle.destroy() and len(site.driver.nodes_up()) == 1


async def test_the_agent_may_be_killed_and_its_worker_goes_on(site: Site) -> None:
    await asyncio.to_thread(site.up, 1)
    handle = await asyncio.to_thread(site.start)
    ended = asyncio.ensure_future(_end(handle, 60))
    (agent,) = _agents(site)
    agent.kill()
    await asyncio.to_thread(eventually, lambda: [one for one in _agents(site) if one != agent], 20)
    await asyncio.sleep(1.5)
    assert not ended.done() and not handle.empty()
    handle.stop()
    await ended


def test_a_pod_whose_agent_says_nothing_is_deleted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "DELETE_AFTER_S", 0.5)
    site.up(1)
    before = site.uid(0)
    (agent,) = _agents(site)
    agent.suspend()
    eventually(lambda: any("DELETE" in asked for asked in site.stub.requests), 20)
    agent.resume()
    eventually(lambda: site.uid(0) not in ("", before), 20)
    assert site.stub.replicas <= 2, "one more while it was lost"


def _agents(site: Site) -> list[psutil.Process]:
    keepers = [pod.process.pid for pod in site.stub.pods.values()]
    return [one for pid in keepers for one in psutil.Process(pid).children() if one.status() != psutil.STATUS_ZOMBIE]


def _reserved(site: Site) -> WorkerEndpoint | None:
    try:
        return site.driver.reserve(())
    except OSError:
        return None


def test_signals_of_a_container_reach_its_agent(site: Site) -> None:
    """SIGTERM while nothing runs there: at once."""
    site.up(1)
    process = site.stub.pods[f"{kubestub.NAME}-0"].process
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
