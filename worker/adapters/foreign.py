"""Whether an adapter is as PEFT writes it, or a conversion (`worker.conversion`) would make another of it. Blocking."""

from __future__ import annotations

from pathlib import Path

from worker.adapters.rules import CONFIG, WEIGHTS
from worker.adapters.shapes import BaseShapes
from worker.adapters.tensors import AdapterRejected, open_regular, read_header, read_object
from worker.conversion import source
from worker.conversion.layouts import Unservable, arrange

_MOST_CONFIG = 1 << 20  # bytes


def is_foreign(folder: Path, base: BaseShapes | None) -> bool:
    """Reads names and headers, nothing of a pickle. ``base``: the base model's shapes, if they are known. Raises
    AdapterRejected for what is no adapter or none that can be converted, with what it is instead."""
    try:
        found = source.locate(folder)
        if found.folder != folder or [file.name for file in found.weights] != [WEIGHTS]:
            return True
        with open_regular(folder / CONFIG) as stream:
            config = read_object(stream, CONFIG, _MOST_CONFIG)
        with open_regular(folder / WEIGHTS) as stream:
            tensors = {name: tensor.shape for name, tensor in read_header(stream, WEIGHTS).items()}
        rows = {} if base is None else {name: shape[0] for name, shape in base.shapes.items()}
        plain = source.converted(found, config.get("init_lora_weights")) is found
        return not plain or bool(arrange(config, tensors, rows).done)
    except Unservable as error:
        raise AdapterRejected(400, str(error)) from None
    except OSError:
        return False
