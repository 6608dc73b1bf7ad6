"""The README.md of what is published, which hubs show and search by. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from config.text import printable

#: Of a report of a training (`worker.training.report`), what is shown and how it is called.
_SHOWN = {
    "rows": "rows of data", "steps": "steps", "loss_from": "loss at first", "loss_to": "loss at last",
    "validation_from": "validation loss at first", "validation_to": "validation loss at last",
    "samples_per_second": "samples a second",
}  # fmt: skip

_SETTINGS = ("epochs", "batch_size", "grad_accum", "lr", "max_length", "seed", "dropout")


def card(name: str, base: str, adapter: Mapping[str, Any] | None, report: Mapping[str, Any] | None) -> str:
    """``adapter``: its configuration, None for a whole model; ``report``: of its training, if there is one; ``base``:
    the model's name, empty where it is not known. No paths of this machine stand in it."""
    head: dict[str, Any] = {"tags": ["lora", "vllm"] if adapter is not None else ["vllm"]}
    head["pipeline_tag"] = "text-generation"
    if adapter is not None:
        head["library_name"] = "peft"
    if base:
        head["base_model"] = base
    lines = ["---", yaml.safe_dump(head, allow_unicode=True).strip(), "---", "", f"# {printable(name)}", ""]
    if adapter is not None:
        targets = adapter.get("target_modules") or []
        shown = ", ".join(sorted(map(str, targets))) if isinstance(targets, list) else str(targets)
        lines += [f"A LoRA adapter of rank {adapter.get('r')}, alpha {adapter.get('lora_alpha')}, for {shown}"
                  + (f" of {base}." if base else "."), ""]  # fmt: skip
    if report is not None:
        settings = report.get("settings") if isinstance(report.get("settings"), Mapping) else {}
        assert isinstance(settings, Mapping)
        rows = [(what, report[key]) for key, what in _SHOWN.items() if key in report]
        rows += [(key, settings[key]) for key in _SETTINGS if key in settings]
        lines += ["| training | |", "|---|---|", *(f"| {what} | {_value(value)} |" for what, value in rows), ""]
    return "\n".join(lines)


def _value(value: Any) -> str:
    """A number; what is none is not shown."""
    return f"{value:.5g}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"
