"""What a command imports before it asks anything: half of the time that most of them take."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness import environment

#: Those that only ask a cluster that runs; `up`, `apply`, `config` and their like read settings.
_ASKING = (
    "lifecycle.down", "running.audit", "running.events", "running.jobs", "running.keys", "running.names",
    "running.operate", "running.usage", "running.why", "workload.bench", "workload.chat", "workload.lora.command",
)  # fmt: skip


@pytest.mark.processes
def test_commands_that_only_ask_do_not_import_what_reads_settings() -> None:
    """pydantic and psutil: 0.14 s of a processor, as much as all the rest of such a command."""
    wanted = ", ".join(f"cluster.cli.{module}" for module in _ASKING)
    code = f"import sys, {wanted}; print(sorted({{'pydantic', 'psutil', 'aiohttp', 'sqlite3'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.processes
def test_a_detached_supervisor_imports_nothing_for_terminals_or_clients() -> None:
    started = "cluster.cli.__main__, cluster.supervisor.runtime"
    code = f"import sys, {started}; print(sorted({{'httpx', 'rich'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
