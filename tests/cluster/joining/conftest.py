"""What tests of machines that join share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.errors import Refused
from joinfakes import Supervisor


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    made = Supervisor(tmp_path / "state")
    with pytest.raises(Refused, match="--join-listen"):
        await made.members.invite("1h")
    await made.listener.start(f"127.0.0.1:{made.port}")
    yield made
    await made.listener.close()
