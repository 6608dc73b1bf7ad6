"""Asks models through the one URL as any client does, and reads what is streamed."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import httpx

from cluster.client import ClusterError
from cluster.client.core import bearer, root_of, unanswered
from cluster.client.token import LocalToken
from cluster.tools.chat.openai_stream import AnswerReader, BadStream, Delta, error_of

#: A worker may take this long (s) over a long prompt, and a request may wait for one before that.
PATIENCE = 600.0


class StreamedAnswer:
    """One streamed answer. Iterate over its pieces to its end; raises ClusterError if there is none, or not all."""

    def __init__(self, response: httpx.Response, began: float, where: str) -> None:
        self._response, self._where = response, where
        self.reading = AnswerReader(began)

    def __iter__(self) -> Iterator[Delta]:
        try:
            for data in self._response.iter_bytes():
                yield from self.reading.feed(data, time.monotonic())
            if rest := self.reading.end():
                yield Delta(rest)
        except BadStream as error:
            raise ClusterError(str(error), error.status) from None
        except httpx.HTTPError as error:
            raise ClusterError(f"the answer broke off ({str(error) or type(error).__name__})") from None


class OpenAIClient:
    """``key`` is sent as a bearer token. Every method raises ClusterError."""

    def __init__(
        self, url: str, key: str | None = None, transport: httpx.BaseTransport | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._where = url
        timeout = httpx.Timeout(10.0, read=PATIENCE)
        self._http = httpx.Client(
            base_url=root_of(url), headers=bearer(key), timeout=timeout, trust_env=False, transport=transport,
            auth=None if key else LocalToken(), verify=verify,
        )

    def __enter__(self) -> OpenAIClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @contextlib.contextmanager
    def chat(self, body: dict[str, Any]) -> Iterator[StreamedAnswer]:
        """Streams the answer to a body for ``/v1/chat/completions``; left early, the request is given up."""
        sent = {**body, "stream": True, "stream_options": {"include_usage": True}}
        began = time.monotonic()
        try:
            request = self._http.build_request("POST", "/v1/chat/completions", json=sent)
            response = self._http.send(request, stream=True)
        except httpx.HTTPError as error:
            raise unanswered(self._where, error) from None
        with contextlib.closing(response):
            if response.status_code != 200:
                raise self._refusal(response)
            yield StreamedAnswer(response, began, self._where)

    def metrics(self) -> str:
        """The page of `/metrics`, in Prometheus' text format."""
        try:
            response = self._http.get("/metrics", timeout=10.0)
        except httpx.HTTPError as error:
            raise unanswered(self._where, error) from None
        if response.status_code != 200:
            raise self._refusal(response)
        return response.text

    def _refusal(self, response: httpx.Response) -> ClusterError:
        otherwise = f"{self._where}: {response.status_code} {response.reason_phrase}"
        try:
            response.read()
            message, _ = error_of(response.json(), otherwise)
        except (httpx.HTTPError, ValueError):
            message = otherwise
        return ClusterError(message, response.status_code)
