"""What is in an adapter's tensors: numbers that are none, and nothing but zeros. Reads all of the weights.

One NaN in one matrix makes every answer of a batch NaN, other adapters' and the base model's too. Without numpy: the
bytes of a chunk that hold the exponents are cut out and looked up in a table, by calls of well under a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from worker.adapters.heads import ClassifierHead
from worker.adapters.pairs import Pair
from worker.adapters.rules import AdapterConfig
from worker.adapters.tensors import AdapterRejected, Tensor, shown

_CHUNK = 1 << 20  # bytes; whole numbers of any type

LARGEST = 131072
"""What no weight of more than eight bits may reach: float16, which many models are served in, ends at half of it."""


def _table(low: int, high: int = 0x7F, mask: int = 0x7F) -> bytes:
    """1 for the bytes whose bits in ``mask`` are ``low`` to ``high``."""
    return bytes(low <= byte & mask <= high for byte in range(256))


@dataclass(frozen=True, slots=True)
class _Format:
    """``size`` in bytes, the last of which has the sign and the upper bits of the exponent. ``large``: its table of
    what is not finite or too large; ``endless``: that of what may be not finite, and ``next``, of the byte before it,
    decides (None: that is enough)."""

    size: int
    large: bytes
    endless: bytes
    next: bytes | None = None


_UPPER = _table(0x80, 0xFF, 0xFF)
_FORMATS = {
    "F64": _Format(8, _table(0x41), _table(0x7F), _table(0xF0, 0xFF, 0xFF)),
    "F32": _Format(4, _table(0x48), _table(0x7F), _UPPER),
    "BF16": _Format(2, _table(0x48), _table(0x7F), _UPPER),
    "F16": _Format(2, _table(0x7C), _table(0x7C)),
    "F8_E5M2": _Format(1, _table(0x7C), _table(0x7C)),
    "F8_E4M3": _Format(1, _table(0x7F), _table(0x7F)),
    "F8_E5M2FNUZ": _Format(1, _table(0x80, 0x80, 0xFF), _table(0x80, 0x80, 0xFF)),
    "F8_E4M3FNUZ": _Format(1, _table(0x80, 0x80, 0xFF), _table(0x80, 0x80, 0xFF)),
}
_ANY = _Format(1, bytes(256), bytes(256))  # PEFT's copy of a base model's packed weights, which is skipped


def check_values(stream: BinaryIO, tensors: Mapping[str, Tensor], name: str) -> frozenset[str]:
    """The names of the tensors in the open file ``name`` that are not all zero.

    Raises AdapterRejected: 400 for a value that is no finite number or too large, 409 where the file shrank."""
    filled = set()
    for key, tensor in sorted(tensors.items(), key=lambda item: item[1].begin):
        kind = _FORMATS.get(tensor.dtype, _ANY)
        for chunk in _chunks(stream, tensor, name):
            if key not in filled and not _zero(chunk, kind.size):
                filled.add(key)
            if 1 in chunk[kind.size - 1 :: kind.size].translate(kind.large):
                what = "NaN or infinite" if _endless(chunk, kind) else f"{LARGEST} or more"
                raise AdapterRejected(400, f"{name}: tensor {shown(key)} holds a value that is {what}")
    return frozenset(filled)


def no_effect(
    pairs: Iterable[Pair], head: ClassifierHead | None, filled: frozenset[str], config: AdapterConfig
) -> str | None:
    """Why the adapter changes nothing, or None: of each product one matrix is zero, or its weight (alpha) is."""
    if head is not None and head.tensor in filled:
        return None
    if any(pair.a_name in filled and pair.b_name in filled and config.alpha_of(pair.module) for pair in pairs):
        return None
    return "of each of its pairs of matrices one is zero, or lora_alpha is: it answers as the base model does"


def _zero(chunk: bytes, size: int) -> bool:
    """Minus zero, of which the sign's bit alone is set, is zero too."""
    return not chunk.strip(b"\0\x80") and chunk.count(0x80) == chunk[size - 1 :: size].count(0x80)


def _endless(chunk: bytes, kind: _Format) -> bool:
    top = chunk[kind.size - 1 :: kind.size].translate(kind.endless)
    if kind.next is None:
        return 1 in top
    following = chunk[kind.size - 2 :: kind.size].translate(kind.next)
    return int.from_bytes(top, "little") & int.from_bytes(following, "little") != 0


def _chunks(stream: BinaryIO, tensor: Tensor, name: str) -> Iterator[bytes]:
    stream.seek(tensor.begin)
    left = tensor.end - tensor.begin
    while left:
        chunk = stream.read(min(left, _CHUNK))
        if len(chunk) < min(left, _CHUNK):
            raise AdapterRejected(409, f"{name} became shorter while it was read: try again")
        left -= len(chunk)
        yield chunk
