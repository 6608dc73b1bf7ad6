"""Which Ray is refused."""

from __future__ import annotations

import pytest

from worker.drivers.ray import exposure


@pytest.mark.parametrize(
    ("address", "environment"),
    [
        ("127.0.0.2:6379", {}),
        ("[::1]:6379", {}),
        ("localhost:6379", {}),
        ("10.0.0.1:6379", {"RAY_AUTH_MODE": "token"}),
        ("10.0.0.1:6379", {exposure.ALLOWED: "1"}),
    ],
)
def test_it_may_be_used(address: str, environment: dict[str, str]) -> None:
    exposure.check(address, environment)


@pytest.mark.parametrize("environment", [{}, {"RAY_AUTH_MODE": "disabled"}, {exposure.ALLOWED: ""}])
@pytest.mark.parametrize("address", ["10.0.0.1:6379", "ray.example:6379", "[2001:db8::1]:6379"])
def test_it_is_refused(address: str, environment: dict[str, str]) -> None:
    with pytest.raises(exposure.Exposed, match="RAY_AUTH_MODE=token"):
        exposure.check(address, environment)
