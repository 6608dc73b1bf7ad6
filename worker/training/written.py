"""How an adapter's configuration is written: as PEFT does, and the same for the same adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: What makes a folder an adapter's.
MARK = "adapter_config.json"


def write_config(config: Any, folder: Path) -> None:
    """``config``: a `peft.LoraConfig`. Its sets are sorted: an adapter is known by the hash of its files. Raises
    OSError."""
    values = {
        name: sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        for name, value in sorted(config.to_dict().items())
    }
    values["inference_mode"] = True
    (folder / MARK).write_text(json.dumps(values, indent=2))
