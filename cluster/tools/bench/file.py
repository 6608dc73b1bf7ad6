"""The settings file of a benchmark: `server`, `test_params`, `prompts`, `output`, as names and values of options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.tools.bench.prompts import BenchPrompt, listed
from config.errors import UsageError, nearest
from config.sources.yaml_file import read_mapping

#: Keys by section, and the option each one stands for. Several keys may stand for one option.
SECTIONS: dict[str, dict[str, str]] = {
    "server": {"url": "url", "model": "model"},
    "test_params": {
        **{name: name for name in (
            "requests", "concurrency", "rate", "duration", "prompts_file", "num_prompts", "prompt_words", "max_tokens",
            "temperature", "stream", "adapters", "endpoint", "ignore_eos", "warmup", "seed", "timeout",
        )},
        "num_requests": "requests", "concurrent_requests": "concurrency", "request_rate": "rate",
        "warmup_requests": "warmup",
    },
    "output": {
        "log_dir": "out", "save_individual_metrics": "save_requests", "console_output": "table", "plot": "plot",
    },
}  # fmt: skip

_TOP = (*SECTIONS, "prompts")


@dataclass(frozen=True, slots=True)
class BenchFile:
    """``given``: option, the key it came from, and its value."""

    path: Path
    given: dict[str, tuple[str, Any]]
    prompts: list[BenchPrompt] | None


def read(path: Path) -> BenchFile:
    """Raises UsageError with one line that names the file, the key and what is wrong with it. Paths in it are relative
    to its folder."""
    data = read_mapping(path)
    _known(path, "", data, _TOP)
    given: dict[str, tuple[str, Any]] = {}
    for section, keys in SECTIONS.items():
        values = data.get(section)
        if values is None:
            continue
        if not isinstance(values, dict):
            raise UsageError(f"{path}: {section}: 'key: value' lines are needed", exit_code=2)
        _known(path, f"{section}: ", values, keys)
        for key, value in values.items():
            option = keys[key]
            if value is None:
                continue
            if option in given:
                raise UsageError(f"{path}: {given[option][0]} and {section}.{key} are the same", exit_code=2)
            if isinstance(value, dict | list):
                raise UsageError(f"{path}: {section}.{key}: one value is needed", exit_code=2)
            if option in ("out", "prompts_file"):
                value = str(path.parent / Path(str(value)).expanduser())
            given[option] = (f"{section}.{key}", value)
    prompts = data.get("prompts")
    if prompts is not None and not isinstance(prompts, list):
        raise UsageError(f"{path}: prompts: a list is needed", exit_code=2)
    return BenchFile(path, given, None if prompts is None else listed(f"{path}: prompts", prompts))


def _known(path: Path, where: str, keys: Any, known: Any) -> None:
    for key in keys:
        if key not in known:
            raise UsageError(f"{path}: {where}unknown key {str(key)!r}{nearest(str(key), known)}", exit_code=2)
