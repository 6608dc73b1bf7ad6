"""What is said where the Ray that this machine was part of is there no more."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
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


class Head:
    """Takes connections at ``address``, and knows the ``nodes`` (as bytes)."""

    def __init__(self, listener: socket.socket) -> None:
        self.address = ":".join(map(str, listener.getsockname()))
        self.nodes: set[bytes] = set()

    def __call__(self, address: str) -> Head:
        """One more client of it."""
        assert address == self.address
        return self

    def get_all_node_info(self, timeout: float, node_selectors: list[Any], state_filter: int) -> dict[bytes, Any]:
        assert timeout > 0 and state_filter == 0, "those that are alive"
        return {each.node_id: each for each in node_selectors if each.node_id in self.nodes}


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    monkeypatch.setattr("worker.drivers.ray.connection._JOIN_S", 0.3)
    with socket.create_server(("127.0.0.2", 0)) as listener:
        made = Head(listener)
        monkeypatch.setattr(ray._raylet, "GcsClient", made)
        yield made


@pytest.mark.parametrize("there", [[], ["ab12"]], ids=["none", "that of another Ray"])
def test_a_head_without_a_raylet_here_is_not_waited_for(
    head: Head, there: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ray.init`` would, for a minute."""
    monkeypatch.setattr(services, "find_node_ids", lambda: set(there))
    head.nodes = {b"\xcd\x34"}
    said = refusal(head.address)
    assert said == (
        f"no Ray at {head.address!r}: its head answers, but no raylet of it runs on this machine: `ray start "
        f"--address={head.address}` starts one"
    )


def test_a_raylet_that_is_being_started_is_waited_for(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def find() -> set[str]:
        looks.append(1)
        head.nodes = {b"\xab\x12"} if len(looks) > 2 else set()
        return {"ab12"} if len(looks) > 1 else set()

    def init(address: str, **_: Any) -> None:
        raise ConnectionError(f"{address} after {len(looks)} looks")

    monkeypatch.setattr("worker.drivers.ray.connection._JOIN_S", 30.0)
    monkeypatch.setattr(services, "find_node_ids", find)
    monkeypatch.setattr(ray, "init", init)
    assert refusal(head.address).endswith(f"{head.address} after 3 looks")
