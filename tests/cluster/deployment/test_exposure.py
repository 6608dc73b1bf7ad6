"""Where a cluster may listen."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.deployment import exposure
from config.errors import UsageError
from config.settings import Settings


@pytest.mark.parametrize(
    ("given", "has_keys"),
    [
        ({"host": "127.0.0.1"}, False), ({"host": "[::1]"}, False), ({"host": "localhost"}, False),
        ({"host": "0.0.0.0"}, True), ({"host": "0.0.0.0", "admin_key": "x"}, False),
        ({"host": "0.0.0.0", "insecure": True}, False),
        ({"host": "0.0.0.0", "tls_cert": "/c", "tls_key": "/k", "tls_client_ca": "/a"}, False),
    ],
)  # fmt: skip
def test_with_something_to_show_or_for_this_machine_alone(given: dict[str, Any], has_keys: bool) -> None:
    exposure.check(Settings(**given), has_keys)


@pytest.mark.parametrize("given", [{}, {"tls_cert": "/c", "tls_key": "/k"}])
def test_not_where_nobody_has_to_show_anything(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"everybody who reaches this machine .* --tls-client-ca"):
        exposure.check(Settings(host="0.0.0.0", **given), False)
