"""A model's folder besides its weights: its configuration, and what else an engine reads of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from worker.jobs.job import JobFailed

#: What makes a folder a model's.
MARK = "config.json"

#: What else of it an engine reads; no code.
_COPIED = (".json", ".jinja", ".txt", ".model", ".tiktoken")

#: Bytes of a file that is copied: no weights.
_MOST_COPIED = 1 << 28


def read_config(base: Path) -> dict[str, Any]:
    """Raises JobFailed."""
    try:
        config = json.loads((base / MARK).read_bytes())
    except (OSError, ValueError):
        raise JobFailed(f"{base} is no folder of a model: it has no {MARK} that can be read", 400) from None
    if not isinstance(config, dict) or config.get("quantization_config"):
        raise JobFailed(f"{base} is quantised: take the model that it was made of", 400)
    return config


def write_config(made: Path, config: dict[str, Any]) -> None:
    """Raises OSError."""
    (made / MARK).write_text(json.dumps(config, indent=2))


def copy_rest(base: Path, made: Path) -> None:
    """All but weights and configuration. Raises OSError."""
    for file in base.iterdir():
        fits = file.suffix in _COPIED and not file.name.endswith(".index.json") and file.name != MARK
        if fits and file.is_file() and file.stat().st_size <= _MOST_COPIED:
            shutil.copyfile(file, made / file.name)
