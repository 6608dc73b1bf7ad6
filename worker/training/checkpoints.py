"""A checkpoint: one file with all that a training goes on from, whole or not there."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from config.disk.files import replacing
from worker.jobs.job import JobFailed
from worker.training.loop import TrainingLoop, TrainingState


def save(path: Path, loop: TrainingLoop, state: TrainingState, made_of: Mapping[str, Any]) -> None:
    """``made_of``: what the result follows from, as JSON. Raises OSError."""
    content = {
        "made_of": dict(made_of), "state": asdict(state), "optimizer": loop.optimizer.state_dict(),
        "weights": {name: each.detach() for name, each in loop.trained.items()},
        "random": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
    }  # fmt: skip
    with replacing(path) as file:
        torch.save(content, file)


def restore(path: Path, loop: TrainingLoop, made_of: Mapping[str, Any]) -> TrainingState:
    """Puts ``loop`` back to where it was. Raises JobFailed where there is no checkpoint, or one of something else."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        before: Mapping[str, Any] = found["made_of"]
        if changed := sorted(key for key in made_of if before.get(key) != made_of[key]):
            was = ", ".join(f"{key} (was {before.get(key)!r})"[:200] for key in changed)
            raise JobFailed(f"--resume goes on with what was begun, and this is something else: {was}", 409)
        with torch.no_grad():
            for name, each in loop.trained.items():
                each.copy_(found["weights"][name])
        loop.optimizer.load_state_dict(found["optimizer"])
        torch.set_rng_state(found["random"]["cpu"])
        torch.cuda.set_rng_state_all(found["random"]["cuda"])
        state = TrainingState(**found["state"])
    except FileNotFoundError:
        raise JobFailed("there is no checkpoint to resume from: leave --resume away", 404) from None
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise JobFailed(f"the checkpoint {path} cannot be read: {str(error)[:200]}", 400) from None
    return state
