"""A disk without room: the state directory on a small file system of its own, and something that fills it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from pathlib import Path

from chaos.faults import Fault
from chaos.upheavals import words
from chaos.wire import Answer
from harness import Cluster


class DiskFull(Fault):
    """Nothing can be written below the state directory; traffic does not notice, changes are refused or done."""

    name, group = "disk full", "plan"

    async def start(self) -> None:
        await super().start()
        self.filler = Path(self.arena.disk) / "filler"
        await asyncio.to_thread(_fill, self.filler)
        for path, body in (
            ("/v1/cluster/strategy", {"strategy": "random"}),
            ("/v1/cluster/scale", {"instances": self.arena.instances}),
            ("/v1/load_lora_adapter", {"lora_name": "late", "lora_path": _ADAPTER}),
        ):
            answer = await self.arena.post(path, body)
            if answer.problem or (answer.status >= 400 and not _says_why(answer)):
                self.blame(f"{path} on a full disk: {words(answer)}")
            elif answer.status >= 400:
                said = words(answer).replace(str(self.arena.cluster.state_dir), "the state directory")
                self.note = f"{path.rpartition('/')[2]}: {said}"[:120]
        await asyncio.sleep(2.0)

    async def finish(self) -> None:
        self.filler.unlink(missing_ok=True)
        await super().finish()
        await self.arena.post("/v1/unload_lora_adapter", {"lora_name": "late"})
        answer = await self.arena.post("/v1/cluster/strategy", {"strategy": "least_connections"})
        if answer.status != 200:
            self.blame(f"with room again, strategy: {words(answer)}")

    async def clear(self) -> None:
        await super().clear()
        self.filler.unlink(missing_ok=True)


_ADAPTER = str(Path(__file__).resolve().parents[2] / "worker" / "demo" / "adapters" / "poet")


def _fill(file: Path) -> None:
    block = b"\0" * 65536
    with file.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while len(block):
            written = out.write(block)
            block = block if written == len(block) else block[:512]


def _says_why(answer: Answer) -> bool:
    try:
        return bool(json.loads(answer.body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return False


def small_disk(cluster: Cluster, mebibytes: int = 64) -> str:
    """Mounts a small file system where the cluster's state will be; where it is, or why there is none."""
    place = cluster.state_dir
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=700", "tmpfs", str(place)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"no disk to fill: {error}"
    return str(place) if not result.returncode else f"no disk to fill: {result.stderr.strip()}"


def give_back(place: str) -> None:
    """Unmounts it."""
    subprocess.run(["umount", "-l", place], capture_output=True, check=False)
