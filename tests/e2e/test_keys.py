"""API keys where processes are what is tested: several balancers, their replacement, the end of a supervisor, the
command line of the cluster's owner."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import httpx

from harness import Cluster, clusterctl, free_port, poll


def _asks(cluster: Cluster, secret: str | None) -> set[int]:
    """What is answered on connections of their own, which all balancer processes take some of."""
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    body = {"model": "small", "prompt": "x", "max_tokens": 1}
    return {
        httpx.post(f"{cluster.url}/v1/completions", json=body, headers=headers, timeout=20).status_code
        for _ in range(16)
    }


def test_keys_hold_in_every_process_and_over_every_end(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, free_port())
    try:
        started = cluster.up("--engine", "sim", "--model", "small", "--instances", "2", "--lb-processes", "2")
        assert started.returncode == 0, started.stderr
        before = cluster.wait_ready(2)
        assert _asks(cluster, None) == {200}
        made = [cluster.run("key", "create", name) for name in ("one", "two")]
        one, two = (result.stdout.strip() for result in made)
        assert one.startswith("cck_") and not any(result.returncode for result in made), made
        assert (_asks(cluster, None), _asks(cluster, one), _asks(cluster, two)) == ({401}, {200}, {200})

        _the_owner_goes_on(cluster, tmp_path)

        assert cluster.run("key", "revoke", "two").returncode == 0
        assert (_asks(cluster, two), _asks(cluster, one)) == ({401}, {200})

        os.kill(before["supervisor"]["pid"], signal.SIGKILL)
        poll(lambda: cluster.status()["supervisor"]["pid"] is None, what="the supervisor's end")
        assert (_asks(cluster, None), _asks(cluster, one)) == ({401}, {200})
        again = cluster.up()
        assert again.returncode == 0, again.stderr
        assert (_asks(cluster, None), _asks(cluster, one)) == ({401}, {200})

        assert cluster.run("restart", "load_balancer").returncode == 0
        assert {p["pid"] for p in cluster.status()["load_balancer"]["processes"]}.isdisjoint(
            p["pid"] for p in before["load_balancer"]["processes"]
        )
        assert (_asks(cluster, None), _asks(cluster, one)) == ({401}, {200})

        for pid in cluster.seen:
            for name in ("cmdline", "environ"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    assert b"cck_" not in Path(f"/proc/{pid}/{name}").read_bytes()
        logs = b"".join(log.read_bytes() for log in (cluster.state_dir / "logs").iterdir())
        assert b"cck_" not in logs
    finally:
        cluster.close()


def _the_owner_goes_on(cluster: Cluster, folder: Path) -> None:
    """Without a key, by the token that its user alone can read; with another one's state directory it does not."""
    (folder / "in.jsonl").write_text('{"prompt": "x", "max_tokens": 1}\n')
    own = {"CLUSTERCTL_URL": cluster.url, "CLUSTERCTL_STATE_DIR": str(cluster.state_dir)}
    commands = (
        ("chat", "--model", "small", "hello"), ("infer", "--in", str(folder / "in.jsonl"), "--out", "-"),
        ("bench", "--requests", "4", "--max-tokens", "1"),
    )  # fmt: skip
    for command in commands:
        result = clusterctl(*command, **own)
        assert result.returncode == 0, (command, result.stderr)
        other = clusterctl(*command, **{**own, "CLUSTERCTL_STATE_DIR": str(folder / "none")})
        assert other.returncode != 0 and "key" in other.stderr + other.stdout, command


def test_nobody_opens_a_cluster_to_the_world_by_mistake(tmp_path: Path) -> None:
    place = ("--port", str(free_port()), "--state-dir", str(tmp_path / "state"), "--engine", "sim")
    for way in (("--detach",), ()):
        result = clusterctl("up", *place, *way, "--host", "0.0.0.0")
        assert result.returncode != 0
        (said,) = (line for line in result.stderr.splitlines() if "error" in line)
        assert "CLUSTERCTL_ADMIN_KEY" in said and "--api-keys" in said and "--insecure" in said
