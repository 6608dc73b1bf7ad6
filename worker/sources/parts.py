"""A file fetched in parts, several at a time; what is there is written down, so that a later attempt fetches the rest.

Beside the target: its bytes so far (``.part``), and a list of the parts that are in it (``.parts``), which begins with
what the content is known by: another content begins anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from worker.sources.remote import PART, Transient

#: Bytes of a part; parts at a time.
SIZE, AT_ONCE = 16 << 20, 4

#: Of ``first`` to ``last`` (bytes, both included): the content, in pieces.
RangeReader = Callable[[int, int], Iterable[bytes]]


def fetch(target: Path, size: int, tag: str, read: RangeReader, part: int = SIZE) -> None:
    """The ``size`` bytes that ``tag`` names, whole at ``target``. Raises what ``read`` raises, Transient where it
    brought less or more than it was asked for, OSError; what came before that stays."""
    partial, listed = target.with_name(target.name + PART), target.with_name(target.name + PART + "s")
    done = _done(listed, f"{tag} {size} {part}")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        missing = [number for number in range(-(-size // part)) if number not in done]

        def one(number: int) -> None:
            first = number * part
            _fill(descriptor, first, min(size, first + part), read)
            os.fdatasync(descriptor)  # it is in the file before the list says so
            with listed.open("a") as file:
                file.write(f"{number}\n")

        _all(one, missing)
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)
    partial.rename(target)
    listed.unlink()


def _all(work: Callable[[int], None], numbers: list[int]) -> None:
    """Each; after the first failure no further one is begun."""
    if len(numbers) <= 1:
        for number in numbers:
            work(number)
        return
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="part") as pool:
        futures = [pool.submit(work, number) for number in numbers]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _fill(descriptor: int, first: int, end: int, read: RangeReader) -> None:
    at = first
    for piece in read(first, end - 1):
        if at + len(piece) > end:
            raise Transient("more came than was asked for")
        os.pwrite(descriptor, piece, at)
        at += len(piece)
    if at < end:
        raise Transient(f"broke off after {at - first} of {end - first} bytes")


def _done(listed: Path, tag: str) -> set[int]:
    """The parts that are there; none, and the list begun, where it is of another content."""
    head = tag.encode().hex()
    try:
        first, *rest = listed.read_text().split("\n")
        if first == head:
            return set(_numbers(rest))
    except (OSError, ValueError):
        pass
    listed.write_text(f"{head}\n")
    return set()


def _numbers(lines: Iterable[str]) -> Iterator[int]:
    """Of whole lines: the last may have been cut by a crash, or by a full disk."""
    for line in list(lines)[:-1]:
        if line.isdecimal():
            yield int(line)
