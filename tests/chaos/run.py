"""Faults under load, and every answer compared with the undisturbed one. ``make chaos``.

Starts a cluster of its own, asks it everything undisturbed, then does what a scenario says while clients keep asking,
and prints a scorecard. The exit code is 1 if an answer failed or was wrong, or something that is promised did not come.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos import cases, drive, foreign, kinds, load, report, score
from chaos.arena import Arena
from chaos.disk import DiskFull, give_back, small_disk
from chaos.faults import Fault
from chaos.scenarios import BY_NAME, SCENARIOS, Scenario, rounds
from harness import Cluster, free_port, poll
from worker.demo import MODEL_NAME, adapters, model_path

#: Cases asked: streamed and plain.
_CASES = {"sim": (48, 16), "vllm": (16, 6)}


def options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=SCENARIOS, default="mix", help="default: every fault, one at a time")
    parser.add_argument("--engine", choices=("sim", "vllm"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument("--streams", type=int, help="streamed requests at a time")
    parser.add_argument("--plain", type=int, help="plain requests at a time")
    parser.add_argument("--faults", metavar="a,b|all", help=f"of {', '.join(BY_NAME)}")
    parser.add_argument("--count", type=int, help="rounds; a round is every fault once, or some with --together")
    parser.add_argument("--duration", type=float, metavar="S", help="begin nothing new after so many seconds")
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="so many times the scenario's count")
    parser.add_argument("--every", type=float, metavar="S", help="seconds from one fault to the next, at least")
    parser.add_argument("--together", action="store_true", help="several faults at once")
    parser.add_argument("--stall-timeout", type=float, metavar="S")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the scorecard into reliability.md there")
    parser.add_argument("--keep", action="store_true", help="leave logs and state where they are")
    return parser.parse_args(argv)


def chosen(given: argparse.Namespace) -> Scenario:
    """The scenario with what the flags change of it. Raises SystemExit for a fault that does not exist."""
    scenario = SCENARIOS[given.scenario]
    changes: dict[str, Any] = {
        name: value for name in ("engine", "streams", "plain", "every", "stall_timeout")
        if (value := getattr(given, name)) is not None
    }  # fmt: skip
    if given.faults and given.faults != "all":
        unknown = [name for name in given.faults.split(",") if name not in BY_NAME]
        if unknown:
            raise SystemExit(f"unknown fault {unknown[0]!r}; known: {', '.join(BY_NAME)}")
        changes["faults"] = tuple(BY_NAME[name] for name in given.faults.split(","))
    changes["count"] = given.count or max(1, round(scenario.count * given.scale))
    return dataclasses.replace(scenario, **changes)


#: What a worker reads its answers with.
_PARSERS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3")


def flags(
    scenario: Scenario, instances: int, root: Path, servers: Sequence[foreign.PlainServer] = ()
) -> tuple[str, ...]:
    """What `clusterctl up` is told. ``root``: for files; ``servers``: that are attached."""
    if servers:
        attached = [word for server in servers for word in ("--backend", server.url)]
        return ("--instances", "0", "--stall-timeout", str(scenario.stall_timeout), *attached)
    made = ["--engine", scenario.engine, "--instances", str(instances), "--drain-timeout", str(scenario.drain)]
    made += ["--stall-timeout", str(scenario.stall_timeout)]
    for name, path in adapters().items():
        made += ["--lora", f"{name}={path}"]
    if scenario.engine == "vllm":
        made += ["--max-instances", str(instances)]
        if scenario.kinds:
            made += ["--model", str(_thinking(root)), "--", *_PARSERS]
        return tuple(made)
    made += ["--", *_pace(scenario), "--fault", "poison"]
    made += ["--fault", "poison:text=venom:kills=engine", *(_PARSERS if scenario.kinds else ())]
    if scenario.full is not None:
        places = math.ceil((scenario.streams + scenario.plain) / scenario.full / instances)
        made += ["--max-num-seqs", str(places)]
    return tuple(made)


def _thinking(root: Path) -> Path:
    """The demo's model with tokens for the beginning and the end of thinking: by name only."""
    model = Path(shutil.copytree(model_path(), root / "model"))
    for file in (model / "tokenizer.json", model / "tokenizer_config.json"):
        file.write_text(file.read_text().replace("<|pad|>", "</think>").replace("<|system|>", "<think>"))
    return model


def _pace(scenario: Scenario) -> tuple[str, ...]:
    """Of simulated workers."""
    return ("--ttft-ms", "20", "--itl-ms", f"{scenario.itl_ms:g}")


def _servers(root: Path, scenario: Scenario) -> list[foreign.PlainServer]:
    """Two, once both answer."""
    model, given = str(_thinking(root)), (*(_pace(scenario) if scenario.engine == "sim" else ()), *_PARSERS)
    servers = [foreign.PlainServer(root, f"server_{i}", scenario.engine, model, MODEL_NAME, given) for i in range(2)]
    for server in servers:
        server.start()
    for server in servers:
        poll(server.answers, 300, "an attached server answers")
    return servers


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


