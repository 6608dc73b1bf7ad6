"""``python -m worker.zygote SOCKET MODULE``: imports what ``MODULE`` (`worker.zygote.engines`) says, then serves."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import cast

from worker.zygote.engines.base import Forkable
from worker.zygote.server import Zygote, listen


def main() -> None:
    path, module = sys.argv[1:]
    # Before anything is imported: who connects meanwhile is answered when that is done.
    listener = listen(Path(path))
    engine = cast(Forkable, importlib.import_module(module))
    with contextlib.suppress(ImportError):
        importlib.import_module("setproctitle").getproctitle()  # finds its place by variables that change later
    engine.preload()
    request = Zygote(listener, lambda: _obstacle(engine)).serve()
    if request is not None:
        sys.exit(engine.run(request.argv))  # from the outermost frame: its end is that of any interpreter


def _obstacle(engine: Forkable) -> str | None:
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - of names, none is used
    if threads > 1:
        return f"it has {threads} threads, and a fork would have one of them"
    return engine.obstacle()


if __name__ == "__main__":
    main()
