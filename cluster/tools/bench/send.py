"""One request over the network, timed."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import aiohttp

from cluster.tools.bench.answers import AnswerError, AnswerTimes, error_text
from cluster.tools.bench.prompts import BenchPrompt
from cluster.tools.bench.samples import Sample

_PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


@dataclass(frozen=True, slots=True)
class Form:
    """What all requests of a run share. ``max_tokens`` goes before what a prompt says of its answer, if it is given;
    ``timeout`` in seconds, for a whole answer; ``verify``: whom to trust over https."""

    url: str
    endpoint: str = "chat"
    stream: bool = True
    max_tokens: int | None = None
    default_tokens: int = 128
    temperature: float | None = None
    ignore_eos: bool = False
    timeout: float = 600.0
    api_key: str | None = None
    verify: ssl.SSLContext | bool = True

    @property
    def target(self) -> str:
        return self.url + _PATHS[self.endpoint]

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def body(self, model: str, prompt: BenchPrompt) -> bytes:
        """The request, ready to be sent. Raises UsageError for a prompt that the endpoint cannot take."""
        tokens = self.max_tokens or prompt.output_tokens or self.default_tokens
        body: dict[str, Any] = {"model": model, "max_tokens": tokens, **prompt.body(self.endpoint == "chat")}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.ignore_eos:
            body["ignore_eos"] = True
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(body).encode()


class Sender:
    """Sends over ``session``; times of its samples count from ``began`` (of `time.perf_counter`)."""

    def __init__(self, session: aiohttp.ClientSession, form: Form, began: float) -> None:
        self._session, self._form, self._began = session, form, began
        self._headers = {**form.headers(), "Content-Type": "application/json"}
        self._timeout = aiohttp.ClientTimeout(total=form.timeout)

    async def send(self, model: str, body: bytes, planned: float | None = None) -> Sample:
        """Never raises for what the server or the network does: that is in the sample."""
        answer, sent = AnswerTimes(), time.perf_counter()
        sample = Sample(model, sent - self._began, planned)
        try:
            async with self._session.post(
                self._form.target, data=body, headers=self._headers, timeout=self._timeout
            ) as response:
                if response.status != 200:
                    raise AnswerError(f"HTTP {response.status}", _refusal(await response.read()))
                if self._form.stream:
                    async for data in response.content.iter_any():
                        answer.feed(data, time.perf_counter())
                    answer.end(time.perf_counter())
                else:
                    answer.whole(await response.read())
        except (AnswerError, TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            failure = _failure(error)
            sample.error, sample.detail = failure.kind, failure.detail
        _fill(sample, answer, sent, time.perf_counter())
        return sample


def _fill(sample: Sample, answer: AnswerTimes, sent: float, ended: float) -> None:
    moments = answer.moments
    if moments:
        sample.ttft = moments[0] - sent
        sample.gaps = list(_gaps(moments))
    sample.latency = (moments[-1] if moments else ended) - sent
    sample.prompt_tokens, sample.output_tokens = answer.prompt_tokens or 0, answer.tokens
    sample.counted = answer.completion_tokens is not None


def _gaps(moments: list[float]) -> Iterator[float]:
    return (later - earlier for earlier, later in pairwise(moments))


def _failure(error: BaseException) -> AnswerError:
    """The kinds are few: errors are counted by them."""
    text = str(error) or type(error).__name__
    match error:
        case AnswerError():
            return error
        case TimeoutError():
            return AnswerError("timeout", text)
        case aiohttp.ClientConnectorError():
            return AnswerError("no connection", text)
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | OSError():
            return AnswerError("connection lost", text)
        case _:
            return AnswerError("no HTTP", text)


def _refusal(data: bytes) -> str:
    try:
        body = json.loads(data)
        return error_text(body.get("error", body))
    except (ValueError, AttributeError):
        return data.decode(errors="replace")


def connector(concurrency: int | None, verify: ssl.SSLContext | bool) -> aiohttp.TCPConnector:
    """As many connections as requests run at a time, kept open in between; without a limit in an open loop: a request
    must not wait for another one's connection."""
    most = concurrency or 0
    return aiohttp.TCPConnector(limit=most, limit_per_host=most, keepalive_timeout=60, ssl=verify)


async def warm_up(sender: Sender, model: str, bodies: list[bytes], concurrency: int) -> list[Sample]:
    """Sends ``bodies``, so many at a time, and counts none of them."""
    gate = asyncio.Semaphore(concurrency)

    async def one(body: bytes) -> Sample:
        async with gate:
            return await sender.send(model, body)

    return list(await asyncio.gather(*(one(body) for body in bodies)))
