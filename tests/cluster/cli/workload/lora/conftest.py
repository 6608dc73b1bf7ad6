"""The cluster that the commands ask, and what they print."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from cluster.cli import main, pull_display
from loraserver import Cluster, Run, Server, handler


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    found = Cluster()
    server = Server(("127.0.0.1", 0), handler(found))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("CLUSTERCTL_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        yield found
    finally:
        found.hold_tokens.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `clusterctl lora …` as a shell would; its exit code, output and errors."""
    monkeypatch.setattr(pull_display, "_LOOK_EVERY", 0.02)

    def lora_command(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clusterctl", "lora", *args])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return lora_command
