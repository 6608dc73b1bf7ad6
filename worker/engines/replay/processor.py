"""In vLLM's engine: makes the tokens of a request's note first, whatever would have been sampled.

All that follows from a token (grammar, penalties, parsers, a seeded generator) goes on as if it had been, as it is
sampled like any other, from logits that leave no choice. Loaded by the entry point in `note.PLUGIN`. The engine's two
model runners know different interfaces (vllm/v1/sample/logits_processor, vllm/v1/worker/gpu/sample/logits_processor)
and accept only classes of their own: `Forced` is one of both. Of a version that has neither nothing is asked.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from worker.engines.replay.note import NOTE


def _interface(module: str) -> tuple[type, ...]:
    try:
        return (importlib.import_module(module).LogitsProcessor,)
    except (ImportError, AttributeError):
        return ()


V1, V2 = _interface("vllm.v1.sample.logits_processor"), _interface("vllm.v1.worker.gpu.sample.logits_processor")


class Forced(*V1, *V2):  # type: ignore[misc]
    """``state``: what the second interface says of the requests in its slots; of the first one it is the device."""

    def __init__(self, vllm_config: Any, state: Any, is_pin_memory: bool | None = None) -> None:
        self._prompts: Any = getattr(state, "prompt_len", None)
        #: By row or slot: the tokens of its note and, in the first interface, those made so far (the engine's list).
        self._notes: dict[int, tuple[list[int], list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Of the first interface: requests that came, went or moved to other rows."""
        if batch_update is None or not (self._notes or batch_update.added):
            return
        for row in batch_update.removed:
            self._notes.pop(row, None)
        for row, params, _, made in batch_update.added:
            self._keep(row, self._read(params), made)
        for source, target, direction in batch_update.moved:
            moved, replaced = self._notes.pop(source, None), self._notes.pop(target, None)
            if moved is not None:
                self._notes[target] = moved
            if replaced is not None and direction.name == "SWAP":
                self._notes[source] = replaced

    def add_request(self, slot: int, params: Any) -> bool:
        """Of the second interface: whether this has a say in what the request in ``slot`` makes."""
        note = self._read(params)
        self._keep(slot, note, [])
        return note is not None

    def apply(self, logits: torch.Tensor, context: Any = None) -> torch.Tensor:
        """``logits``: a row for each token to be sampled, over the vocabulary."""
        if not self._notes:
            return logits
        if context is None:
            for row, (tokens, made) in self._notes.items():
                if len(made) < len(tokens):
                    _leave_only(logits, row, tokens[len(made)])
        elif any(slot in self._notes for slot in context.idx_mapping_np.tolist()):
            self._apply_to_slots(logits, context)
        return logits

    def _apply_to_slots(self, logits: torch.Tensor, context: Any) -> None:
        """Waits for the device, which is where the rows are known: while notes are followed only."""
        places = zip(context.expanded_idx_mapping.tolist(), context.pos.tolist(), strict=True)
        for row, (slot, position) in enumerate(places):
            tokens, _ = self._notes.get(slot, ((), None))
            made = position + 1 - int(self._prompts.np[slot])
            if 0 <= made < len(tokens):
                _leave_only(logits, row, tokens[made])

    def _keep(self, place: int, tokens: list[int] | None, made: list[int]) -> None:
        if tokens is None:
            self._notes.pop(place, None)
        else:
            self._notes[place] = (tokens, made)

    def _read(self, params: Any) -> list[int] | None:
        tokens = (getattr(params, "extra_args", None) or {}).get(NOTE)
        if isinstance(tokens, list) and tokens and all(type(token) is int for token in tokens):
            return tokens
        return None


def _leave_only(logits: torch.Tensor, row: int, token: int) -> None:
    """Nothing else can be sampled. An id that is none is left alone: the engine would die of it."""
    if not 0 <= token < logits.shape[-1]:
        return
    value = logits[row, token].clone()
    logits[row].fill_(float("-inf"))
    logits[row, token] = torch.where(torch.isfinite(value), value, torch.zeros_like(value))
