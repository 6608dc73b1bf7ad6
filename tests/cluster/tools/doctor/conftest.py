from __future__ import annotations

import pytest

from doctorfacts import no_engine_check


@pytest.fixture(autouse=True)
def _an_installed_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    no_engine_check(monkeypatch)
