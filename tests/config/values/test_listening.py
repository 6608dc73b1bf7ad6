"""Where balancers of other machines connect to."""

from __future__ import annotations

import pytest

from config.values import listening


@pytest.mark.parametrize(
    ("join_listen", "worker_host", "has_workers", "driver", "why"),
    [
        (None, "127.0.0.1", True, "local", None),
        ("127.0.0.1:8443", "127.0.0.1", True, "local", None),
        ("10.0.0.5:8443", "10.0.0.5", True, "local", None),
        ("10.0.0.5:8443", "127.0.0.1", True, "local", "reach no worker"),
        ("0.0.0.0:8443", "127.0.0.1", True, "local", "reach no worker"),
        ("10.0.0.5:8443", "127.0.0.1", False, "local", None),
        ("10.0.0.5:8443", "127.0.0.1", True, "ray", None),
        (None, "0.0.0.0", True, "local", "name one"),
        (None, "here", True, "local", "IPv4"),
        ("8443", "10.0.0.5", True, "local", "ADDRESS:PORT"),
        ("10.0.0.5:0", "10.0.0.5", True, "local", "ADDRESS:PORT"),
        ("10.0.0.5:x", "10.0.0.5", True, "local", "ADDRESS:PORT"),
    ],
)
def test_workers_have_to_be_where_balancers_of_other_machines_reach_them(
    join_listen: str | None, worker_host: str, has_workers: bool, driver: str, why: str | None
) -> None:
    if why is None:
        listening.check(join_listen, worker_host, has_workers, driver)
    else:
        with pytest.raises(ValueError, match=why):
            listening.check(join_listen, worker_host, has_workers, driver)
