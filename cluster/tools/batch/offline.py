"""Puts the lines of a batch to an engine in this process, in place of a cluster."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol

from cluster.client import ClusterError
from cluster.tools.batch.lines import BatchRequest, failed, refused
from cluster.tools.batch.run import line_for
from worker.offline.values import OfflineError, UnknownExpert


class AnswersRequests(Protocol):
    """What of `worker.offline.OfflineEngine` is asked."""

    def check_expert(self, name: str) -> None: ...

    async def request(self, path: str, body: bytes) -> tuple[int, bytes]: ...


class OfflineSender:
    """As `RequestSender`, with nothing between that could break: no line is tried again."""

    def __init__(self, engine: AnswersRequests, timeout: float) -> None:
        """``timeout``: s for one answer."""
        self._engine, self._timeout = engine, timeout

    async def __aenter__(self) -> OfflineSender:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The engine is whose it was before."""

    async def __call__(self, ask: BatchRequest) -> dict[str, Any]:
        """The line that answers it. Raises ClusterError where the engine is gone."""
        if not ask.path:
            return failed(ask, f"line {ask.number}: {ask.wrong}")
        try:
            self._engine.check_expert(str(json.loads(ask.body)["model"]))
            async with asyncio.timeout(self._timeout):
                return line_for(ask, *await self._engine.request(ask.path, ask.body))
        except UnknownExpert as error:
            return refused(ask, 404, {"error": {"message": str(error), "type": "NotFoundError", "code": 404}})
        except TimeoutError:
            return failed(ask, f"no answer within {self._timeout:g} s")
        except OfflineError as error:
            raise ClusterError(str(error)) from None
