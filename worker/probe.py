"""Is it up, may it take traffic, is it still well: the questions put to one worker over HTTP.

A green ``/health`` is only a flag in the API server. A worker is ready when it holds the adapters it should and
has answered a real request for one token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from config import bounded
from config.aio import patience
from config.topology import Capabilities
from worker import progress
from worker.spec import SEATS

#: Model cards as `/v1/models` has them.
Cards = tuple[dict[str, Any], ...]

_COMPLETIONS = "/v1/completions"

#: A request that costs one token, by route, in the order they are tried: an embedding model has no completions.
_CANARIES: tuple[tuple[str, dict[str, Any]], ...] = (
    (_COMPLETIONS, {"prompt": "Hi", "max_tokens": 1, "temperature": 0}),
    ("/v1/embeddings", {"input": "Hi"}),
    ("/pooling", {"input": "Hi"}),
    ("/classify", {"input": "Hi"}),
)
_PROMPTS = ["Hi", "The capital of France is", "1 + 1 =", "def main():"]
_ONE_TOKEN = {"prompt": _PROMPTS, "max_tokens": 1, "temperature": 0}
#: Requests whose answers have numbers in them, in the order they are tried: how many alternatives a token may be shown
#: is a flag of the engine, and a pooling model has no completions. With each, where in the answer the numbers are.
_NUMBERS: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    *((_COMPLETIONS, {**_ONE_TOKEN, "logprobs": count}, "choices", "logprobs") for count in (20, 5, 1)),
    ("/classify", {"input": _PROMPTS}, "data", "probs"),
    ("/v1/embeddings", {"input": _PROMPTS}, "data", "embedding"),
    ("/pooling", {"input": _PROMPTS}, "data", "data"),
)
_MOST = 32 * 1024 * 1024  # bytes; of metrics, a worker with many adapters has some megabytes
_MOST_VALUES = 200_000  # a card of a model has about thirty
_UNSUPPORTED = (400, 404, 405, 501)
_NO_LIMIT = aiohttp.ClientTimeout(total=None)  # how long an answer may take is for `Target.call` to say


class ProbeFailed(Exception):
    """The worker did not answer as a healthy one does; the text says what it did instead. ``status``: that of its
    answer, if there was one. ``slow``: there was none in time."""

    def __init__(self, text: str, status: int | None = None, slow: bool = False) -> None:
        super().__init__(text)
        self.status, self.slow = status, slow


class NotNumbers(ProbeFailed):
    """An answer that should hold numbers holds NaN or an infinity."""


class NotProvided(Exception):
    """The adapter cannot be kept where the worker would read it."""


class AdapterFolders(Protocol):
    """Where the worker finds what lies here: a `worker.drivers.base.Handle`, which says more."""

    async def provide(self, folder: Path, held: Collection[Path]) -> Path: ...

    def origin(self, path: str) -> str: ...


class Target:
    """One server to put questions to, by what its engine is able to. ``timeout`` (s) holds for one whole answer.
    ``folders``: of a worker that need not run on this machine."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, api_key: str | None = None, timeout: float = 5.0,
        able: Capabilities | None = None, folders: AdapterFolders | None = None,
    ) -> None:
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.timeout = timeout
        self._able = able or Capabilities()
        self._folders = folders

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> tuple[int, str]:
        """Status and text of the answer. Raises ProbeFailed where there is none."""
        limit = timeout or self.timeout
        request = self._session.request(method, self._url + path, json=body, headers=self._headers, timeout=_NO_LIMIT)
        try:
            async with patience(limit), request as response:
                raw = await bounded.gathered(response.content.iter_any(), _MOST)  # not every server is ours
                return response.status, raw.decode(errors="replace")
        except TimeoutError:
            raise ProbeFailed(f"{path}: no answer in {limit:.0f} s", slow=True) from None
        except (aiohttp.ClientError, OSError, bounded.Unfit) as error:
            raise ProbeFailed(f"{path}: {str(error) or type(error).__name__}") from None

    async def healthy(self, required: bool = True) -> None:
        """Raises ProbeFailed unless ``/health`` answers 200. Not ``required``: a server that has no such route
        (it was not started by us, and may be another product) passes too."""
        status, text = await self.call("GET", "/health")
        if status != 200 and (required or status not in _UNSUPPORTED):
            raise ProbeFailed(f"/health: {status} {text[:200]}".rstrip())

    async def models(self) -> Cards:
        """The model cards of ``/v1/models``; an adapter's ``root`` is the folder here. Raises ProbeFailed."""
        status, text = await self.call("GET", "/v1/models")
        if status != 200:
            raise ProbeFailed(f"/v1/models: {status} {text[:200]}")
        cards, folders = parse_models(text), self._folders
        if folders is not None:
            for card in cards:
                if isinstance(card.get("root"), str):
                    card["root"] = folders.origin(card["root"])
        return cards

    async def seats(self) -> int | None:
        """How many requests it computes at a time; None where it does not tell. Raises ProbeFailed."""
        status, text = await self.call("GET", SEATS)
        try:
            seats = bounded.parse_json(text.encode())["seats"] if status == 200 else None
        except (ValueError, KeyError, TypeError):
            return None
        return seats if isinstance(seats, int) and seats > 0 else None

    async def one_token(self, model: str, timeout: float) -> None:
        """A real answer from ``model``. Raises ProbeFailed where there is none."""
        first: ProbeFailed | None = None
        for path, body in _CANARIES if self._able.embeddings else _CANARIES[:1]:
            status, text = await self.call("POST", path, {"model": model, **body}, timeout)
            if status == 200:
                return
            failed = ProbeFailed(f"{path}: {status} {' '.join(text.split())[:200]}", status)
            if status not in _UNSUPPORTED:
                raise failed
            first = first or failed
        assert first is not None
        raise first

    async def numbers(self, model: str, timeout: float) -> Any:
        """Numbers that ``model`` comes to for the same few prompts: equal for what computes the same. None where it
        serves nothing that has any. Raises ProbeFailed, NotNumbers."""
        for path, body, where, which in _NUMBERS:
            if path != _COMPLETIONS and not self._able.embeddings:
                break
            status, text = await self.call("POST", path, {"model": model, **body}, timeout)
            if status == 200:
                return _parse_numbers(path, text, where, which)
            if status not in _UNSUPPORTED:
                raise ProbeFailed(f"{path}: {status} {' '.join(text.split())[:200]}", status)
        return None

    async def progress(self, timeout: float) -> progress.Reading | None:
        """What its metrics say of its progress; None: they say nothing of it. Raises ProbeFailed."""
        if not self._able.progress:
            return None
        status, text = await self.call("GET", progress.PATH, timeout=timeout)
        return progress.read(text) if status == 200 else None

    async def sleep(self, timeout: float) -> None:
        """Gives back its GPU's memory and keeps the weights in main memory; returns when that is done. Requests that
        come meanwhile wait. Raises ProbeFailed."""
        await self._done("/sleep?level=1", timeout)

    async def wake(self, timeout: float) -> None:
        """Takes the memory again; one that is awake stays so. Raises ProbeFailed."""
        await self._done("/wake_up", timeout)

    async def _done(self, path: str, timeout: float) -> None:
        status, text = await self.call("POST", path, timeout=timeout)
        if status != 200:
            raise ProbeFailed(f"{path}: {status} {' '.join(text.split())[:200]}", status)

    async def provide(self, path: str, held: Collection[str]) -> str:
        """Where the worker finds the adapter in the folder ``path`` here, now that it holds those of ``held``. Raises
        NotProvided, ProbeFailed."""
        if self._folders is None:
            return path
        try:
            return str(await self._folders.provide(Path(path), [Path(one) for one in held]))
        except ConnectionError as error:
            raise ProbeFailed(f"an adapter cannot be brought there: {error}") from None
        except OSError as error:
            raise NotProvided(f"its machine does not take the adapter: {error.strerror or error}") from None

    async def load_adapter(self, name: str, path: str, timeout: float) -> str | None:
        """Loads one LoRA adapter. Returns None, or the worker's words where it refuses. Raises ProbeFailed."""
        body = {"lora_name": name, "lora_path": path}
        status, text = await self.call("POST", "/v1/load_lora_adapter", body, timeout)
        return None if status == 200 else f"{status} {' '.join(text.split())[:300]}"


