"""The job `convert`: an adapter as some trainer left it, made into what the engine loads, in a confined process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config import bounded
from config.text import printable
from worker.confinement.process import Confinement, NotConfined, OutOfTime, ProcessBounds, confine
from worker.conversion import bases
from worker.conversion.arguments import ConvertArguments, read
from worker.conversion.layouts import Layout, Unservable, arrange
from worker.conversion.source import CONFIG, AdapterSource, converted, locate
from worker.gguf import adapter as gguf_adapter
from worker.gguf.weights import NotConvertible
from worker.jobs.job import Job, JobFailed
from worker.jobs.kinds import require

#: The result, in the job's folder.
RESULT, WEIGHTS, GGUF = "adapter", "adapter_model.safetensors", "adapter.gguf"

#: Bytes of all weights that are read, of a configuration, and its values.
MOST_BYTES, _MOST_CONFIG, _MOST_VALUES = 8 << 30, 1 << 20, 50_000

#: Memory: the file, its tensors, their copies, and what libraries take. Processor: reading at 20 MB/s, and the rest.
_TIMES, _BESIDE, _BYTES_A_SECOND, _SECONDS = 4, 1 << 30, 20_000_000, 120

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def run(arguments: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    """``folder``: where the result is; ``done``: what was done, in words; ``walls``: what confined it; ``files``."""
    request = read(arguments)
    for name in _THREADS:  # Landlock confines one thread: the libraries must start no others before
        os.environ[name] = "1"
    require("train", "torch", "safetensors")
    try:
        source = locate(Path(request.source))
        config = _config(source)
        source = converted(source, config.get("init_lora_weights"))
        return _convert(request, source, job)
    except Unservable as error:
        raise JobFailed(str(error), 400) from None
    except NotConvertible as error:
        raise JobFailed(f"llama.cpp cannot be given this adapter: {error}", 400) from None
    except NotConfined as error:
        raise JobFailed(f"{error} (--unconfined reads them all the same)", 409) from None
    except MemoryError:
        raise JobFailed("it takes more memory than its size accounts for: it is not loaded", 400) from None
    except OutOfTime:
        raise JobFailed("it takes more time than its size accounts for: it is not loaded", 400) from None


def _convert(request: ConvertArguments, source: AdapterSource, job: Job) -> Mapping[str, Any]:
    files = [source.folder / CONFIG, *source.weights]
    size = _check_files(files, _own(source.folder))
    base = Path(request.base) if request.base else None
    rows = bases.rows(base) if base is not None and base.is_dir() else {}
    header = bases.gguf_header(base) if request.to == "gguf" and base is not None else None
    out = _empty(Path(request.out) if request.out else job.folder / RESULT)
    job.progress("read", 0, size, "bytes")
    from worker.conversion import tensors as tensor_files  # imports torch, before nothing can be imported any more

    os.environ.clear()  # there may be secrets in it
    walls = _confine(files, out, size, request.unconfined)
    try:
        tensors, done = tensor_files.read(source.weights)
        job.progress("read", size, size, "bytes")
        layout = arrange(_config(source), {name: tuple(tensor.shape) for name, tensor in tensors.items()}, rows)
        done = [*source.done, *done, *layout.done, *tensor_files.write(layout, tensors, out / WEIGHTS)]
        _write_config(layout, out / CONFIG)
        if header is not None:
            gguf_adapter.convert(out, header, out / GGUF)
            done.append(f"made {GGUF} for llama.cpp")
    except BaseException:
        for file in out.iterdir():
            file.unlink()
        raise
    return {
        "folder": str(out), "done": done, "walls": list(walls.walls), "missing": list(walls.missing),
        "files": sorted(file.name for file in out.iterdir()),
    }  # fmt: skip


def _empty(out: Path) -> Path:
    """Makes the folder. Raises JobFailed for one with something in it."""
    try:
        out.mkdir(exist_ok=True)
        if any(out.iterdir()):
            raise JobFailed(f"{out} is not empty: name a new folder", 409)
    except OSError as error:
        raise JobFailed(f"{out} cannot be made: {error.strerror}", 400) from None
    return out


def _confine(files: Sequence[Path], out: Path, size: int, unconfined: bool) -> Confinement:
    import sysconfig

    libraries = [Path(path) for name in ("stdlib", "platlib") if (path := sysconfig.get_paths().get(name))]
    bounds = ProcessBounds(_TIMES * size + _BESIDE, 2 * size + _BESIDE // 8, _SECONDS + size // _BYTES_A_SECOND)
    return confine([*libraries, *(file.resolve() for file in files)], [out], bounds, unconfined=unconfined)


def _own(folder: Path) -> Path:
    """What belongs to ``folder``: in a Hugging Face cache, where a snapshot is links into ``blobs``, the repository."""
    folder = folder.resolve()
    for parent in folder.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return parent.parent
    return folder


def _check_files(files: Sequence[Path], within: Path) -> int:
    """Bytes of all. Raises JobFailed for what is no file in there, or too large."""
    size = 0
    for file in files:
        real = file.resolve()
        if not real.is_relative_to(within):
            raise JobFailed(f"{printable(file.name)} is a link that leads out of the adapter's folder", 400)
        if not real.is_file():
            raise JobFailed(f"{printable(file.name)} is no regular file", 400)
        size += real.stat().st_size
    if size > MOST_BYTES:
        raise JobFailed(f"the adapter has {size} bytes, more than the {MOST_BYTES} that are read", 400)
    return size


def _config(source: AdapterSource) -> dict[str, Any]:
    try:
        return bounded.read_object(source.folder / CONFIG, _MOST_CONFIG, _MOST_VALUES)
    except ValueError as error:
        raise JobFailed(f"{CONFIG} {error}", 400) from None


def _write_config(layout: Layout, path: Path) -> None:
    path.write_text(json.dumps(layout.config, indent=2, sort_keys=True) + "\n")
