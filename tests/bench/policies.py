"""Strategies side by side on a whole cluster, and in the simulation: ``python tests/bench/policies.py``.

Four simulated workers with the profile of an H100 and four adapter slots each, 64 adapters of ranks 8 to 64, streams at
random moments (`--rate` a second of the machine's time), adapters by Zipf's law. The cluster is the product:
supervisor, balancer, workers, HTTP; it goes slower than the machine by `--pace`. The simulation (`sim/`) has the same
requests and the same strategies, and no HTTP. All times are seconds of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import struct
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from adapterload import ADAPTERS, RANKS, SLOTS, WORKERS, Seen, drive, rank_of, requests, simulated
from harness import Cluster, free_port, kill, poll
from worker.demo import adapter_path

STRATEGIES_COMPARED = ("least_connections", "adaptive")


def make_adapter(folder: Path, rank: int) -> Path:
    """One for the demo model whose tensors have that ``rank``: those of another, repeated."""
    source = adapter_path("pirate")
    config = json.loads((source / "adapter_config.json").read_text())
    data = (source / "adapter_model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    parts, at = [], 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        size = (end - begin) * rank // config["r"]
        entry["shape"] = [rank if n == config["r"] else n for n in entry["shape"]]
        parts.append((body[begin:end] * math.ceil(rank / config["r"]))[:size])
        entry["data_offsets"], at = [at, at + size], at + size
    head = json.dumps(header).encode()
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"".join(parts))
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": rank, "lora_alpha": rank}))
    return folder


def start(cluster: Cluster, folder: Path, pace: float) -> None:
    flags = [
        "--profile", "h100-8b", "--pace", str(pace), "--max-loras", str(SLOTS), "--max-cpu-loras", str(ADAPTERS),
        "--max-lora-rank", str(max(RANKS)), "--max-model-len", "8192",
    ]  # fmt: skip
    adapters = [f"a{i}={make_adapter(folder / f'a{i}', rank_of(i))}" for i in range(ADAPTERS)]
    named = [word for each in adapters for word in ("--lora", each)]
    result = cluster.up(
        "--engine", "sim", "--instances", str(WORKERS), "--strategy", STRATEGIES_COMPARED[0], "--allow-no-effect",
        *named, "--", *flags, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(WORKERS, 300)

    def all_there() -> bool:
        listed = {card["id"] for card in cluster.ask("GET", "/v1/models").json()["data"]}
        return len(listed) > ADAPTERS and all(
            len(each["models"]) > ADAPTERS for each in cluster.status()["instances"].values()
        )

    poll(all_there, 300, "all adapters on all workers")


def show(where: str, strategy: str, seen: Seen) -> None:
    p50, p99 = statistics.median(seen.ttft), seen.percentile(0.99)
    text = f"TTFT p50 {p50:.3f} s, p99 {p99:.3f} s, {seen.failed} failed, sent {seen.late:.3f} s late at most"
    print(f"{where:>12} {strategy:<18} {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=24.0, help="requests a second of the machine's time")
    parser.add_argument("--count", type=int, default=600, help="requests for each strategy")
    parser.add_argument("--pace", type=float, default=0.5, help="of the machine's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", action="store_true", help="two workers are killed meanwhile, under adaptive")
    parser.add_argument("--only-sim", action="store_true")
    args = parser.parse_args()
    load = requests(args.count, args.rate, args.seed)
    for strategy in STRATEGIES_COMPARED:
        show("simulation", strategy, simulated(load, strategy))
    if args.only_sim:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), free_port())
        try:
            start(cluster, Path(folder) / "adapters", args.pace)
            failed = 0
            for strategy in STRATEGIES_COMPARED:
                assert cluster.run("strategy", strategy).returncode == 0
                seen = asyncio.run(drive(cluster.port, load, args.pace))
                show("cluster", strategy, seen)
                failed += seen.failed
            if args.kills:
                pids = [each["pid"] for each in list(cluster.status()["instances"].values())[:2]]
                end = load[-1].at
                events = [(end * share, lambda pid=pid: kill(pid)) for share, pid in zip((0.3, 0.6), pids, strict=True)]
                seen = asyncio.run(drive(cluster.port, load, args.pace, events))
                show("with kills", STRATEGIES_COMPARED[-1], seen)
                failed += seen.failed
        finally:
            cluster.close()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
