"""A folder of its own for the temporary files of each start of a worker. What is killed clears up nothing: vLLM leaves
`vllm_dist_*` and `pymp-*` behind, in the folder that everybody uses.

It lies in that folder, and not in the state directory: a path of a socket may have 107 bytes, and vLLM's are long.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from config.disk import private
from config.errors import UsageError
from worker.spec import WorkerSpec

#: Characters of its path at most: what vLLM names its sockets by needs 37 more, of 107.
_LONGEST = 70


def make(spec: WorkerSpec) -> Path | None:
    """None where it cannot be made, as on a full disk, or would lie too deep: then the worker uses what everybody
    does."""
    folder = place(spec)
    if len(os.fsencode(folder)) > _LONGEST:
        return None
    try:
        private.make(folder.parent)
        private.make(folder)
    except (OSError, UsageError):
        return None
    return folder


def remove(spec: WorkerSpec) -> None:
    """Nothing of this start runs any more."""
    folder = place(spec)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # others of its cluster have theirs there
        folder.parent.rmdir()


def place(spec: WorkerSpec) -> Path:
    """Of this start: found again from what a later supervisor knows of it. No two starts have one number; the name is
    for people."""
    cluster = hashlib.sha256(os.fsencode(spec.run_file.parent)).hexdigest()[:12]
    ours = Path(tempfile.gettempdir()) / f"clusterctl-{os.geteuid()}-{cluster}"
    return ours / f"{spec.run_file.name[-16:]}-{spec.incarnation}"
