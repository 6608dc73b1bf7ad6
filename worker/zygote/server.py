"""The zygote itself: listens, forks, collects. Single-threaded, as only that can be forked safely.

It outlives the supervisor, as workers do: the next one connects to the same socket. It never decides whether to start
anything, and keeps nothing of what it started but who is to be told of its end.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from worker.drivers import proc
from worker.drivers import zygote_protocol as protocol
from worker.zygote.child import ForkRequest, become

#: Connections at a time that have not said yet what they want, or whose worker lives.
_MOST_CONNECTIONS = 256


def listen(path: Path) -> socket.socket:
    """For the user of this process alone. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(128)
    listener.setblocking(False)
    return listener


class Zygote:
    """``forkable`` is asked before each fork: why there can be none, in words, or None."""

    def __init__(self, listener: socket.socket, forkable: Callable[[], str | None]) -> None:
        self._listener, self._forkable = listener, forkable
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        #: Who is to be told of the end of which worker.
        self._asked: dict[int, socket.socket] = {}
        self._connections: set[socket.socket] = set()
        self._ending = False

    def serve(self) -> ForkRequest | None:
        """Until it is asked to end: then it returns None. In each fork it returns as well, with what that is to run."""
        self._catch_signals()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        gc.collect()
        gc.freeze()  # a collection in a worker would copy all pages that it shares with us
        while not self._ending:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                elif isinstance(key.fileobj, socket.socket) and (request := self._hear(key.fileobj)) is not None:
                    return request
            self._collect()
        return None

    def _catch_signals(self) -> None:
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _end(self, *_: object) -> None:
        self._ending = True

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._connections) >= _MOST_CONNECTIONS or not protocol.is_ours(connection):
            connection.close()
            return
        connection.setblocking(False)
        self._connections.add(connection)
        self._selector.register(connection, selectors.EVENT_READ)

    def _hear(self, connection: socket.socket) -> ForkRequest | None:
        """Returns in the fork, where that is what is asked for."""
        descriptors: list[int] = []
        try:
            text, descriptors, _, _ = socket.recv_fds(connection, protocol.MOST + 1, 4)
            if not text:
                self._forget(connection)
                return None
            message = protocol.decode(text)
            if message.get("ask") == "start" and len(descriptors) == 1:
                return self._start(ForkRequest.read(message, descriptors[0]), connection)
            if message.get("ask") != "who":
                raise ValueError(f"nothing can be done with {sorted(message)}")
            own = proc.stat(os.getpid())
            self._answer(connection, {
                "identity": {"pid": os.getpid(), "start_ticks": own.start_ticks if own else 0},
                "obstacle": self._forkable(),
            })  # fmt: skip
        except BlockingIOError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._answer(connection, {"error": f"{type(error).__name__}: {error}"})
            self._forget(connection)
        finally:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):  # a fork has closed it
                    os.close(descriptor)
        return None

    def _start(self, request: ForkRequest, connection: socket.socket) -> ForkRequest | None:
        """Returns in the fork. Raises OSError where there can be none."""
        if (obstacle := self._forkable()) is not None:
            raise OSError(obstacle)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            others = [self._listener, *(one for one in self._connections if one is not connection)]
            descriptors = [one.detach() for one in others]
            self._selector.close()
            connection.setblocking(True)
            become(request, connection, [*descriptors, self._woken, self._wake])
            return request
        self._asked[pid] = connection
        return None

    def _collect(self) -> None:
        """Workers that have ended, and tells who asked for them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            connection = self._asked.pop(pid, None)
            if connection is not None:
                self._answer(connection, {"exit": os.waitstatus_to_exitcode(status)})
                self._forget(connection)

    def _answer(self, connection: socket.socket, message: dict[str, object]) -> None:
        with contextlib.suppress(OSError):
            connection.send(protocol.encode(message))

    def _forget(self, connection: socket.socket) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._selector.unregister(connection)
            connection.close()
