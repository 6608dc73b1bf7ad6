"""An engine for zygotes under test (`worker.zygote.engines.base.Forkable`): a command ``python … -c CODE``, that is run
in the fork. In the environment, `ZYGOTE_OBSTACLE` is why there can be none, `ZYGOTE_THREAD` makes a second thread, and
`ZYGOTE_IMPORT_S` is how long it imports."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Sequence


def preload() -> None:
    tempfile.gettempdir()  # found out once, and kept by Python
    time.sleep(float(os.environ.get("ZYGOTE_IMPORT_S", "0")))
    if "ZYGOTE_THREAD" in os.environ:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def obstacle() -> str | None:
    return os.environ.get("ZYGOTE_OBSTACLE")


def run(argv: Sequence[str]) -> int | None:
    exec(argv[argv.index("-c") + 1], {"__name__": "__main__"})
    return None
