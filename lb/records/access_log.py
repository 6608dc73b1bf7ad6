"""The access log: a line for a request that is over, written by a thread of its own.

The event loop hands over one tuple and goes on. The thread takes what has gathered a few lines at a time and sleeps in
between: while it makes a line, nobody else in this process makes anything. Where it cannot keep up or the disk is full,
lines are dropped and counted: requests are not.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from config.disk import private
from config.logs import iso, line
from lb.protocol.body import is_light
from lb.protocol.messages import Request
from lb.records.decision_log import Entry, Row, Step, failed, prompt_tokens, usage

#: Lines that may wait to be written.
WAITING = 10_000

#: Lines made in one go, and s of sleep after them; s between two looks when there is nothing to do.
_AT_ONCE, _BREATH_S, _LOOK_S = 16, 0.0005, 0.2

#: Characters of a prompt that are shown; bytes of a body that is parsed for it, of a larger one the beginning is shown;
#: bytes of all that wait for that.
PROMPT_CHARACTERS, _PARSED, _HELD = 2000, 256 * 1024, 32 * 1024 * 1024


class AccessLog:
    """``share`` of the requests that went well is written, each that did not. ``style``: ``text`` or ``json``;
    ``prompts``: whether they are shown. ``clock`` is that of the entries (s, monotonic)."""

    def __init__(
        self, path: Path, share: float, *, style: str = "text", prompts: bool = False,
        clock: Callable[[], float] = time.monotonic, random: Random | None = None,
    ) -> None:
        self._path, self._share, self._style, self._prompts, self._clock = path, share, style, prompts, clock
        self._random = (random or Random()).random
        self._waiting: deque[tuple[Row, str, str, int | bytes, bytes]] = deque()
        # Bytes of bodies taken in and given up, each written by one thread only.
        self._taken = self._given = 0
        self._dropped = self._unwritten = 0
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        return self._dropped + self._unwritten

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 1.0) -> None:
        """Writes what waits; gives it up after ``timeout`` s. Blocks."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def over(self, row: Row, request: Request | None, answer: bytes, prompt: int | None) -> None:
        if self._share < 1.0 and self._random() >= self._share and not failed(row[6]):
            return
        if len(self._waiting) >= WAITING:
            self._dropped += 1
            return
        body = b""
        if self._prompts and request is not None and self._taken - self._given < _HELD:
            body = request.body if len(request.body) <= _PARSED else request.body[: 4 * PROMPT_CHARACTERS]
            self._taken += len(body)
        method, peer = ("", "") if request is None else (request.head.method, request.peer)
        self._waiting.append((row, method, peer, usage(answer) if prompt is None else prompt, body))

    # in the thread

    def _run(self) -> None:
        while True:
            if not self._waiting:
                if self._end.is_set():
                    return
                self._end.wait(_LOOK_S)
                continue
            lines = [self._line(*self._waiting.popleft()) for _ in range(min(_AT_ONCE, len(self._waiting)))]
            self._write(lines)
            time.sleep(_BREATH_S)

    def _write(self, lines: list[str]) -> None:
        """Several processes write to the one file: whole lines, each time opened anew, so that it may be moved away."""
        try:
            file = private.descriptor(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        except OSError:
            self._unwritten += len(lines)
            return
        try:
            data = ("\n".join(lines) + "\n").encode(errors="replace")
            with contextlib.suppress(OSError):
                if os.write(file, data) == len(data):
                    return
            self._unwritten += len(lines)
        finally:
            os.close(file)

    def _line(self, row: Row, method: str, peer: str, tokens: int | bytes, body: bytes) -> str:
        entry = Entry._make(row)
        self._given += len(body)
        prompt = prompt_tokens(tokens) if isinstance(tokens, bytes) else tokens
        at = time.time() - self._clock() + entry.ended
        data = facts(entry, method, peer, prompt)
        if body:
            data["prompt"] = shown_prompt(body)
        level = "info" if not failed(entry.status) else "error" if entry.status >= 500 else "warning"
        if self._style == "json":
            return line(at, level, "access", "request", data)
        return f"{iso(at)} {level.upper()} access: {_text(data)}"


def facts(entry: Entry, method: str, peer: str, prompt: int | None) -> dict[str, Any]:
    """What is told of a request. Times are s; tokens a second are over the whole request. What is not known is None."""
    steps = [Step._make(step) for step in entry.info.steps]
    instance = entry.backend or (steps[-1].backend if steps else None)
    duration = entry.ended - entry.came
    data: dict[str, Any] = {
        "request_id": entry.info.id, "client": peer or None, "method": method or None,
        "route": entry.info.path or None, "status": entry.status, "model": entry.info.model,
        "instance": None if instance is None else instance.id,
        "attempts": len(steps) + (entry.backend is not None), "moves": sum([step.moved for step in steps]),
        "prompt_tokens": prompt, "completion_tokens": entry.made or None,
        "time_to_first_token_s": round(entry.first - entry.came, 6) if entry.first else None,
        "duration_s": round(duration, 6),
        "tokens_per_second": round(entry.made / duration, 1) if entry.made and duration > 0 else None,
    }  # fmt: skip
    if entry.info.asked is not None:
        data |= {"asked": entry.info.asked, "chosen": entry.info.chosen}
    return {**data, "error": entry.reason} if entry.reason else data


def shown_prompt(body: bytes) -> str:
    """The prompt or the messages of a request's body, cut off at `PROMPT_CHARACTERS`."""
    try:
        if not is_light(body):
            raise ValueError("a thread that parses for long keeps all others waiting")
        fields = json.loads(body)
        found = next((fields[key] for key in ("messages", "prompt", "input") if key in fields), "")
        text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        text = body[: 4 * PROMPT_CHARACTERS].decode(errors="replace")
    return text if len(text) <= PROMPT_CHARACTERS else text[:PROMPT_CHARACTERS] + "…"


def _text(data: dict[str, Any]) -> str:
    """``name=value`` for everything that is known; values with blanks or control characters in quotes."""
    return " ".join([f"{name}={_plain(value)}" for name, value in data.items() if value is not None])


_BARE = re.compile(r"[!#-<>-~]+")


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else json.dumps(value, ensure_ascii=False)
    return repr(value)
