"""Brings adapters to nodes, each once, however many workers there ask for it."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import BinaryIO
from weakref import WeakValueDictionary

from worker.drivers.remote.client import AgentRefused, Unreachable
from worker.drivers.remote.links import AgentLinks
from worker.drivers.remote.node import RemoteNode
from worker.drivers.remote.offers import CONTENT, OFFER, AdapterOffer, OfferAnswer, read_offer_answer, upload_path

#: How long (s) an agent may take to answer an offer: it reads all of an adapter once.
_OFFER_S = 60.0

#: Bytes that are read at once, and how long (s) nothing of a file may get on its way.
_PIECE, _STALL_S = 1024 * 1024, 10.0

#: An adapter is sent so often where the way breaks off, each time what is missing, after so many seconds.
_TRIES, _AGAIN_S = 3, 0.5


class AdapterTransfers:
    """Of what lies in ``store``, each folder named by the hash of its content. A node may keep ``most`` bytes. In the
    loop of ``links``."""

    def __init__(self, links: AgentLinks, store: Path, most: int) -> None:
        self._links, self._store, self._most = links, store, most
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def has(self, folder: Path) -> bool:
        """Whether ``folder`` is one that is brought to nodes."""
        return folder.parent == self._store and CONTENT.fullmatch(folder.name) is not None

    def origin(self, node: RemoteNode, path: str) -> str:
        """The folder of the store that is ``path`` on ``node``; any other path as it is."""
        there = node.report.adapters if node.report is not None else ""
        folder = Path(path)
        return str(self._store / folder.name) if there and str(folder.parent) == there else path

    async def provide(self, node: RemoteNode, start: str, folder: Path, held: Collection[Path]) -> Path:
        """Where ``folder`` is on ``node``, for the worker of ``start``, which has what was in ``held`` as well. Raises
        OSError, of which Unreachable."""
        files = await asyncio.to_thread(_files, folder)
        others = tuple(sorted({one.name for one in held if self.has(one)} - {folder.name}))
        offer = AdapterOffer(start, folder.name, files, others, self._most)
        async with self._locks.setdefault((node.name, folder.name), asyncio.Lock()):
            for left in reversed(range(_TRIES)):
                try:
                    answer = await self._offer(node, offer)
                    if answer.folder is not None:
                        return Path(answer.folder)
                    await self._send(node, folder, offer, answer)
                except Unreachable:
                    if not left or start in node.gone:
                        raise
                    await asyncio.sleep(_AGAIN_S)
            if (answer := await self._offer(node, offer)).folder is not None:
                return Path(answer.folder)
        raise AgentRefused(f"the agent of {node.name} did not keep it")

    async def _offer(self, node: RemoteNode, offer: AdapterOffer) -> OfferAnswer:
        try:
            return read_offer_answer(await self._links.ask(node, OFFER, offer.to_json(), _OFFER_S))
        except ValueError as error:
            raise AgentRefused(str(error)) from None

    async def _send(self, node: RemoteNode, folder: Path, offer: AdapterOffer, answer: OfferAnswer) -> None:
        """What has not arrived."""
        for name, size in offer.files.items():
            offset = answer.arrived.get(name, 0)
            if offset >= size:
                continue
            with await asyncio.to_thread((folder / name).open, "rb") as file:
                file.seek(offset)
                try:
                    async with asyncio.timeout(_STALL_S) as limit:
                        await self._links.send(node, upload_path(offer.content, name), offset, _pieces(file, limit))
                except TimeoutError:
                    raise Unreachable(f"nothing of {name} got on its way for {_STALL_S:g} s") from None


async def _pieces(file: BinaryIO, limit: asyncio.Timeout) -> AsyncIterator[bytes]:
    while data := await asyncio.to_thread(file.read, _PIECE):
        limit.reschedule(asyncio.get_running_loop().time() + _STALL_S)
        yield data


def _files(folder: Path) -> dict[str, int]:
    """Bytes by name. Raises OSError."""
    with os.scandir(folder) as entries:
        found = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    return {name: one.st_size for name, one in sorted(found.items()) if stat.S_ISREG(one.st_mode)}
