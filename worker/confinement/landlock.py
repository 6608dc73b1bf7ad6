"""Landlock: the files that a process may still open (https://docs.kernel.org/userspace-api/landlock.html)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from worker.confinement.libc import system_call

#: The same numbers on every architecture.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _TRUNCATE = 1 << 5, 1 << 7, 1 << 8, 1 << 14

_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE
_OF_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE | _EXECUTE

#: Rights over files, over TCP ports, and scopes (abstract sockets, signals) that each version added.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_NETWORK_SINCE, _BOTH_TCP = 4, 3
_SCOPES_SINCE, _BOTH_SCOPES = 6, 3


def version() -> int:
    """Of the kernel's Landlock; 0 where it has none, or has it switched off."""
    try:
        return system_call(_CREATE, None, 0, _ASK_VERSION)
    except OSError:
        return 0


def restrict(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """From now on this thread, and what it starts, opens nothing but what lies in these files and folders, runs no
    program, and (Landlock 4) opens no TCP connection. Needs ``no_new_privs``. Raises OSError."""
    there = version()
    files = _file_rights(there)
    network = _BOTH_TCP if there >= _NETWORK_SINCE else 0
    scopes = _BOTH_SCOPES if there >= _SCOPES_SINCE else 0
    attributes = struct.pack("<QQQ", files, network, scopes)
    attributes = attributes[: 24 if scopes else 16 if network else 8]  # an older kernel takes no longer one
    ruleset = system_call(_CREATE, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes), 0)
    try:
        for paths, rights in ((readable, _READ), (writable, _WRITE)):
            for path in paths:
                _allow(ruleset, path, rights & files)
        system_call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _file_rights(there: int) -> int:
    return (1 << max(count for since, count in _FILE_RIGHTS.items() if since <= there)) - 1


def _allow(ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not path.is_dir():
            rights &= _OF_FILES
        rule = struct.pack("<Qi", rights, descriptor)  # packed, as the kernel has it
        system_call(_ADD, ruleset, _PATH_BENEATH, ctypes.create_string_buffer(rule, len(rule)), 0)
    finally:
        os.close(descriptor)
