"""What an adapter's content is: its files, and the hash that names them wherever they lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from worker.adapters.rules import CONFIG, WEIGHTS
from worker.adapters.tensors import AdapterRejected, open_regular

FILES = (CONFIG, WEIGHTS)
"""All that vLLM 0.32 reads of an adapter, in order: no tokenizer, no added embeddings, no other safetensors."""

MAX_BYTES = 4 * 1024**3
"""Of an adapter."""

_CHUNK = 1 << 20  # bytes


def content_hash(path: Path) -> str:
    """SHA-256, in hex, of the adapter in the folder ``path``: the same wherever it lies and whenever it was written.

    Raises AdapterRejected 404 (a file is missing), 400 (it is no file), 409 (it shrank meanwhile), OSError.
    """
    with ExitStack() as stack:
        return hash_streams({name: stack.enter_context(source(path / name, 404)) for name in FILES})


def hash_streams(streams: Mapping[str, BinaryIO]) -> str:
    """As `content_hash`, of open files by name."""
    digest = hashlib.sha256()
    for name in sorted(streams):
        size = os.fstat(streams[name].fileno()).st_size
        # With lengths before names and contents no two adapters make the same bytes.
        digest.update(len(name).to_bytes(8, "little") + name.encode() + size.to_bytes(8, "little"))
        for chunk in chunks(streams[name], size, name):
            digest.update(chunk)
    return digest.hexdigest()


def source(path: Path, missing: int) -> BinaryIO:
    """An open file; ``missing`` is the status for one that is not there."""
    try:
        return open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        raise AdapterRejected(missing, f"{path} does not exist") from None


def chunks(stream: BinaryIO, size: int, name: str) -> Iterator[bytes]:
    """The first ``size`` bytes and no more: a file that somebody appends to has no end."""
    stream.seek(0)
    while size:
        chunk = stream.read(min(size, _CHUNK))
        if not chunk:
            raise AdapterRejected(409, f"{name} became shorter while it was read: try again")
        size -= len(chunk)
        yield chunk
