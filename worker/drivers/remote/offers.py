"""What supervisor and agent say of an adapter that a worker there is to load: it is *offered* until the agent has it.

An offer names the adapter by the hash of its content. The agent answers with the folder in which it keeps that, or
with how much of each file has arrived; what is missing is sent (`upload_path`), and it is offered again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.drivers.remote.protocol import read_start

#: Routes: POST of an `AdapterOffer`, PUT of a file below it.
OFFER, UPLOAD = "/v1/adapters", "/v1/adapters/{content}/{name}"

#: Of an upload, in its query: as in every message, and how many bytes of the file are there already.
RANK, OFFSET = "rank", "offset"

#: Adapters that one worker may hold.
MOST_HELD = 16_384

CONTENT, _NAME = re.compile(r"[0-9a-f]{64}"), re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def upload_path(content: str, name: str) -> str:
    return UPLOAD.format(content=content, name=name)


@dataclass(frozen=True, slots=True)
class AdapterOffer:
    """For the worker of ``start``, which holds what ``held`` says beside: nothing of that is given up. ``files``: bytes
    by name. ``most``: bytes of adapters that the node may keep."""

    start: str
    content: str
    files: Mapping[str, int]
    held: tuple[str, ...]
    most: int

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def size(self) -> int:
        return sum(self.files.values())


def read_offer(message: Mapping[str, Any]) -> AdapterOffer:
    """Raises ValueError for what is none."""
    match message:
        case {"content": str(content), "files": dict(files), "held": [*held], "most": int(most)} if (
            CONTENT.fullmatch(content) and len(held) <= MOST_HELD and most > 0
        ):  # fmt: skip
            sizes = all(_NAME.fullmatch(name) and type(size) is int and size >= 0 for name, size in files.items())
            if files and sizes and all(isinstance(one, str) and CONTENT.fullmatch(one) for one in held):
                return AdapterOffer(read_start(message), content, files, tuple(held), most)
    raise ValueError(f"no offer of an adapter: {sorted(message)}")


@dataclass(frozen=True, slots=True)
class OfferAnswer:
    """``folder``: where the agent has it; ``arrived``: bytes of each file, while it has not."""

    folder: str | None
    arrived: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        return {"folder": self.folder, "arrived": dict(self.arrived)}


def read_offer_answer(message: Mapping[str, Any]) -> OfferAnswer:
    """Raises ValueError for what is none."""
    match message:
        case {"folder": str() | None as folder, "arrived": dict(arrived)}:
            if all(type(size) is int and size >= 0 for size in arrived.values()):
                return OfferAnswer(folder, arrived)
    raise ValueError("no answer to an offer")
