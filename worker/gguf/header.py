"""What a GGUF file says of itself before its tensors: key and value pairs. Blocking file work.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 3; 2 reads the same).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAGIC, VERSION = b"GGUF", 3

#: Types of values by their number, as `struct` knows them; 8 is a string and 9 an array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9

_MOST_PAIRS, _MOST_TEXT, _MOST_ITEMS = 4096, 1 << 20, 1 << 24
_KEPT_ITEMS = 1024  # an array with more is a vocabulary


class NotGguf(Exception):
    """The text says what is wrong with the file."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """``values``: scalars, strings and short arrays by key, as they are in the file. ``size``: bytes of the file."""

    values: dict[str, Any]
    size: int

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    def number(self, key: str, default: int = 0) -> int:
        """The value ``key`` of its architecture; the largest of an array with one for each layer."""
        found = self.values.get(f"{self.architecture}.{key}", default)
        if isinstance(found, list):
            found = max((item for item in found if isinstance(item, int)), default=default)
        return int(found) if isinstance(found, int | float) else default

    @property
    def context(self) -> int:
        """Tokens that the model was trained for."""
        return self.number("context_length", 4096)

    @property
    def heads(self) -> int:
        return max(1, self.number("attention.head_count", 1))

    @property
    def kv_heads(self) -> int:
        return max(1, self.number("attention.head_count_kv", self.heads))

    @property
    def kv_bytes_per_token(self) -> int:
        """In the KV cache, of 16-bit values."""
        each = self.number("embedding_length", 1) // self.heads
        key, value = self.number("attention.key_length", each), self.number("attention.value_length", each)
        return 2 * max(1, self.number("block_count", 1)) * self.kv_heads * (key + value)


def read(path: Path) -> GgufHeader:
    """Raises NotGguf, OSError."""
    with path.open("rb") as stream:
        if stream.read(4) != MAGIC:
            raise NotGguf(f"{path.name} is no GGUF file")
        try:
            version, _, pairs = unpack(stream, "<IQQ")
            if version not in (2, VERSION) or pairs > _MOST_PAIRS:
                raise NotGguf(f"{path.name} is GGUF of version {version}, which is not read here")
            values = {}
            for _ in range(pairs):
                key = text(stream)
                (kind,) = unpack(stream, "<I")
                if (found := value(stream, kind)) is not None:
                    values[key] = found
        except (struct.error, UnicodeDecodeError, ValueError):
            raise NotGguf(f"{path.name} is a broken GGUF file") from None
        return GgufHeader(values, path.stat().st_size)


def unpack(stream: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, stream.read(struct.calcsize(form)))


def text(stream: BinaryIO) -> str:
    """Raises ValueError, struct.error."""
    (size,) = unpack(stream, "<Q")
    if size > _MOST_TEXT:
        raise ValueError("a string that is too long")
    data = stream.read(size)
    if len(data) < size:
        raise ValueError("cut off")
    return data.decode(errors="replace")


def value(stream: BinaryIO, kind: int, kept: int = _KEPT_ITEMS) -> Any:
    """None for an array of more than ``kept`` items. Raises ValueError, struct.error."""
    if kind == STRING:
        return text(stream)
    if kind == ARRAY:
        item, count = unpack(stream, "<IQ")
        if count > _MOST_ITEMS or item == ARRAY:
            raise ValueError("an array that is too long")
        if item != STRING and count > kept:
            stream.seek(count * struct.calcsize(SCALARS.get(item, "")), 1)
            return None
        made = [value(stream, item) for _ in range(count)]
        return made if count <= kept else None
    if kind not in SCALARS:
        raise ValueError("a type of value that is not known")
    return unpack(stream, f"<{SCALARS[kind]}")[0]
