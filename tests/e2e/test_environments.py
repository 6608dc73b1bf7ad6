"""Started as careless environments start it: what only whole processes show."""

from __future__ import annotations

import shutil
import stat
import subprocess

import httpx

from harness import CLI, Cluster, environment
from worker.demo import adapter_path, model_path


def _here(cluster: Cluster, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A command whose working directory is the cluster's root."""
    return subprocess.run(
        [CLI, *args], capture_output=True, text=True, timeout=60, env=environment(**env), cwd=cluster.root, check=False
    )


def test_a_detached_cluster_is_found_by_the_relative_paths_that_it_was_started_with(cluster: Cluster) -> None:
    """The supervisor runs in another folder; each of these was resolved there."""
    root = cluster.root
    root.chmod(0o755)
    (root / "mine.txt").write_text("")
    (root / "m").symlink_to(model_path())
    shutil.copytree(adapter_path("pirate"), root / "p")
    (root / "l.json").write_text('{"listed": "p"}')
    (root / "key").write_bytes(b"\xef\xbb\xbfsecret\r\n")
    place = ("up", "--engine", "sim", "--port", str(cluster.port), "--detach")
    for name in ("", "."):
        refused = _here(cluster, *place, "--state-dir", name)
        assert refused.returncode == (1 if name else 2) and "Traceback" not in refused.stderr
    paths = ("--lora", "x=./p", "--model", "m", "--lora-config", "l.json", "--adapter-root", ".")
    options = ("--backend", "http://127.0.0.1:1", "--backend-key-file", "./key")
    unset = {"CLUSTERCTL_CONFIG": "", "HOST": "", "LOG_LEVEL": "INFO"}
    up = _here(cluster, *place, "--state-dir", "state", *paths, *options, **unset)
    assert up.returncode == 0, up.stderr
    assert {"x", "listed"} <= {card["id"] for card in httpx.get(f"{cluster.url}/v1/models", timeout=10).json()["data"]}
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    assert sorted(entry.name for entry in root.iterdir()) == ["key", "l.json", "m", "mine.txt", "p", "state"]
    check = _here(cluster, "state", "check", "--state-dir", "./state")
    assert "in use" in check.stdout, check.stderr
    assert _here(cluster, "down", "--state-dir", "state/../state").stdout == "down\n"
    assert not cluster.leftovers()
