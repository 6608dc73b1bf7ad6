"""Settings from files and flags, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.errors import UsageError
from config.settings import load


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


def refusal_of(flags: dict[str, Any], config: Path | None = None) -> str:
    with pytest.raises(UsageError) as error:
        load(flags, config)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)
