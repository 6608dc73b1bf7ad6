"""When to come back, as `google.rpc.RetryInfo` in the trailer ``grpc-status-details-bin``: what many clients look for
(https://google.aip.dev/193). Pure.

Its messages are a few numbers and texts in a row (https://protobuf.dev/programming-guides/encoding), and no reason to
need another package.
"""

from __future__ import annotations

TRAILER = "grpc-status-details-bin"

#: Of `google.rpc.Code`, those that a refusal has.
_NUMBERS = {
    "CANCELLED": 1, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5, "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8, "UNIMPLEMENTED": 12, "INTERNAL": 13, "UNAVAILABLE": 14, "UNAUTHENTICATED": 16,
}  # fmt: skip

_TYPE = b"type.googleapis.com/google.rpc.RetryInfo"


def details(code: str, message: str, seconds: int) -> bytes:
    """A `google.rpc.Status` of that ``code`` and ``message``, which have to be those of the call, with its one
    detail."""
    delay = _bytes(1, _number(1, seconds))  # RetryInfo.retry_delay, a Duration
    detail = _bytes(1, _TYPE) + _bytes(2, delay)  # Any
    return _number(1, _NUMBERS[code]) + _bytes(2, message.encode(errors="replace")) + _bytes(3, detail)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first. Not for negative ones."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
