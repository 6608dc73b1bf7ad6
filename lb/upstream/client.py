"""The balancer's own calls to workers."""

from __future__ import annotations

import json
from collections.abc import Sequence

from config.topology import BackendSpec
from lb.protocol.errors import AttemptFailed
from lb.protocol.failures import Failure
from lb.upstream.connections import Upstream

#: Seconds for a worker to say what tokens read.
_DETOKENIZE_S = 2.0


class WorkerClient:
    """On the same kept connections as the clients' requests. Timeouts are seconds. Every call raises AttemptFailed."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def get(self, worker: BackendSpec, path: str, timeout: float) -> tuple[int, bytes]:
        """Status and body."""
        head = f"GET {self._head(worker, path)}\r\n"
        return await self._upstream.fetch(self._upstream.endpoint(worker), head.encode(), timeout)

    async def detokenize(self, worker: BackendSpec, model: str | None, tokens: Sequence[int]) -> str:
        """The text of ``tokens``: the balancer has no tokenizer."""
        body = json.dumps({"model": model, "tokens": list(tokens)}).encode()
        status, answer = await self.post(worker, "/detokenize", body, _DETOKENIZE_S)
        try:
            return str(json.loads(answer)["prompt"])
        except (ValueError, KeyError, TypeError):
            raise AttemptFailed(f"{worker.id} answered {status} to /detokenize", Failure.BROKEN) from None

    async def render(self, worker: BackendSpec, path: str, body: bytes, timeout: float) -> bytes | None:
        """How a worker takes the generation that ``body`` asks for at ``path``, see `lb.forwarding.resume.rendered`;
        None where it does not say."""
        status, answer = await self.post(worker, f"{path}/render", body, timeout)
        return answer if status == 200 else None

    async def post(self, worker: BackendSpec, path: str, body: bytes, timeout: float) -> tuple[int, bytes]:
        """Status and body."""
        fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        head = f"POST {self._head(worker, path)}{fields}\r\n"
        return await self._upstream.fetch(self._upstream.endpoint(worker), head.encode() + body, timeout, "POST")

    def _head(self, worker: BackendSpec, path: str) -> str:
        """From the path to the end of the last field."""
        host = self._upstream.endpoint(worker).host_field.decode()
        key = f"Authorization: Bearer {worker.api_key}\r\n" if worker.api_key else ""
        return f"{worker.path}{path} HTTP/1.1\r\nHost: {host}\r\n{key}"
