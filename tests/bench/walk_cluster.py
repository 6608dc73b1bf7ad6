"""How far one has to read to follow a crash, or a ``lora load``, through the supervisor.
``python tests/bench/walk_cluster.py [-v]``

Three simulated workers are started under a supervisor whose calls are counted: first while nothing happens, then while
a worker that was killed is replaced, then while an adapter is loaded on all. Counted are calls from a function in one
file of ours to one in another, nearest ours on the stack, that idling does not make: the ticks of a clock are nobody's
path; nor is the resumption of a coroutine that waited. A number is that of one run; it varies with how often a poll
finds nothing yet.
"""

from __future__ import annotations

import argparse
import dis
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

#: Seconds in which everything that an idle cluster does has been done once.
IDLE_S = 6

Crossing = tuple[str, str, str, str]  # file and function that calls, file and function that is called


class Tracer:
    """Counts between SIGUSR1 and SIGUSR2, then writes what it has counted to ``out``."""

    def __init__(self, out: Path) -> None:
        self._out, self._crossings, self._files = out, Counter[Crossing](), dict[CodeType, str]()
        self._starts: dict[CodeType, int] = {}
        signal.signal(signal.SIGUSR1, lambda *_: self._begin())
        signal.signal(signal.SIGUSR2, lambda *_: self._end())

    def _begin(self) -> None:
        self._crossings.clear()
        sys.setprofile(self._called)

    def _end(self) -> None:
        sys.setprofile(None)
        fresh = self._out.with_suffix(".new")
        fresh.write_text(json.dumps([[*crossing, count] for crossing, count in self._crossings.items()]))
        fresh.rename(self._out)

    def _file(self, code: CodeType) -> str:
        """Relative to the root; empty if it is not ours."""
        if code not in self._files:
            path = Path(code.co_filename)
            ours = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("cluster", "worker", "config")
            self._files[code] = str(path.relative_to(ROOT)) if ours else ""
        return self._files[code]

    def _start(self, code: CodeType) -> int:
        """Where its first instruction is: a call of it begins there, a resumption further on."""
        if code not in self._starts:
            self._starts[code] = next(each.offset for each in dis.get_instructions(code) if each.opname == "RESUME")
        return self._starts[code]

    def _called(self, frame: FrameType, event: str, arg: Any) -> None:
        if event != "call" or not (callee := self._file(frame.f_code)) or frame.f_lasti > self._start(frame.f_code):
            return
        back = frame.f_back
        while back is not None and not self._file(back.f_code):
            back = back.f_back
        if back is not None and (caller := self._file(back.f_code)) != callee:
            self._crossings[caller, back.f_code.co_name, callee, frame.f_code.co_name] += 1


def traced(process: subprocess.Popen[bytes], out: Path, happens: Callable[[], object]) -> dict[Crossing, int]:
    from harness import poll

    process.send_signal(signal.SIGUSR1)
    happens()
    process.send_signal(signal.SIGUSR2)
    poll(out.exists, 30, "what was counted")
    found = json.loads(out.read_text())
    out.unlink()
    return {(a, b, c, d): count for a, b, c, d, count in found}


def main(listed: bool) -> None:
    import httpx

    from harness import environment, free_port, poll

    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        out, url = folder / "crossings", f"http://127.0.0.1:{port}"
        command = [
            sys.executable, __file__, "--traced", str(out), "up", "--engine", "sim", "--instances", "3",
            "--port", str(port), "--state-dir", str(folder / "state"),
        ]  # fmt: skip

        def ready() -> dict[str, Any] | None:
            try:
                instances: dict[str, Any] = httpx.get(f"{url}/v1/cluster/status", timeout=5).json()["instances"]
            except (httpx.HTTPError, ValueError, KeyError):
                return None
            return instances if len(instances) == 3 and all(i["state"] == "ready" for i in instances.values()) else None

        def crash() -> None:
            pid = instances["instance_0"]["pid"]
            os.kill(pid, signal.SIGKILL)
            poll(lambda: (now := ready()) and now["instance_0"]["pid"] != pid, 60, "another worker")

        def load() -> None:
            models = httpx.get(f"{url}/v1/models").json()["data"]
            path = next(model["root"] for model in models if model.get("parent"))
            body = {"lora_name": "walked", "lora_path": path}
            httpx.post(f"{url}/v1/load_lora_adapter", json=body, timeout=60).raise_for_status()

        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            instances = poll(ready, 120, "three workers")
            idle = traced(process, out, lambda: time.sleep(IDLE_S))
            for what, happens in (("a crash", crash), ("a lora load", load)):
                walk = {k: count for k, count in traced(process, out, happens).items() if k not in idle}
                files = {file for caller, _, callee, _ in walk for file in (caller, callee)}
                print(f"{what}: {len(files)} files, crossed {sum(walk.values())} times at {len(walk)} places")
                if listed:
                    for crossing, count in sorted(walk.items()):
                        print(f"  {count:3} {crossing[0]}:{crossing[1]} -> {crossing[2]}:{crossing[3]}")
                poll(ready, 60, "three workers")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--traced"]:
        Tracer(Path(sys.argv[2]))
        sys.argv[1:] = sys.argv[3:]
        from cluster.cli import main as command_line

        command_line()
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("-v", action="store_true", help="list the crossings")
        main(parser.parse_args().v)
