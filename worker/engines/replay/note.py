"""How the middleware and the engine of a vLLM worker, two processes, speak of tokens to be made first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

#: In ``SamplingParams.extra_args``: the ids, of a request with several choices a list of ids for each.
NOTE = "clusterctl_replay"

#: What vLLM is told to load, by an entry point ``vllm.logits_processors``.
PROCESSOR = "worker.engines.replay.processor:Forced"

#: A folder with the metadata of a package that is not installed, and has this entry point: on the path of our workers,
#: and of no other engine of the environment.
PLUGIN = Path(__file__).with_name("plugin")


def python_path(environ: Mapping[str, str]) -> str:
    """``PYTHONPATH`` of a worker, before that of ``environ``."""
    return ":".join(filter(None, (str(PLUGIN), environ.get("PYTHONPATH"))))
