"""No test of the settings sees what the machine has set."""

from __future__ import annotations

import pytest

from fakes import clean_environment


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    clean_environment(monkeypatch)
    return monkeypatch
