"""Calls to the agent of one node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp

from config import bounded
from worker.drivers.remote import protocol
from worker.drivers.remote.protocol import AgentAddress

#: JSON values of an answer.
_VALUES = 500_000

_NO_LIMIT = aiohttp.ClientTimeout(total=None)


class AgentRefused(OSError):
    """The agent says why it does not do what it was asked for."""


class TakenOver(AgentRefused):
    """It does what a supervisor says that began later."""


class Unreachable(ConnectionError):
    """There is no answer. ``refused``: the machine is there, and nobody listens."""

    def __init__(self, why: str, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


async def call(
    http: aiohttp.ClientSession, address: AgentAddress, path: str, message: Mapping[str, Any], timeout: float
) -> dict[str, Any]:
    """The answer, within ``timeout`` seconds. Raises AgentRefused, Unreachable."""
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        return await _answered(http.post(address.url + path, json=message, headers=_key(address), timeout=limit))
    except TimeoutError:
        raise Unreachable(f"no answer within {timeout:g} s") from None


async def send(
    http: aiohttp.ClientSession, address: AgentAddress, path: str, query: Mapping[str, str], data: AsyncIterator[bytes]
) -> None:
    """A file, or the rest of one. It is for the caller to see to an end. Raises AgentRefused, Unreachable."""
    await _answered(http.put(address.url + path, params=query, data=data, headers=_key(address), timeout=_NO_LIMIT))


def _key(address: AgentAddress) -> dict[str, str]:
    return {"Authorization": f"Bearer {address.key}"}


async def _answered(request: AbstractAsyncContextManager[aiohttp.ClientResponse]) -> dict[str, Any]:
    try:
        async with request as response:
            body = await bounded.gathered(response.content.iter_any(), protocol.MOST_ANSWERED)
            status = response.status
    except TimeoutError:
        raise
    except aiohttp.ClientConnectorError as error:
        raise Unreachable(str(error), isinstance(error.os_error, ConnectionRefusedError)) from None
    except (aiohttp.ClientError, OSError, bounded.Unfit) as error:
        raise Unreachable(str(error) or type(error).__name__) from None
    return _answer(status, body)


def _answer(status: int, body: bytes) -> dict[str, Any]:
    try:
        found = bounded.parse_json(body, _VALUES)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unreachable(f"no agent: {status}")
    if status == 200:
        return found
    why = str(found.get("error", status))
    if status == 409 and "taken over" in why:
        raise TakenOver(why)
    refused = AgentRefused(why)
    refused.errno = found["errno"] if isinstance(found.get("errno"), int) else None
    raise refused
