"""Where it is written down who runs: the store, or what keeps for it what it cannot take just now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Records(Protocol):
    """By the name of the process."""

    async def processes(self) -> dict[str, dict[str, Any]]: ...

    async def save_process(self, name: str, record: Mapping[str, Any]) -> None: ...

    async def forget_process(self, name: str) -> None: ...

    async def next_number(self, key: str) -> int: ...
