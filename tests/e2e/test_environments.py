"""Started as careless environments start it: what only whole processes show."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import httpx

from harness import CLI, Cluster, environment, poll
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
    supervisor = cluster.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGHUP)  # it has no terminal that could be closed
    assert cluster.run("restart", "instance_0").returncode == 0  # one that is about to end refuses
    assert cluster.status()["supervisor"]["pid"] == supervisor
    check = _here(cluster, "state", "check", "--state-dir", "./state")
    assert "in use" in check.stdout, check.stderr
    assert _here(cluster, "down", "--state-dir", "state/../state").stdout == "down\n"
    assert not cluster.leftovers()


_FILE = """# of another set-up
INFERENCE_MODE=multi_instance
CLUSTER_INSTANCES=2
MIM_MODEL_NAME=tiny
CLUSTERCTL_MANIFEST=./own.yaml
CLUSTERCTL_ADMIN_KEY="s3cret of the file"
OF_THE_FILE='reaches workers'
"""
_MANIFEST = """
models:
  tiny:
    path: org/tiny
    profiles: [{name: huge, when: {count: 99}}, {name: any, engine: sim, max_loras: 3}]
"""


def test_a_file_of_variables_and_a_model_by_its_name_start_a_cluster(cluster: Cluster) -> None:
    """And `apply` of the same settings finds nothing to change."""
    (cluster.root / "my.env").write_text(_FILE)
    (cluster.root / "own.yaml").write_text(_MANIFEST)
    (cluster.root / "c.yaml").write_text("model: tiny\nmanifest: own.yaml\nqueue_timeout: 30\n")
    place = ("--port", str(cluster.port), "--state-dir", str(cluster.state_dir), "--detach")
    up = _here(cluster, "up", *place, "--env-file", "my.env")
    assert up.returncode == 0 and "tiny: profile any, engine sim\n" in up.stderr
    key = {"Authorization": "Bearer s3cret of the file"}
    status = httpx.get(f"{cluster.url}/v1/cluster/status", headers=key, timeout=10).json()
    workers = [one["pid"] for one in status["instances"].values()]
    cluster.seen.update([status["supervisor"]["pid"], status["load_balancer"]["pid"], *workers])
    assert (len(workers), status["running_instances"]) == (2, 2)
    found = Path(f"/proc/{workers[0]}/environ").read_bytes().split(b"\0")
    assert b"OF_THE_FILE=reaches workers" in found and not any(b"s3cret" in one for one in found)
    assert b"3" in Path(f"/proc/{workers[0]}/cmdline").read_bytes().partition(b"--max-loras\0")[2][:2]
    ids = {card["id"] for card in httpx.get(f"{cluster.url}/v1/models", timeout=10).json()["data"]}
    assert {"tiny", "org/tiny"} <= ids
    where = {"CLUSTERCTL_URL": cluster.url, "CLUSTERCTL_ADMIN_KEY": "s3cret of the file"}
    applied = _here(cluster, "apply", "--config", "c.yaml", **where)
    assert (applied.returncode, applied.stdout) == (0, "nothing to change: the cluster runs with these settings\n")
    assert _here(cluster, "down", "--state-dir", "state").stdout == "down\n"
    assert not cluster.leftovers()


def _foreground(cluster: Cluster, *before: str) -> subprocess.Popen[bytes]:
    """`up` with one worker, once that is ready; ``before``: what starts it. The demo's adapters are no stranger's,
    wherever those have to lie."""
    place = ("--port", str(cluster.port), "--state-dir", str(cluster.state_dir), "--adapter-root", str(cluster.root))
    process = subprocess.Popen(
        [*before, CLI, "up", "--engine", "sim", "--instances", "1", *place], env=environment(),
        stdin=subprocess.DEVNULL, stdout=(cluster.root / "said").open("wb"), stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip

    def ready() -> bool:
        assert process.poll() is None
        try:
            return bool(cluster.status()["running_instances"])
        except httpx.HTTPError:
            return False

    poll(ready, 40, "a ready worker")
    return process


def test_a_closed_terminal_ends_all_of_a_foreground_cluster(cluster: Cluster) -> None:
    """The shell and the kernel both tell of it; the second time is no wish to kill."""
    process = _foreground(cluster, "env", "--default-signal=HUP")  # whoever runs the tests may be under nohup
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    try:
        assert process.wait(30) == 0
    except subprocess.TimeoutExpired:
        raise AssertionError((cluster.root / "said").read_text()) from None
    assert not cluster.leftovers()


def test_nohup_outlives_the_terminal(cluster: Cluster) -> None:
    process = _foreground(cluster, "nohup")
    process.send_signal(signal.SIGHUP)
    assert cluster.run("restart", "instance_0").returncode == 0  # one that is about to end refuses
    assert cluster.complete("pirate").status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not cluster.leftovers()
