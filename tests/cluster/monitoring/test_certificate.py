"""One event for each change of the port's certificate."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from certificates import issue
from cluster.events import EventLog
from cluster.monitoring import certificate
from config.aio import Tasks
from config.topology import TlsFiles
from fakes import soon


async def test_a_change_is_told_once_for_better_and_for_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "_LOOK_S", 0.01)
    served, new = issue(tmp_path / "a"), issue(tmp_path / "b", "renewed")
    files: list[TlsFiles | None] = [None]
    log, tasks = EventLog(lambda: 0.0), Tasks()
    tasks.start(certificate.watch_certificate(lambda: files[0], log.emit), "certificate")
    try:
        files[0] = served.files
        await asyncio.sleep(0.1)
        served.cert.write_bytes(new.cert.read_bytes())
        await soon(lambda: len(log.events) == 1)
        served.key.write_bytes(new.key.read_bytes())
        await soon(lambda: len(log.events) == 2)
    finally:
        await tasks.close()
    refused, replaced = log.events
    assert (refused.kind, replaced.kind) == ("certificate.refused", "certificate.replaced")
    assert refused.text.endswith("what was served before is served on")
    assert replaced.data["names"] == ["renewed", "127.0.0.1"]
