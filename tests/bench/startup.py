"""How soon workers of real vLLM are there, forked and plain: `python tests/bench/startup.py` starts the demo with LoRA
on three workers once with `--zygote on` and once with `off`; `--write` writes the table of `docs/startup.md`.

Seconds. `up`: from the command to three ready workers; `scale`: from 1 to 3; `killed`: from SIGKILL of a worker to the
first answer of the one in its place, which is asked itself; `spare`: with a spare, from SIGKILL to as many ready as
before. Answers are compared as well: 100 greedy ones."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness import Cluster, free_port, kill, poll
from worker.drivers import proc

_DOC = Path(__file__).resolve().parents[2] / "docs" / "startup.md"
_BEGIN, _END = "<!-- measured -->", "<!-- /measured -->"
_INSTANCES = ("instance_0", "instance_1", "instance_2")


@dataclass
class Found:
    """Of one mode: seconds, MiB (each page counted once), and answers by prompt."""

    up: float = 0.0
    scale: float = 0.0
    killed: list[float] = field(default_factory=list)
    spare: list[float] = field(default_factory=list)
    memory: float = 0.0
    zygote: float = 0.0
    answers: list[str] = field(default_factory=list)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="with forked workers")
    parser.add_argument("--plain-kills", type=int, default=3, help="with plain ones")
    parser.add_argument("--write", action="store_true", help="the table into docs/startup.md")
    given = parser.parse_args(argv)
    found = {"on": _measure("on", given.kills), "off": _measure("off", given.plain_kills)}
    table = _table(found)
    print(table)
    if given.write:
        text = _DOC.read_text()
        before, after = text[: text.index(_BEGIN) + len(_BEGIN)], text[text.index(_END) :]
        _DOC.write_text(f"{before}\n{table}\n{after}")


def _measure(mode: str, kills: int) -> Found:
    cluster, found = Cluster(Path(tempfile.mkdtemp()), free_port()), Found()
    try:
        began = time.monotonic()
        result = cluster.up("--instances", "3", "--max-instances", "3", "--zygote", mode, timeout=400)
        assert result.returncode == 0, result.stderr
        cluster.wait_ready(3, 300)
        found.up = time.monotonic() - began
        found.answers = [_answer(cluster, number) for number in range(100)]
        found.memory, found.zygote = _memory(cluster)
        print(f"zygote {mode}: up {found.up:.1f}", flush=True)
        for number in range(kills):
            found.killed.append(_killed(cluster, _INSTANCES[number % 3]))
            print(f"zygote {mode}: killed {found.killed[-1]:.1f}", flush=True)
        assert cluster.run("scale", "1", timeout=120).returncode == 0
        cluster.wait_ready(1, 60)
        began = time.monotonic()
        assert cluster.run("scale", "3", timeout=300).returncode == 0
        cluster.wait_ready(3, 300)
        found.scale = time.monotonic() - began
        print(f"zygote {mode}: scale {found.scale:.1f}", flush=True)
        found.spare = _with_spare(cluster, 3)
        print(f"zygote {mode}: with a spare {found.spare}", flush=True)
        return found
    finally:
        cluster.close()


def _answer(cluster: Cluster, number: int) -> str:
    model = ("demo", "pirate", "poet")[number % 3]
    answer = cluster.complete(model, prompt=f"Number {number} of the tale", max_tokens=24, temperature=0)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def _killed(cluster: Cluster, name: str) -> float:
    """All three are ready before and after."""
    before = cluster.instance(name)
    began = time.monotonic()
    kill(before["pid"])
    poll(lambda: _answers(cluster, name, before["incarnation"]), 300, f"{name} answers again")
    took = time.monotonic() - began
    cluster.wait_ready(3, 300)
    return took


def _with_spare(cluster: Cluster, kills: int) -> list[float]:
    assert cluster.run("apply", "--spares", "1", timeout=60).returncode == 0
    found = []
    for _ in range(kills):
        status = poll(lambda: (s := cluster.status())["supervisor"]["settled"] and len(s["instances"]) == 4 and s, 300)
        victim = next(one["pid"] for one in status["instances"].values() if one["is_running"])
        began = time.monotonic()
        kill(victim)
        poll(lambda pid=victim: _full(cluster, pid), 300)  # type: ignore[misc]
        found.append(time.monotonic() - began)
    return found


def _full(cluster: Cluster, gone: int) -> bool:
    ready = [one["pid"] for one in cluster.status()["instances"].values() if one["is_running"]]
    return len(ready) == 3 and gone not in ready


def _answers(cluster: Cluster, name: str, before: int) -> bool:
    try:
        if cluster.instance(name)["incarnation"] == before:
            return False
        body = {"model": "demo", "prompt": "hello", "max_tokens": 1}
        return cluster.ask_worker(name, "POST", "/v1/completions", body).status_code == 200
    except (httpx.HTTPError, AssertionError):
        return False


def _memory(cluster: Cluster) -> tuple[float, float]:
    """MiB of the workers and their zygote together, and of the zygote alone."""
    status = cluster.status()
    zygotes = [one["pid"] for one in status["zygote"]["processes"]]
    sessions = proc.sessions([*zygotes, *(one["pid"] for one in status["instances"].values())])
    shares = {member.pid: _pss(member.pid) for members in sessions.values() for member in members}
    return sum(shares.values()), sum(shares[pid] for pid in zygotes)


def _pss(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return float(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1]) / 1024


def _table(found: dict[str, Found]) -> str:
    on, off = found["on"], found["off"]
    equal = sum(a == b for a, b in zip(on.answers, off.answers, strict=True))
    rows = [
        ("`up` to three ready (s)", f"{on.up:.1f}", f"{off.up:.1f}"),
        ("scale 1 to 3 (s)", f"{on.scale:.1f}", f"{off.scale:.1f}"),
        ("SIGKILL to the first answer (s): median, most", _spread(on.killed), _spread(off.killed)),
        ("with `--spares 1`, SIGKILL to three ready (s): median, most", _spread(on.spare), _spread(off.spare)),
        ("memory of three (MiB)", f"{on.memory:.0f}, {on.zygote:.0f} of it the zygote", f"{off.memory:.0f}"),
        ("greedy answers equal to plain starts'", f"{equal} of {len(on.answers)}", ""),
    ]
    lines = ["| | forked | plain |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f}, {max(seconds):.2f} of {len(seconds)}" if seconds else "-"


if __name__ == "__main__":
    main(sys.argv[1:])
