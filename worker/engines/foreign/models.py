"""What such engines have in common: what they can do, their commands and environment, a look at the model's files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from config import bounded
from config.topology import Capabilities
from worker.engines import base, flags, key_guard
from worker.engines.foreign.rules import RequestRules, Serving
from worker.spec import EngineSpec, Slot

#: How a model's ``config.json`` says how many tokens it takes, in the order they are looked for.
_CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


class ForeignEngine:
    """See `worker.engines.base.Engine`. ``process_bytes``: of main memory, beside the weights."""

    name: str
    process_bytes: int
    capabilities = Capabilities(
        lora=False, token_ids=False, detokenize=False, progress=False, embeddings=False, sleep=False
    )

    def memory_estimate(self, spec: EngineSpec) -> int:
        return self.process_bytes + weight_bytes(Path(spec.model))

    def serving(
        self, spec: EngineSpec, slot: Slot, seats: int, asked_as: str | None = None, answers_as: str | None = None
    ) -> Serving:
        cores = tuple(core for rank in slot.cores for core in rank)
        return Serving(self.name, spec.served_names, seats, asked_as, answers_as, context(Path(spec.model)), cores)

    def behind_guard(
        self, argv: Sequence[str], spec: EngineSpec, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> base.Command:
        """``argv`` and the engine's own flags. What clients call the model is answered in front of it."""
        env = environment(spec, environ, slot) | {key_guard.KEY: api_key}
        return base.Command((*argv, *flags.without(spec.extra_args, "--served-model-name")), env)


def rules_of(engine: str) -> RequestRules:
    """Raises UsageError for an engine that is not known, and TypeError for one that needs none."""
    found = getattr(base.load(engine), "rules", None)
    if not isinstance(found, RequestRules):
        raise TypeError(f"{engine} speaks for itself")
    return found


def served_by(serving: Serving) -> list[str]:
    """How a console script is run behind the guard."""
    return [sys.executable, "-m", "worker.engines.foreign.serve", serving.to_json()]


def environment(spec: EngineSpec, environ: Mapping[str, str], slot: Slot) -> dict[str, str]:
    """Without the key. Nothing is asked of a hub where the model is a folder."""
    env = {**environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if Path(spec.model).exists():
        env.setdefault("HF_HUB_OFFLINE", "1")
    if slot.gpus:
        env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, slot.gpus))}
    return env


def weight_bytes(model: Path) -> int:
    """Of a folder's weights, of which there may be several forms; 0 where they are elsewhere."""
    if not model.is_dir():
        return 0
    return max(sum(file.stat().st_size for file in model.glob(form)) for form in ("*.safetensors", "*.bin"))


def context(model: Path) -> int | None:
    """How many tokens of prompt and answer the model takes, by its folder; None: not known."""
    try:
        config = bounded.read_object(model / "config.json")
        found = [config[name] for name in _CONTEXT if isinstance(config.get(name), int)]
    except (OSError, ValueError):
        return None
    return found[0] if found else None
