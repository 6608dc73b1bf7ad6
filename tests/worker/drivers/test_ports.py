"""Ports for workers."""

from __future__ import annotations

import socket

import pytest

from fakes import rng
from worker.drivers.local import _ephemeral_start, free_port


def test_a_port_is_free_and_outside_the_kernels_range() -> None:
    port = free_port((), rng())
    assert 20_000 <= port < _ephemeral_start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


def test_the_same_port_is_not_given_away_twice() -> None:
    first = free_port((), rng())
    assert free_port({first}, rng()) != first


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_somebody_listens_on_is_not_given_away(host: str) -> None:
    first = free_port((), rng())
    with socket.create_server((host, first)):
        assert free_port((), rng()) != first


def test_no_free_port_is_an_error() -> None:
    with pytest.raises(OSError, match="no free port"):
        free_port(range(70_000), rng())
