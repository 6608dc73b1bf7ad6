"""Calls of the kernel that Python has no function for."""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

PR_SET_NO_NEW_PRIVS = 38


def system_call(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """Its result. Raises OSError."""
    made = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(_LIBC.syscall(ctypes.c_long(number), *made))
    if result < 0:
        raise _last_error()
    return result


def prctl(option: int, value: int) -> None:
    """Raises OSError."""
    if _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise _last_error()


def unshare(flags: int) -> None:
    """Raises OSError. (`os.unshare` is there from Python 3.12 on.)"""
    if _LIBC.unshare(flags) != 0:
        raise _last_error()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
