"""The watch of pods, against a stub of an API server (`kubestub`): what it is told late, twice, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kubestub
from fakes import eventually
from worker.drivers.kubernetes import directory as directories
from worker.drivers.kubernetes.directory import KubernetesDirectory


def _content(*hosts: str) -> dict[str, Any]:
    return {
        "addressType": "IPv4", "ports": [{"name": "agent", "port": 8100}],
        "endpoints": [
            {"addresses": [host], "targetRef": {"kind": "Pod", "name": f"w-{number}", "uid": f"{host:_<12}"}}
            for number, host in enumerate(hosts)
        ],
    }  # fmt: skip


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[kubestub.Kubernetes]:
    monkeypatch.setattr(directories, "_AGAIN_S", 0.02)
    with kubestub.running(tmp_path / "kubernetes") as made:
        monkeypatch.setenv("KUBECONFIG", str(made.config))
        yield made


@pytest.fixture
def directory(kubernetes: kubestub.Kubernetes) -> Iterator[KubernetesDirectory]:
    made = KubernetesDirectory(kubestub.NAME, kubestub.KEY)
    yield made
    made.close()


def _tell(kubernetes: kubestub.Kubernetes, name: str, *hosts: str) -> None:
    kubernetes.call(lambda: kubernetes.stub.tell(name, _content(*hosts)))


def _hosts(directory: KubernetesDirectory) -> set[str]:
    return {address.host for address in directory.agents().values()}


def _asked(kubernetes: kubestub.Kubernetes, words: str) -> int:
    return sum(words in request for request in kubernetes.stub.requests)


def test_what_changes_is_told_at_once(kubernetes: kubestub.Kubernetes, directory: KubernetesDirectory) -> None:
    assert directory.agents() == {}, "a Service without endpoints, whose slice says null"
    _tell(kubernetes, "a", "10.0.0.1", "10.0.0.2")
    eventually(lambda: _hosts(directory) == {"10.0.0.1", "10.0.0.2"})
    assert {(address.port, address.key) for address in directory.agents().values()} == {(8100, kubestub.KEY)}
    kubernetes.call(lambda: kubernetes.stub.tell("a", None))
    eventually(lambda: _hosts(directory) == set())
    assert _asked(kubernetes, "watch=True") == 1 and _asked(kubernetes, "allowWatchBookmarks=True") == 1
    assert _asked(kubernetes, "labelSelector=kubernetes.io/service-name=clusterctl-worker") == 2


def test_a_watch_that_ends_goes_on_where_it_was(kubernetes: kubestub.Kubernetes) -> None:
    kubernetes.stub.watch_s = 0.05
    made = KubernetesDirectory(kubestub.NAME, kubestub.KEY)
    try:
        eventually(lambda: _asked(kubernetes, "watch=True") > 3)
        _tell(kubernetes, "a", "10.0.0.1")
        eventually(lambda: _hosts(made) == {"10.0.0.1"})
        assert len(kubernetes.stub.requests) - _asked(kubernetes, "watch=True") == 1
    finally:
        made.close()


@pytest.mark.parametrize("told", ["as an event", "as an answer"])
def test_what_is_too_old_to_go_on_from_is_listed_anew(
    kubernetes: kubestub.Kubernetes, directory: KubernetesDirectory, told: str
) -> None:
    _tell(kubernetes, "a", "10.0.0.1")
    eventually(lambda: _hosts(directory) == {"10.0.0.1"})

    def change() -> None:
        """Two changes that are forgotten before anybody hears of them."""
        kubernetes.stub.tell("a", None)
        kubernetes.stub.tell("b", _content("10.0.0.2"))
        kubernetes.stub.forget()

    if told == "as an answer":
        kubernetes.away()
        change()
        kubernetes.up()
    else:
        kubernetes.call(change)
    eventually(lambda: _hosts(directory) == {"10.0.0.2"}, 10)


def test_long_lists_come_in_pages(kubernetes: kubestub.Kubernetes) -> None:
    for number in range(5):
        _tell(kubernetes, f"s{number}", f"10.0.0.{number}")
    kubernetes.stub.page_of = 2
    made = KubernetesDirectory(f"{kubestub.NAMESPACE}/{kubestub.NAME}", kubestub.KEY)
    try:
        assert _hosts(made) == {f"10.0.0.{number}" for number in range(5)} and _asked(kubernetes, "continue=") == 2
    finally:
        made.close()


def test_without_the_api_server_pods_are_where_they_were(
    kubernetes: kubestub.Kubernetes, directory: KubernetesDirectory
) -> None:
    _tell(kubernetes, "a", "10.0.0.1")
    eventually(lambda: _hosts(directory) == {"10.0.0.1"})
    kubernetes.away()
    with pytest.raises(OSError, match="API server"):
        eventually(lambda: directory.replicas() < 0)
    assert _hosts(directory) == {"10.0.0.1"}
    kubernetes.up()
    _tell(kubernetes, "b", "10.0.0.2")
    eventually(lambda: _hosts(directory) == {"10.0.0.1", "10.0.0.2"}, 10)


@pytest.mark.parametrize("status", [403, 500])
def test_a_refusal_is_said_in_words(kubernetes: kubestub.Kubernetes, status: int) -> None:
    kubernetes.stub.refused = status
    made = KubernetesDirectory(kubestub.NAME, kubestub.KEY)
    try:
        with pytest.raises(OSError, match=f"EndpointSlices in namespace {kubestub.NAMESPACE}: {status}"):
            made.agents()
        kubernetes.stub.refused = None
        eventually(lambda: not _fails(made), 10)
    finally:
        made.close()


def test_where_no_kubernetes_is_known_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    made = KubernetesDirectory(kubestub.NAME, kubestub.KEY)
    try:
        with pytest.raises(OSError, match="no Kubernetes is known here"):
            made.agents()
    finally:
        made.close()


def _fails(directory: KubernetesDirectory) -> bool:
    try:
        directory.agents()
    except OSError:
        return True
    return False


@pytest.mark.processes
def test_pods_are_counted_and_deleted_by_uid(kubernetes: kubestub.Kubernetes, directory: KubernetesDirectory) -> None:
    assert directory.agents() == {} and directory.replicas() == 0
    directory.scale(2)
    eventually(lambda: len(directory.agents()) == 2, 20)
    name, other = sorted(directory.pods)
    before = kubernetes.stub.pods[f"{kubestub.NAME}-0"].uid
    directory.delete(name)
    eventually(lambda: name not in directory.pods and len(directory.pods) == 2, 20)
    directory.delete(name)  # nothing: another one is called so by now
    directory.pods[name] = directory.pods[other]
    assert kubernetes.stub.pods[f"{kubestub.NAME}-0"].uid != before and other in directory.pods
