"""The scripts that the documents name can be run by their path, from a fresh clone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "Makefile", *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/**/*.py")]
SCRIPTS = sorted({
    name for document in DOCUMENTS for name in re.findall(r"python (tests/[\w/]+\.py)", document.read_text())
})  # fmt: skip


def test_there_are_some() -> None:
    assert {"tests/enginedeaths.py", "tests/bench/inside.py", "tests/chaos/run.py"} <= set(SCRIPTS)


@pytest.mark.processes
@pytest.mark.parametrize("script", SCRIPTS)
def test_it_starts(script: str) -> None:
    made = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stderr[-500:]
