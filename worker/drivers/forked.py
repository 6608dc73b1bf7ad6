"""Workers that a zygote forks (`worker.zygote`): how it is asked, and who tells of the end of a process that is not
our child. Everything else about them is as of any other process of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from config.disk import private
from config.paths import short_socket_path
from worker.drivers import run_file as run_files
from worker.drivers import zygote_protocol as protocol
from worker.drivers.proc import ProcessId
from worker.drivers.process import LocalHandle
from worker.spec import WorkerSpec

#: How long (s) a fork may take. One of vLLM takes some 0.02 s on a machine that is quiet.
ANSWER_S = 5.0

#: How long (s) after a worker's end its zygote may take to say how it ended.
_LAST_WORD_S = 1.0


class ForkFailed(OSError):
    """There is no worker, and there will be none. ``refused``: the zygote said so; ``hung``: it did not answer.
    Neither: it could not be asked."""

    def __init__(self, why: str, refused: bool = False, hung: bool = False) -> None:
        super().__init__(why)
        self.refused, self.hung = refused, hung


class ForkedHandle(LocalHandle):
    """``connection``: over which the zygote says how it ended. A supervisor that comes later has none, and cannot know
    either (`Handle.watch`)."""

    def __init__(self, process: ProcessId, spec: WorkerSpec, connection: socket.socket) -> None:
        super().__init__(process, spec)
        connection.setblocking(False)
        self._connection, self._status = connection, None
        self._cancel: Callable[[], None] = lambda: None

    def unwatch(self) -> None:
        self._cancel()
        super().unwatch()

    def _report(self, on_exit: Callable[[int | None], None]) -> None:
        """The kernel tells of the end before the zygote can."""
        loop = asyncio.get_running_loop()
        if self._connection.fileno() < 0:
            on_exit(self._status)
            return

        def stop() -> None:
            deadline.cancel()
            loop.remove_reader(self._connection)
            self._cancel = lambda: None

        def finish() -> None:
            stop()
            with contextlib.suppress(OSError, ValueError):
                self._status = protocol.decode(self._connection.recv(protocol.MOST)).get("exit")
            self._connection.close()
            on_exit(self._status)

        self._cancel = stop
        deadline = loop.call_later(_LAST_WORD_S, finish)
        loop.add_reader(self._connection, finish)


def start(zygote: Path, spec: WorkerSpec) -> ForkedHandle:
    """Has the zygote that listens on ``zygote`` fork the worker of ``spec``, whose run file is prepared. Blocks for
    `ANSWER_S` at most. Raises ForkFailed."""
    message = {
        "ask": "start", "argv": spec.argv, "env": spec.env, "cwd": str(spec.cwd), "run_file": str(spec.run_file)
    }  # fmt: skip
    try:
        run_files.prepare(spec.run_file)
        text = protocol.encode(message)
        log = private.descriptor(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except (OSError, ValueError) as error:
        raise ForkFailed(str(error)) from None
    try:
        connection = connect(zygote, ANSWER_S)
        try:
            socket.send_fds(connection, [text], [log])
            return ForkedHandle(_identity(_answer(connection)), spec, connection)
        except BaseException:
            connection.close()
            raise
    except TimeoutError:
        raise ForkFailed(f"no answer within {ANSWER_S:g} s", hung=True) from None
    except OSError as error:
        raise error if isinstance(error, ForkFailed) else ForkFailed(str(error)) from None
    finally:
        os.close(log)


def connect(zygote: Path, patience: float) -> socket.socket:
    """Raises OSError where nobody of our own user listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(patience)
        connection.connect(short_socket_path(zygote))
        if not protocol.is_ours(connection):
            raise PermissionError(f"{zygote} is somebody else's")
    except BaseException:
        connection.close()
        raise
    return connection


def _answer(connection: socket.socket) -> dict[str, Any]:
    """Raises TimeoutError where there is none: then no worker comes any more either."""
    try:
        text = connection.recv(protocol.MOST)
    except TimeoutError:
        connection.shutdown(socket.SHUT_RDWR)  # from now on a fork that answers ends; one that has is found here
        text = connection.recv(protocol.MOST)
        if not text:
            raise
    try:
        return protocol.decode(text)
    except ValueError:
        raise ForkFailed("it ended, or says what cannot be understood") from None


def _identity(answer: dict[str, Any]) -> ProcessId:
    match answer:
        case {"identity": {"pid": int(pid), "start_ticks": int(ticks)}}:
            return ProcessId(pid, ticks)
        case {"error": str(why)}:
            raise ForkFailed(why, refused=True)
        case {"exit": int(status)}:
            raise ForkFailed(f"the fork ended at once, with status {status}", refused=True)
    raise ForkFailed(f"an answer that cannot be understood: {sorted(answer)}", refused=True)
