"""`balancer`: what is wrong with what was given is said before anything is begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.cli.running.balancers import balancer_command
from config.errors import UsageError

_TOKEN = f"0a1b2c3d.{'x' * 43}.{'ab' * 32}"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "--join URL is needed"),
        (["--join", "http://10.0.0.5:8443"], "https://HOST:PORT"),
        (["--join", "https://10.0.0.5"], "https://HOST:PORT"),
        (["--join", "https://10.0.0.5:99999"], "https://HOST:PORT"),
        (["--join", "https://10.0.0.5:8443/path"], "https://HOST:PORT"),
        (["--join", "https://10.0.0.5:8443", "--tls-cert", "cert.pem"], "--tls-key"),
        (["--join", "https://10.0.0.5:8443", "--tls-client-ca", "ca.pem"], "--tls-key"),
        (["--join", "https://10.0.0.5:8443", "--grpc-port", "8000"], "port that HTTP is spoken on"),
        (["--join", "https://10.0.0.5:8443", "--detach", "--grpc-port", "8000"], "port that HTTP is spoken on"),
        (["--join", "https://10.0.0.5:8443"], "a token is needed"),
        (["--join", "https://10.0.0.5:8443", "--token", f"{_TOKEN}0"], "not a token"),
    ],
)
def test_one_sentence_says_how_to_mend_it(
    arguments: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLUSTERCTL_JOIN_TOKEN", raising=False)
    with pytest.raises(UsageError, match=why) as caught:
        balancer_command.main(["--state-dir", str(tmp_path / "state"), *arguments], standalone_mode=False)
    assert "\n" not in str(caught.value) and "x" * 43 not in str(caught.value)
