"""The job ``train``: from a data set to an adapter in a folder, with a report."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from config import bounded
from worker.jobs import output
from worker.jobs.job import Job, JobFailed
from worker.jobs.kinds import require
from worker.training import settings as training_settings
from worker.training.data import Dialogue, RowError, read_array, read_lines
from worker.training.settings import TrainingSettings
from worker.training.written import MARK, write_config

#: Bytes of a data set, and of one that is a single JSON array, which is read at once.
_MOST_DATA, _MOST_ARRAY = 1 << 30, 1 << 28

_CHECKPOINT = "checkpoint.pt"


def run(arguments: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    """Raises JobFailed, OSError."""
    training_settings.check(arguments)
    settings = training_settings.read(arguments)
    require("train", "torch", "peft", "transformers")
    out = Path(settings.out)
    work = output.unfinished(out)
    output.check(out, settings.overwrite, MARK)
    if (work / _CHECKPOINT).exists() and not (settings.resume or settings.overwrite):
        raise JobFailed(f"a training of {out} was broken off: --resume goes on with it, --overwrite begins anew", 409)
    return _train(settings, out, work, job)


def _train(settings: TrainingSettings, out: Path, work: Path, job: Job) -> Mapping[str, Any]:
    import torch
    from transformers.utils import logging

    from worker.training import checkpoints, report
    from worker.training.loop import TrainingLoop, TrainingState
    from worker.training.model import open_model

    logging.disable_progress_bar()
    job.progress("read", 0, None, "rows")
    rows, digest = _rows(Path(settings.data))
    job.progress("model", 0, 1)
    base = open_model(settings.model, settings.dtype)
    training, validation, about = _examples(rows, base, settings, job)
    torch.manual_seed(settings.seed)
    model, targets = _with_adapter(base, settings)
    pad = base.tokenizer.pad_token_id or 0
    loop = TrainingLoop(model, base.device, training, validation, settings, pad, time.monotonic)
    made_of = {**settings.decisive, "data": digest}
    work.mkdir(mode=0o700, exist_ok=True)
    state = checkpoints.restore(work / _CHECKPOINT, loop, made_of) if settings.resume else TrainingState()
    resumed, saved = state.step, time.monotonic()
    job.progress("train", state.step, loop.steps, "steps")
    try:
        for _ in loop.run(state):
            _tell(job, loop.steps, state)
            if time.monotonic() - saved >= settings.save_every and state.step < loop.steps:
                checkpoints.save(work / _CHECKPOINT, loop, state, made_of)
                saved = time.monotonic()
    except torch.OutOfMemoryError:
        raise JobFailed("no memory on the GPU is left: a smaller --batch-size with more --grad-accum, or a shorter "
                        "--max-length, takes less", 507) from None
    made = _save(model, work, settings)
    about |= {"targets": targets, "device": base.device, "dtype": base.dtype, "resumed_at": resumed,
              "trained_values": sum(each.numel() for each in loop.trained.values()), "settings": made_of}
    files = report.write(made, about, state)
    output.publish(made, out)
    shutil.rmtree(work, ignore_errors=True)
    return {"name": settings.name, "path": str(out), "report": str(out / report.REPORT), "files": files, **{
        key: about[key] for key in ("rows", "examples", "truncated", "dropped", "resumed_at")
    }, **report.figures(state)}  # fmt: skip


def _rows(path: Path) -> tuple[list[Dialogue], str]:
    """With the SHA-256 of the file. Raises JobFailed."""
    try:
        with bounded.open_regular(path) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
            if stream.tell() > _MOST_DATA:
                raise JobFailed(f"{path} has more than the {_MOST_DATA} bytes that are taken", 400)
            stream.seek(0)
            array = stream.read(4096).lstrip()[:1] == b"["
            stream.seek(0)
            rows = list(read_array(bounded.read(stream, _MOST_ARRAY)) if array else read_lines(stream))
    except FileNotFoundError:
        raise JobFailed(f"{path}: no such file", 404) from None
    except (RowError, bounded.Unfit) as error:
        raise JobFailed(f"{path}: {error}", 400) from None
    if not rows:
        raise JobFailed(f"{path}: no rows", 400)
    return rows, digest


def _examples(
    rows: list[Dialogue], base: Any, settings: TrainingSettings, job: Job
) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """For training, for validation, and what to say of them."""
    from worker.training.examples import prepare

    kept, tested = _split(len(rows), settings)
    length = min(settings.max_length, base.context)
    sets = []
    for part in (kept, tested):
        try:
            sets.append(prepare(_told((rows[at] for at in part), len(part), job), base.tokenizer, length))
        except RowError as error:
            raise JobFailed(f"{settings.data}: {error}", 400) from None
    training, validation = sets
    if not training.examples:
        raise JobFailed(f"nothing to learn within --max-length {length}: all {len(kept)} rows are longer", 400)
    found = {
        "name": settings.name, "base_model": settings.base_name or settings.model, "rows": len(rows),
        "examples": len(training.examples), "validation_examples": len(validation.examples),
        "truncated": training.truncated + validation.truncated, "dropped": training.dropped + validation.dropped,
    }  # fmt: skip
    if found["truncated"]:
        job.note(f"{found['truncated']} examples were longer than {length} tokens and are cut, of which "
                 f"{found['dropped']} had no answer left and are not trained on")
    return list(training.examples), list(validation.examples), found


def _told(rows: Iterator[Dialogue], count: int, job: Job) -> Iterator[Dialogue]:
    for at, row in enumerate(rows):
        job.progress("tokenize", at, count, "rows")
        yield row


def _split(rows: int, settings: TrainingSettings) -> tuple[list[int], list[int]]:
    """Which rows are trained on, and which are kept out for validation: those that the seed says."""
    import torch

    count = int(rows * settings.val_split)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(settings.seed)).tolist()
    return sorted(order[count:]), sorted(order[:count])


def _with_adapter(base: Any, settings: TrainingSettings) -> tuple[Any, list[str]]:
    from peft import LoraConfig, get_peft_model

    from worker.training.model import target_modules

    targets = target_modules(base.model, settings.targets, settings.embeddings)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout,
        target_modules=targets,
    )
    model = get_peft_model(base.model, config)
    config.base_model_name_or_path = settings.base_name or settings.model  # PEFT puts the model's path there
    checkpointing = settings.gradient_checkpointing
    if base.device == "cuda" if checkpointing is None else checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, targets


def _tell(job: Job, steps: int, state: Any) -> None:
    speed = state.tokens / max(state.seconds, 1e-9)
    more = {"val loss": state.validation[-1][1]} if state.validation else {}
    job.progress("train", state.step, steps, "steps", loss=state.curve[-1][1], **{"tokens/s": round(speed)}, **more)


def _save(model: Any, work: Path, settings: TrainingSettings) -> Path:
    """A folder with the adapter as PEFT writes it, without the base model's own embeddings."""
    made = output.empty(work / "adapter")
    model.save_pretrained(str(made), safe_serialization=True, save_embedding_layers=False)
    write_config(model.peft_config["default"], made)
    (made / "README.md").unlink(missing_ok=True)  # an empty form
    return made
