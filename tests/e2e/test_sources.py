"""A cluster whose model and adapters come from a hub: what no single process shows is who fetches when, and who no
more: the command before a start, the supervisor while it runs, and nobody for a start that follows."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Cluster, kill, poll
from origins import Origin, adapter_files
from worker.demo import adapters, model_path

pytestmark = pytest.mark.processes

POET = {path.name: path.read_bytes() for path in adapters()["poet"].iterdir() if path.is_file()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    found = Origin()
    found.put("org/base", {path.name: path.read_bytes() for path in model_path().iterdir()})
    found.put("org/pirate", adapter_files())
    found.put("org/poet", POET)
    monkeypatch.setenv("HF_ENDPOINT", found.url)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield found
    found.close()


def test_fetched_before_the_start_while_it_runs_and_never_again(hub: Origin, cluster: Cluster, tmp_path: Path) -> None:
    start = ("--engine", "sim", "--model", "hf://org/base", "--lora", "pirate=hf://org/pirate")
    up = cluster.up(*start)
    assert up.returncode == 0, up.stderr
    assert "fetch hf://org/base" in up.stderr
    assert [cluster.complete(name).status_code for name in ("org/base", "pirate")] == [200, 200]

    loaded = cluster.run("lora", "load", "poet", "hf://org/poet")
    assert loaded.returncode == 0, loaded.stderr
    shown = json.loads(cluster.run("lora", "show", "poet", "--json").stdout)
    assert [version["source"] for version in shown["versions"]] == ["hf://org/poet (aaaaaaaaaaaa)"]
    assert cluster.complete("poet").status_code == 200

    hub.commit = "b" * 40
    hub.put("org/poet", {**adapter_files(), "adapter_config.json": POET["adapter_config.json"]})
    updated = cluster.run("lora", "update", "poet", "hf://org/poet")
    assert (updated.returncode, "version 2" in updated.stdout) == (0, True), updated.stderr

    for reference, sentence in (
        ("hf://org/nobody", "has nothing there, or not for whoever asks"), ("gs://x/y", "gs:// is not known"),
        ("https://127.0.0.1:1/a.zip", "is an address of this machine or of a private network"),
        ("http://169.254.169.254/a.zip", "anybody on the way could change"),
    ):
        refused = cluster.run("lora", "load", "other", reference)
        assert refused.returncode != 0 and sentence in refused.stderr, refused.stderr
    assert [cluster.complete(name).status_code for name in ("org/base", "pirate", "poet", "other")] == [200] * 3 + [404]

    second = cluster.run("model", "load", "second", "--model", "hf://org/base", "--lora", "s=hf://org/pirate")
    assert second.returncode == 0, second.stderr
    assert cluster.complete("s").status_code == 200

    assert cluster.run("down").returncode == 0
    hub.close()
    again = cluster.up(*start)
    assert again.returncode == 0 and "fetch" not in again.stderr, again.stderr
    answers = [cluster.complete(name).status_code for name in ("org/base", "pirate", "poet", "second")]
    assert answers == [200] * 4, "nobody was asked: there was nobody"


def test_a_list_is_fetched_for_a_cluster_that_comes_later(hub: Origin, cluster: Cluster, tmp_path: Path) -> None:
    listed, paths = tmp_path / "experts.yaml", tmp_path / "lora_paths.json"
    listed.write_text("lora_adapters: [{name: a, path: 'hf://org/pirate'}, {name: b, path: 'hf://org/nobody'}]")
    pull = ("lora", "pull", "--config", str(listed), "--write", str(paths), "--state-dir", str(cluster.state_dir))
    half = cluster.run(*pull)
    assert (half.returncode, paths.exists()) == (1, False) and "has nothing there" in half.stderr, half.stderr
    listed.write_text("lora_adapters: [{name: a, path: 'hf://org/pirate'}, {name: b, path: 'hf://org/poet'}]")
    whole = cluster.run(*pull)
    assert whole.returncode == 0, whole.stderr
    assert list(json.loads(paths.read_text())) == ["a", "b"]
    hub.close()
    assert cluster.up("--engine", "sim", "--lora-config", str(paths)).returncode == 0
    assert [cluster.complete(name).status_code for name in ("a", "b")] == [200, 200]


def test_what_cannot_be_had_starts_nothing(hub: Origin, cluster: Cluster) -> None:
    failed = cluster.up("--engine", "sim", "--model", "hf://org/pirate")
    assert failed.returncode != 0 and "is no model: there is no config.json; it is a LoRA adapter" in failed.stderr
    assert not (cluster.state_dir / "launch.json").exists()
    assert poll(lambda: not cluster.leftovers())


def test_loads_go_on_though_their_supervisor_was_killed(hub: Origin, cluster: Cluster) -> None:
    """The processes that fetch live on, and what they fetch for is known to the next supervisor."""
    assert cluster.up("--engine", "sim").returncode == 0
    hub.flowing.clear()
    adapter = ("lora", "load", "poet", "hf://org/poet")
    model = ("model", "load", "second", "--model", "hf://org/base", "--lora", "s=hf://org/pirate")
    asked = [threading.Thread(target=cluster.run, args=command) for command in (adapter, model)]
    for one in asked:
        one.start()
    fetched = ("org/poet/resolve", "org/base/resolve")
    poll(lambda: all(any(part in path for _, path, _ in hub.log) for part in fetched), 60, "both are being fetched")
    kill(cluster.status()["supervisor"]["pid"])
    for one in asked:
        one.join(30)
    assert cluster.up("--engine", "sim").returncode == 0
    hub.flowing.set()
    for name in ("poet", "second", "s"):
        poll(lambda name=name: cluster.complete(name).status_code == 200, 60, f"{name} is loaded")
