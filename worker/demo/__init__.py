"""A tiny Llama model with two LoRA adapters, so that a cluster can be tried without a download.

`python -m demo.build` (in the repository) rebuilds every file from the text below `demo/corpus/`.
"""

from pathlib import Path

MODEL_NAME = "demo"
ADAPTERS = ("pirate", "poet")

_HERE = Path(__file__).resolve().parent


def model_path() -> Path:
    """Return the folder of the base model, in the Hugging Face layout."""
    return _HERE / "model"


def gguf_path() -> Path:
    """Return the base model in one file, as llama.cpp takes it (made by `python -m demo.gguf`)."""
    return _HERE / "gguf" / "demo.gguf"


def adapter_path(name: str) -> Path:
    """Return the folder of the adapter `name`, in the PEFT layout."""
    if name not in ADAPTERS:
        raise KeyError(f"unknown demo adapter {name!r}, the known ones are {', '.join(ADAPTERS)}")
    return _HERE / "adapters" / name


def adapters() -> dict[str, Path]:
    """Return the folder of each adapter by its name."""
    return {name: adapter_path(name) for name in ADAPTERS}