def parse_models(text: str) -> Cards:
    """Raises ProbeFailed for what is no list of model cards."""
    try:
        cards = bounded.parse_json(text.encode(), _MOST_VALUES)["data"]
        return tuple(dict(card) for card in cards if isinstance(card["id"], str))
    except (ValueError, KeyError, TypeError):
        raise ProbeFailed(f"/v1/models: no list of models but {text[:100]!r}") from None


def _parse_numbers(path: str, text: str, where: str, which: str) -> Any:
    try:
        found = [item[which] for item in bounded.parse_json(text.encode())[where]]
    except (KeyError, TypeError):
        return None
    except ValueError:
        raise NotNumbers(f"{path}: {' '.join(text.split())[:200]}") from None
    return found if found and None not in found else None


async def wait_until_up(target: Target, interval: float) -> None:
    """Startup probe: returns when ``/health`` is green; the caller bounds the time."""
    while True:
        try:
            await target.healthy()
            return
        except ProbeFailed:
            await asyncio.sleep(interval)


async def readiness(target: Target, timeout: float) -> Cards:
    """Readiness probe: asks for one token within ``timeout`` (s; the first forward pass of an engine can take many).
    Returns the model cards. Raises ProbeFailed."""
    models = await target.models()
    base = next((card["id"] for card in models if not card.get("parent")), None)
    if base is None:
        raise ProbeFailed("/v1/models: it serves no model")
    await target.one_token(base, timeout)
    return models