async def siege(arena: Arena, scenario: Scenario, given: argparse.Namespace) -> score.Score:
    """Undisturbed, then disturbed."""
    engine, clients = scenario.engine, scenario.streams + scenario.plain
    streamed, plain = _CASES[engine]
    models = [MODEL_NAME, *adapters()]
    if scenario.kinds:
        own = not scenario.attached
        name = (await asyncio.to_thread(arena.cluster.status))["model"] if own else MODEL_NAME
        asked = kinds.make(name, samples=own, adapters=own)
    else:
        asked = cases.make(given.seed, models, streams=streamed, plain=plain, lengths=scenario.lengths)
    skipped: dict[str, str] = {}
    if scenario.kinds and engine == "sim":
        asked, skipped = await load.known(arena.port, asked)
    say(f"asking {len(asked)} cases twice, undisturbed")
    reference = await load.reference(arena.port, asked, clients, engine)
    card = score.Score(divergence=reference.divergence)
    card.skipped.update(skipped)
    doable = [kind for kind in scenario.faults if _possible(kind, arena, card)]
    traffic = load.Load(arena.port, reference, engine, given.seed, card.outcomes.append, arena.was_lost)
    async with arena.watched():
        running = asyncio.create_task(traffic.run(scenario.streams, scenario.plain), name="load")
        await asyncio.sleep(1.0)
        await arena.moved()
        plan = _plan(doable, scenario.count, given)
        await drive.drive(
            arena, card, plan, every=scenario.every, overlap=scenario.overlap, tell=say,
            traffic=traffic if scenario.lull else None,
        )  # fmt: skip
        traffic.stop()
        await running
        card.moved = await arena.moved()
    return card


def _possible(kind: type[Fault], arena: Arena, card: score.Score) -> bool:
    why = ""
    if kind.sim_only and arena.engine != "sim":
        why = "needs the simulated engine"
    elif kind is DiskFull and not arena.disk.startswith("/"):
        why = arena.disk
    if why:
        card.skipped[kind.name] = why
    return not why


def _plan(kinds: Sequence[type[Fault]], count: int, given: argparse.Namespace) -> Iterable[Sequence[type[Fault]]]:
    """So many rounds, or as many as fit into the time."""
    every = rounds(kinds, given.seed, given.together)
    if given.duration is None:
        return itertools.islice(every, count if given.together else count * len(kinds))
    deadline = time.monotonic() + given.duration
    return itertools.takewhile(lambda _: time.monotonic() < deadline, every)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """The result of one run, as it is written to files."""
    scenario = chosen(given)
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    cluster = Cluster(root, free_port())
    disk = small_disk(cluster) if DiskFull in scenario.faults else ""
    servers = _servers(root, scenario) if scenario.attached else []
    up, workers = flags(scenario, given.instances, root, servers), len(servers) or given.instances
    began = time.monotonic()
    try:
        say(f"starting {workers} {scenario.engine} workers on port {cluster.port}, state below {root}")
        result = cluster.up(*up, timeout=600)
        if result.returncode:
            raise SystemExit(f"the cluster does not start: {result.stderr}")
        cluster.wait_ready(0 if servers else workers, 400)
        arena = Arena(
            cluster, scenario.engine, given.instances, up, scenario.stall_timeout, random.Random(given.seed), disk=disk,
            strict=scenario.strict, servers=servers,
        )  # fmt: skip
        card = _loop(siege(arena, scenario, given))
        card.problem(_down(cluster))
    finally:
        _down(cluster)
        for server in servers:
            server.bury()
        if disk.startswith("/"):
            give_back(disk)
        if not given.keep:
            shutil.rmtree(root, ignore_errors=True)
    setting = {
        "scenario": given.scenario, "about": scenario.about, "engine": scenario.engine, "instances": workers,
        "streams": scenario.streams, "plain": scenario.plain, "seed": given.seed, "together": given.together,
        "count": scenario.count, "every": scenario.every,
        "seconds": round(time.monotonic() - began, 1), "machine": report.machine(), "up": _shown(up),
    }  # fmt: skip
    return {"setting": setting, **card.to_json()}


def _down(cluster: Cluster) -> str:
    """Ends it, whatever it takes; why it did not end by itself."""
    try:
        cluster.close()
    except (AssertionError, subprocess.TimeoutExpired) as error:
        for process in cluster.leftovers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        return f"down: {error}"[:300]
    return ""


def _shown(up: Sequence[str]) -> list[str]:
    """The flags without this machine's folders."""
    return [word if "=/" not in word else f"{word.partition('=')[0]}=…" for word in up]


def _loop(work: Any) -> score.Score:
    import uvloop

    found: score.Score = uvloop.run(work)
    return found


def main(argv: Sequence[str]) -> int:
    given = options(argv)
    result = run(given)
    print(score.table(result))
    print(score.remarks(result))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    if given.out:
        report.write(given.out, given.scenario, result)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
