"""The socket that clients connect to."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from cluster.balancers import adoption
from cluster.balancers.listener import Listeners, listen
from config.errors import UsageError
from config.topology import BalancerConfig


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_clients_can_connect_before_a_balancer_runs(host: str) -> None:
    with listen(host, 0) as listener:
        assert listener.getblocking() is False
        with socket.socket(listener.family) as client:
            client.settimeout(5)
            client.connect(("127.0.0.1" if host == "0.0.0.0" else host, listener.getsockname()[1]))


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"^cannot listen on 127.0.0.1:{port}: Address already in use$") as error:
            listen("127.0.0.1", port)
    assert error.value.exit_code == 1


def test_a_port_can_be_listened_on_again_at_once() -> None:
    first = listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as client:
        first.setblocking(True)
        first.accept()[0].close()  # the server's side closes first: TIME_WAIT is on our port
        assert client.recv(1) == b""
    first.close()
    listen("127.0.0.1", port).close()


def test_an_address_that_is_not_ours_is_said_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1:0: "):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize("host", ["not a host", "..", "a" * 64 + ".example"])
def test_a_host_that_is_none_is_named(host: str) -> None:
    with pytest.raises(UsageError, match=r"^--host "):
        listen(host, 0)


def test_a_process_is_told_of_the_sockets_that_it_inherits() -> None:
    config = BalancerConfig(-1, "/nowhere", "127.0.0.1", 1, 1.0)
    spoken = replace(config, grpc_fd=-1)
    listeners = Listeners()
    listeners.make("127.0.0.1", 0, None)
    assert listeners.told(config).grpc_fd is None and len(listeners.descriptors) == 1
    assert "grpc_fd" not in listeners.told(config).to_json(), "a balancer of an earlier version knows none"
    first = listeners.http
    listeners.make("127.0.0.1", 0, 0)
    assert listeners.http is first, "it is made once"
    told = listeners.told(spoken)
    assert listeners.descriptors == (told.listen_fd, told.grpc_fd)
    assert told.digest() == spoken.digest() != config.digest()
    spoken_on = listeners.grpc
    listeners.make("127.0.0.1", 0, None)
    assert spoken_on is not None and spoken_on.fileno() == -1 and listeners.grpc is None, "nobody serves it any more"
    listeners.close()
    assert first is not None and first.fileno() == -1


def test_grpc_is_spoken_on_another_port_after_a_start_that_says_so() -> None:
    """What was handed over is not served any longer, and the port that was asked for is."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    left = Listeners(listen("127.0.0.1", 0), listen("127.0.0.1", 0))
    http, before = left.http, left.grpc
    assert before is not None
    assert not left.make("127.0.0.1", 1, before.getsockname()[1]) and left.grpc is before
    assert left.make("127.0.0.1", 1, port) and left.http is http
    assert left.grpc is not None and left.grpc.getsockname()[1] == port and before.fileno() == -1
    with listen("127.0.0.1", 0) as taken, pytest.raises(UsageError, match="cannot listen"):
        left.make("127.0.0.1", 1, taken.getsockname()[1])
    assert left.grpc.getsockname()[1] == port, "it is served as before"
    left.close()


def test_of_several_balancers_each_socket_is_taken_once() -> None:
    """One of a release that spoke no gRPC may have been left running beside another."""
    old, new = Listeners(listen("127.0.0.1", 0)), Listeners()
    new.make("127.0.0.1", 0, 0)
    sockets = [old.http, new.grpc]
    found = adoption._together([(None, old), (None, new)])  # type: ignore[list-item]
    assert [found.http, found.grpc] == sockets and len(found.descriptors) == 2
    assert new.http is not None and new.http.fileno() == -1, "the same one once more"
    found.close()


def test_who_connects_is_refused_although_a_balancer_still_holds_the_socket() -> None:
    """Or it would wait for nobody until that process has ended."""
    listeners = Listeners(listen("127.0.0.1", 0), listen("127.0.0.1", 0))
    assert listeners.http is not None and listeners.grpc is not None
    with listeners.http.dup() as http, listeners.grpc.dup() as grpc:
        ports = [each.getsockname()[1] for each in (http, grpc)]
        listeners.refuse()
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 5)
