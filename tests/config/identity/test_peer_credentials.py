"""Whose socket the other end is: real sockets, real users."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from config.identity import peer_credentials
from config.identity.peer_credentials import owners, uid_of_listener, uid_of_peer
from harness import poll

OTHER = 65534

#: The interpreter itself may lie where only root gets: it is started as root.
_BECOME = f"import encodings.idna, os, socket, sys; os.setgroups([]); os.setgid({OTHER}); os.setuid(int(sys.argv[1]))\n"

#: Says which port it has, waits for the word, and does it.
_CLIENT = """
sys.argv.pop(1)
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print(client.getsockname()[1], flush=True)
for line in sys.stdin:
    if line == "half\\n":
        client.shutdown(socket.SHUT_WR)
    elif line == "close\\n":
        client.close()
    print("done", flush=True)
"""

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


class Client:
    """A connection of another process."""

    def __init__(self, process: subprocess.Popen[str], accepted: socket.socket) -> None:
        self._process, self.accepted = process, accepted

    def do(self, word: str) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def uid(self) -> int | None:
        return uid_of_peer(self.accepted.getpeername()[:2], self.accepted.getsockname()[:2])


@contextmanager
def connected(uid: int, host: str, listener: socket.socket) -> Iterator[Client]:
    command = [sys.executable, "-c", _BECOME + _CLIENT, str(uid), host, str(listener.getsockname()[1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            with listener.accept()[0] as accepted:
                assert process.stdout is not None and int(process.stdout.readline()) == accepted.getpeername()[1]
                yield Client(process, accepted)
        finally:
            process.kill()


@contextmanager
def listening(address: str = "127.0.0.1", *, both: bool = False) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family, dualstack_ipv6=both) as listener:
        listener.settimeout(10)
        yield listener


@root
@pytest.mark.parametrize(("address", "host", "both"), [
    ("127.0.0.1", "127.0.0.1", False), ("::1", "::1", False), ("::", "127.0.0.1", True),
    ("::", "::ffff:127.0.0.1", True), ("0.0.0.0", "127.0.0.1", False),
])  # fmt: skip
def test_the_kernel_says_whose_connection_it_is(address: str, host: str, both: bool) -> None:
    with listening(address, both=both) as listener:
        for uid in (OTHER, 0):
            with connected(uid, host, listener) as client:
                assert client.uid() == uid


@root
def test_a_half_closed_connection_is_still_its_users() -> None:
    with listening() as listener, connected(OTHER, "127.0.0.1", listener) as client:
        client.do("half")
        assert client.uid() == OTHER


@root
def test_one_that_its_user_has_closed_is_nobodys_and_above_all_not_roots() -> None:
    """The kernel still has it, as an orphan in FIN_WAIT and then in TIME_WAIT, and (most kernels) gives its user
    as 0."""
    with listening() as listener, connected(OTHER, "127.0.0.1", listener) as client:
        client.do("close")
        peer, local = client.accepted.getpeername()[:2], client.accepted.getsockname()[:2]
        found = _raw(peer, local)
        assert found is not None and found[0] in (4, 5) and found[2] == 0, "an orphan without an inode"
        assert client.uid() is None
        client.accepted.close()
        poll(lambda: _raw(peer, local) == (6, 0, 0), 5, "TIME_WAIT, as uid 0 without an inode")
        assert uid_of_peer(peer, local) is None


def test_a_socket_without_an_inode_is_nobodys_in_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        ends = accepted.getpeername(), accepted.getsockname()
        answer = bytearray(peer_credentials._ask(peer_credentials._question(*peer_credentials._four_tuple(*ends))))
        monkeypatch.setattr(peer_credentials, "_ask", lambda _: bytes(answer))
        assert uid_of_peer(*ends) == os.geteuid()
        answer[20 + 48 + 12 : 20 + 48 + 20] = bytes(8)  # uid and inode
        for state in range(13):
            answer[17] = state
            assert uid_of_peer(*ends) is None


def test_a_listener_on_the_port_of_a_connection_that_is_gone_does_not_count() -> None:
    """Where there is no such connection the kernel names who listens there."""
    with listening() as listener:
        address = listener.getsockname()
        found = _raw(address, ("127.0.0.1", 9))
        assert found is not None and found[0] == 10 and found[2] != 0
        assert uid_of_peer(address, ("127.0.0.1", 9)) is None


def test_a_connection_that_is_only_tried_does_not_count() -> None:
    """A listener whose queue is full answers no more: the client's socket is in SYN_SENT."""
    with ExitStack() as exits:
        listener = exits.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        tried = []
        for _ in range(4):
            client = exits.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            tried.append(client.getsockname())
        waiting = [one for one in tried if (found := _raw(one, listener.getsockname())) and found[0] == 2]
        assert waiting and all(uid_of_peer(one, listener.getsockname()) is None for one in waiting)


def test_without_a_connection_nothing_is_known() -> None:
    assert uid_of_peer(("127.0.0.1", 1), ("127.0.0.1", 2)) is None
    assert uid_of_peer(("not an address", 1), ("127.0.0.1", 2)) is None
    assert uid_of_peer(("::1", 1), ("127.0.0.1", 2)) is None


def test_where_the_kernel_cannot_be_asked_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        ends = accepted.getpeername(), accepted.getsockname()
        assert uid_of_peer(*ends) == os.geteuid()

        def refuse(*_: object) -> None:
            raise PermissionError

        for answer in (b"", b"\0" * 20, struct.pack("=IHHII", 36, 2, 0, 1, 0) + bytes(20)):
            monkeypatch.setattr(peer_credentials, "_ask", lambda _, answer=answer: answer)
            assert uid_of_peer(*ends) is None
        monkeypatch.undo()
        monkeypatch.setattr(socket, "socket", refuse)
        assert uid_of_peer(*ends) is None
        monkeypatch.undo()
        monkeypatch.delattr(socket, "AF_NETLINK")
        assert uid_of_peer(*ends) is None


@root
def test_the_kernel_says_who_listens() -> None:
    program = "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    command = [sys.executable, "-c", _BECOME + program, str(OTHER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert uid_of_listener(("127.0.0.1", int(process.stdout.readline()))) == OTHER
        finally:
            process.kill()
    with listening("0.0.0.0") as listener:
        assert uid_of_listener(("127.0.0.1", listener.getsockname()[1])) == 0
    assert uid_of_listener(("127.0.0.1", 1)) is None


def test_the_owners_are_root_and_ourselves() -> None:
    assert owners() == {0, os.geteuid()}


def _raw(peer: tuple[str, int], local: tuple[str, int]) -> tuple[int, int, int] | None:
    """State, uid and inode as the kernel tells them."""
    family, ends = peer_credentials._four_tuple(peer, local)
    answer = peer_credentials._ask(peer_credentials._question(family, ends))
    if struct.unpack_from("=IHHII", answer)[1] != 20:
        return None
    uid, inode = struct.unpack_from("=IIIII", answer, 20 + 48)[3:]
    return answer[17], uid, inode
