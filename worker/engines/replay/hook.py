"""Where vLLM's server hands a request to its engine: there the note is put, and the tokens are seen as they come.

All APIs that make text call ``engine_client.generate`` (vllm/v1/engine/async_llm.py), in a task of the request or in
one made by it: a context variable says whose call it is. Several choices are children of one call, which share its
parameters (vllm/v1/engine/parallel_sampling.py): each is given its own note.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from typing import Any

from worker.engines.replay.note import NOTE, PROCESSOR
from worker.engines.replay.tracker import Tracker

#: The request that is being answered, if somebody wants something of it.
REQUEST: ContextVar[Tracker | None] = ContextVar("clusterctl_replay", default=None)

_CHILDREN = "_get_child_sampling_params"


class Unable(Exception):
    """Why this vLLM makes no answer again."""


def check(config: Any) -> None:
    """Raises Unable where the engine does not load the processor, by vLLM's own rules (build_logitsprocs)."""
    loaded = {point.value for point in importlib.metadata.entry_points(group="vllm.logits_processors")}
    if PROCESSOR not in loaded:
        raise Unable("its entry point is not on the path of this process")
    if config.model_config.runner_type != "generate":
        raise Unable("this model makes no text")
    if config.speculative_config is not None:
        raise Unable("with speculative decoding vLLM takes no logits processor")
    processor = importlib.import_module(PROCESSOR.partition(":")[0])
    if not (processor.V2 if config.use_v2_model_runner else processor.V1):
        raise Unable("this version has another interface for logits processors")


def attach(client: Any) -> None:
    """Put it around ``client.generate``. Raises AttributeError, ImportError where vLLM is built otherwise."""
    parents = importlib.import_module("vllm.v1.engine.parallel_sampling").ParentRequest
    children = getattr(parents, _CHILDREN)
    setattr(parents, _CHILDREN, _children(children))
    client.generate = _generate(client.generate)


def _children(original: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    def child(parent: Any, index: int) -> Any:
        params = original(parent, index)
        notes = (params.extra_args or {}).get(NOTE)
        return params if notes is None else _noted(params, notes[index])

    return child


def _generate(original: Callable[..., Any]) -> Callable[..., Any]:
    def generate(prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        request = REQUEST.get()
        params = _noted(sampling_params, None) if NOTE in (sampling_params.extra_args or ()) else sampling_params
        if request is None:
            return original(prompt, params, *args, **kwargs)
        base, first = request.call(params.n)
        if any(first):
            params = _noted(params, first if params.n > 1 else first[0])
        return _seen(original(prompt, params, *args, **kwargs), request, base, params.output_kind.name)

    return generate


def _noted(params: Any, note: Any) -> Any:
    """A copy with this note and no other; what a client has put there is none."""
    params = copy.copy(params)
    others = {name: value for name, value in (params.extra_args or {}).items() if name != NOTE}
    params.extra_args = {**others, NOTE: note} if note else others or None
    return params


async def _seen(
    outputs: AsyncGenerator[Any, None], request: Tracker, base: int, kind: str
) -> AsyncGenerator[Any, None]:
    counts: dict[int, int] = {}
    try:
        async for output in outputs:
            for made in output.outputs:
                # Of what is not told in parts all tokens come each time.
                start = 0 if kind == "DELTA" else counts.get(made.index, 0)
                request.made(base + made.index, made.token_ids[start:])
                counts[made.index] = len(made.token_ids)
            yield output
    finally:
        await outputs.aclose()  # which takes the request out of the engine, if it is still there
