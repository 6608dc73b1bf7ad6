"""What has come of one stream, over all the workers that had a part in it: which tokens were made, what of them the
client has been sent, whether it is finished. No I/O.

The tokens are written down a few events at a time: the record of the request (`lb.telemetry.model_metrics.Meter`) has
the latest events by reference anyway.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from lb.forwarding.failure_policy import Failure
from lb.forwarding.resume import continuation, events, obstacles, rendered, tail
from lb.forwarding.resume.asked import Asked, fields
from lb.forwarding.resume.build import Build
from lb.forwarding.resume.continuation import Dresser
from lb.forwarding.resume.point import CannotResume, Point, Sent, Unmatched, by_text, by_tokens
from lb.protocol import lax
from lb.protocol.http1.chunked import Cut
from lb.protocol.worker_errors import is_engine_death
from lb.telemetry.model_metrics import Meter

#: Tokens of the prompt before the first one that is looked at as text: what a tokenizer does with a token can depend
#: on the one before it. And so many tokens back from the last: a stop string is held back in them.
_CONTEXT, _WINDOW = 8, 256

#: What special tokens look like. A wrong guess is noticed: what was sent has to be what is read then.
_SPECIAL = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


_MAY_HAVE_SEVERAL = re.compile(rb'"(?:n|prompt)"\s*:\s*[^\s"]|\\u')


class StreamFailed(Exception):
    """The worker has ended the stream before it was finished. ``event``: in its own words, if it said something;
    ``final``: it is the client's fault, so no other worker is asked; else ``kind`` says what was wrong."""

    def __init__(
        self, reason: str, event: bytes = b"", final: bool = False, kind: Failure = Failure.BROKEN
    ) -> None:
        super().__init__(reason)
        self.event, self.final, self.kind = event, final, kind


class Script:
    """``asked`` is the request, ``body`` as the client sent it; ``meter`` the record of its latest chunks; ``build`` is
    what streams of its model share.

    ``started``: text or tokens have come, and gone on to the client. From then on whole chunks may pass through
    ``straight``, which says None to what has to be looked at; it is None itself if everything has to."""

    def __init__(self, asked: Asked, body: bytes, meter: Meter, build: Build) -> None:
        self.asked, self.body, self.meter, self._build = asked, body, meter, build
        meter.fold = self._fold
        self.straight: Cut | None = events.cut if asked.ids else events.plain
        self.finished = self.done = self.started = False
        self.obstacle = asked.obstacle
        self.moves = 0
        self._began: bytes | None = None  # its first event, without the ids of the prompt
        self._prompt_ids: bytes | None = None  # digits with commas between them
        self._ids: list[bytes] = []  # digits with commas between them
        self._made = False  # by the worker of now
        self._open: int | None = None  # choices that have not ended, once one has
        self._usage_sent = self._echoed = False
        self._dresser: Dresser | None = None
        self._repeats = False  # it was begun anew: what is said once was said already
        self._base = 0
        self._once_more: list[int] = []  # tokens after those, which are being made again
        self._ahead: tuple[list[int], int] = ([], 0)  # where they stand in the text, and where it ends
        self._fields: dict[str, Any] | None = None
        # Found to be left out of its text. Kept: if the next worker is lost before it has got as far again, there is
        # nothing to find that by.
        self._special: set[int] = set()

    # on the way

    def pass_on(self, event: bytes) -> bytes:
        """What the client is sent of one event (without the empty line at its end). Raises StreamFailed,
        CannotResume."""
        whole = event
        if self._began is None:
            event, self._prompt_ids = events.without_prompt(event)
        if self._take_plainly(event):
            self.meter.chunk(event + b"\n\n", True, whole=True)
            return (events.without_ids(whole) if self.asked.ids else whole) + b"\n\n"
        data = events.payload(event)
        if data is None:
            return event + b"\n\n"
        if data == b"[DONE]":
            if not self.finished:
                raise StreamFailed("it ended without having finished")
            try:
                return self.finish()
            except CannotResume:
                self.done = True
                return events.DONE  # what its worker did not count, we cannot either
        try:
            parsed = events.load(data)
            choices = parsed.get("choices", ())
            if "error" in parsed:
                raise _failure(parsed["error"], event)
            aborted = any(choice.get("finish_reason") in ("abort", "error") for choice in choices)
        except (ValueError, AttributeError, TypeError):
            raise StreamFailed("what it sent is no event of a stream") from None
        if aborted:
            raise StreamFailed("it gave the request up")
        self._began = self._began or event
        self.meter.chunk(event + b"\n\n", True, whole=True)
        return self._event(whole, parsed, choices)

    def _take_plainly(self, event: bytes) -> bool:
        """Notes what ``event`` means if it is what the first one with text and the last one of nearly all streams are,
        and so need not be parsed; False if it has to be."""
        if self.straight is None or self.asked.echo:
            return False
        if not self.started:
            if events.says_something(event, ids=not self.obstacle):
                self._began = self._began or event
                self.started = self._made = True
                return True
        elif not self.obstacle and events.ends(event):
            self._open, self.finished = 0, True
            self._build.fingerprint = events.fingerprint(event) or self._build.fingerprint
            return True
        return False

    def pass_run(self, whole: Sequence[bytes]) -> bytes:
        """As `pass_on`, of several that are in the middle of a stream, in one go."""
        data = b"\n\n".join(whole) + b"\n\n"
        self.meter.chunk(data, True, whole=True)
        return events.without_ids(data) if self.asked.ids else data

    def finish(self) -> bytes:
        """What is left to be said of a stream that is finished, if its worker did not say it. Raises CannotResume for
        usage that nobody has counted."""
        if self.done:
            return b""
        usage = b"" if self._usage_sent or not self._wants_usage() else self._usage()
        self.done = True
        return usage + events.DONE

    def _usage(self) -> bytes:
        if self.obstacle:
            raise CannotResume(self.obstacle)
        made, prompt = len(self.tokens()), len(self._prompt())
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}
        return events.dump({**self._first, "choices": [], "usage": usage, **self._build.fields()})

    def _event(self, event: bytes, parsed: dict[str, Any], choices: Sequence[dict[str, Any]]) -> bytes:
        says = any(obstacles.says(choice) for choice in choices)
        if says:
            self.obstacle = self.obstacle or obstacles.of_choices(choices)
            self.started = self._made = True
        self._usage_sent = self._usage_sent or (not choices and parsed.get("usage") is not None)
        ended = sum(choice.get("finish_reason") is not None for choice in choices)
        if isinstance(said := parsed.get("system_fingerprint"), str):
            self._build.fingerprint = said
        if ended:
            self._open = (self._choices() if self._open is None else self._open) - ended
            self.finished = self._open <= 0
        if self._dresser is not None:
            made = self._dresser.dress(parsed)
            return b"" if made is None else events.dump(made)
        if self._repeats:
            if choices and not says and not ended:
                return b""  # it has been said: the role
            parsed |= self._first
            return events.without_ids(events.dump(parsed)) if self.asked.ids else events.dump(parsed)
        if self.asked.echo and not self._echoed:
            return self._echo(event)
        return (events.without_ids(event) if self.asked.ids else event) + b"\n\n"

    def _echo(self, event: bytes) -> bytes:
        """The first event with the prompt before its text, and the prompt's ids, as vLLM writes it."""
        self._echoed = True
        made = events.parse(event) or {}
        for choice in made.get("choices", ()):
            choice["text"], choice["token_ids"] = self.asked.echo + choice["text"], None
        return events.dump(made)

    @functools.cached_property
    def _first(self) -> dict[str, Any]:
        """What all its events have in common."""
        first = (None if self._began is None else events.parse(self._began)) or {}
        return {key: first[key] for key in ("id", "object", "created", "model") if key in first}

    def _choices(self) -> int:
        """How many the answer has."""
        if not self.obstacle or not _MAY_HAVE_SEVERAL.search(self.body):
            return 1
        asked = self._request()
        return max(1, asked.get("n") or 1) * lax.prompts_in(asked.get("prompt"))

    def _fold(self, chunks: Sequence[bytes]) -> None:
        data = b"".join(chunks)
        made = None
        if self._unseen:
            made = events.ids_of_text(data, self._head, not self._ids)
            if made is None:
                self.obstacle = obstacles.of_events(data)
        self._ids += events.ids(data) if made is None else made
        if len(self._ids) > 64:
            self._ids = [b",".join(self._ids)]

    @property
    def _unseen(self) -> bool:
        """Whether something of a chat may have gone straight through that is not text and so cannot be continued.
        Looked for many events at a time: nobody asks before the stream breaks."""
        return self.asked.chat and self.straight is not None and not self.obstacle and not self.finished

    @functools.cached_property
    def _head(self) -> int:
        """Bytes of its events before what is in them."""
        return max(0, (self._began or b"").find(b'"delta":'))

    # for what comes after a failure

    @property
    def can_start_over(self) -> bool:
        """Nothing of the answer itself has gone out."""
        return not self.started

    def hindrance(self) -> str:
        """Why it cannot be continued, by all that has come of it and all that it asks for; empty if it can."""
        if self._unseen:
            self.obstacle = obstacles.of_events(b"".join(self.meter.recent()))
        asked = self._request()
        self.obstacle = self.obstacle or obstacles.lasting(asked)
        return self.obstacle

    @property
    def made_here(self) -> bool:
        """Whether the worker of now has made anything."""
        return self._made

    def count(self) -> int:
        """How many tokens were made, if that is known."""
        ids = [*self._ids, *events.ids(b"".join(self.meter.recent()))]
        return len(ids) + sum(some.count(b",") for some in ids)

    @property
    def prompt_tokens(self) -> int | None:
        """How many tokens the prompt has, if its worker told."""
        ids = self._prompt_ids
        return None if ids is None else ids.count(b",") + bool(ids)

    def tokens(self) -> list[int]:
        """All that were made."""
        recent = events.ids(b"".join(self.meter.recent()))
        text = b",".join([*self._ids, *recent])
        made = [int(digits) for digits in text.split(b",")] if text else []
        return made + self._once_more[len(made) - self._base :]

    def start_over(self) -> bytes:
        """The body that asks for all of it anew."""
        self._next_worker()
        self._dresser, self._ids, self._repeats = None, [], self._began is not None
        self._base, self._once_more, self._ahead = 0, [], ([], 0)
        if not self._repeats:
            self.straight = events.cut if self.asked.ids else events.plain
        return self.asked.body

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.asked.chat else "/v1/completions"

    def settle(self, answer: bytes | None) -> None:
        """The worker that is to go on has said how it takes the request (`lb.forwarding.resume.rendered`), or says
        nothing."""
        asked = self._request()
        found = None if answer is None else rendered.read(answer, asked, chat=self.asked.chat)
        if found is not None:
            self._fields = {**asked, **found.fields}
            self.obstacle = self.obstacle or found.obstacle

    async def point(self, text: Callable[[Sequence[int]], Awaitable[str]]) -> Point:
        """Where it goes on. ``text`` reads tokens. Raises CannotResume."""
        if self.hindrance():
            raise CannotResume(self.obstacle)
        pieces, tokens, asked = tail.pieces(self.meter.recent()), self.tokens(), self._request()
        made_here = self.count() - self._base
        said = sum(len(piece.tokens) for piece in pieces)
        stops = _stops(asked)
        lag = max(map(len, stops), default=1) - 1
        hold, reach = (0, lag) if asked.get("include_stop_str_in_output") else (lag, 0)
        floor = self._base if self._dresser is not None and self._dresser.said_held else 0
        sent = Sent(
            len(tokens), pieces, self._base + made_here - said, made_here == said, hold, stops, floor,
            behind=made_here < len(self._once_more), reach=reach,
        )  # fmt: skip
        found = by_tokens(sent)
        if found is not None:
            return found
        exact, shown = obstacles.is_greedy(asked), self._shows_tokens(asked)
        try:
            return await by_text(sent, await self._reader(text, tokens, lag), exact=exact, shown=shown)
        except Unmatched:
            # A tokenizer shows special tokens, which a stream leaves out. Text lags: that of the first events is of
            # tokens before them.
            latest = set(tokens[max(0, len(tokens) - len(tokens[sent.base :]) - lag) :]) - self._special
            special = {token for token in latest if _SPECIAL.fullmatch(await text([token]))}
            if not special:
                raise
            self._special |= special
            return await by_text(sent, await self._reader(text, tokens, lag), exact=exact, shown=shown)

    async def _reader(
        self, text: Callable[[Sequence[int]], Awaitable[str]], tokens: list[int], hold: int
    ) -> Callable[[int], Awaitable[str]]:
        """What the first so many of ``tokens`` read, without special ones, from some token on."""
        begin = max(0, len(tokens) - _WINDOW - hold)
        context = [*self._prompt(), *tokens[:begin]][-_CONTEXT:]
        before = await text(context) if context else ""

        async def read(count: int) -> str:
            made = before
            if count > begin:
                made = await text([*context, *(token for token in tokens[begin:count] if token not in self._special)])
            if not made.startswith(before):
                raise CannotResume("the end of its prompt is no whole character")
            return made[len(before) :]

        return read

    def go_on(self, point: Point, longest: int | None) -> bytes:
        """The body that asks for the rest; empty if there is none, and the stream finished. ``longest`` of prompt and
        answer, in tokens. Raises CannotResume."""
        tokens, prompt, asked = self.tokens(), self._prompt(), self._request()
        body = continuation.request(asked, self.asked.chat, prompt, tokens[: point.kept], longest)
        over = body["max_tokens"] == 0
        offset, ahead = self._offset(len(tokens) - point.kept)
        top, chosen = asked.get("top_logprobs") or 0, asked.get("logprob_token_ids")
        self._dresser = Dresser(
            self.asked.chat, self._first, point, len(prompt), len(tokens),
            shows_ids=bool(asked.get("return_token_ids")), offset=offset,
            alternatives=None if chosen else top, least=len(set(chosen)) if chosen else top,
        )  # fmt: skip
        self._next_worker()
        kept = b",".join(b"%d" % token for token in tokens[: point.kept])
        self._ids = [kept] if kept else []
        self._base, self._once_more, self._repeats = point.kept, tokens[point.kept :], False
        self._ahead = ahead
        return b"" if over else json.dumps(body).encode()

    def end_by_length(self) -> bytes:
        """The last event of a stream that has as many tokens as it may have."""
        assert self._dresser is not None
        self.finished = True
        end = {"choices": [{"text": "", "finish_reason": "length", "stop_reason": None}]}
        made = self._dresser.dress(end if self._wants_usage() else {**end, **self._build.fields()})
        return b"" if made is None else events.dump(made)

    def _next_worker(self) -> None:
        self.meter.forget()
        self._made, self.straight = False, None

    def _offset(self, back: int) -> tuple[int, tuple[list[int], int]]:
        """Where the token stands that is ``back`` tokens from the end, in characters of the text as log probabilities
        of completions count them; and where those do that follow it, and the end."""
        if self._request().get("logprobs") is None or self.asked.chat:
            return 0, ([], 0)
        base = self._dresser.offset if self._dresser is not None else 0
        offsets, end = tail.offsets(self.meter.recent(), base)
        if len(offsets) < len(self._ahead[0]):
            offsets, end = [*offsets, *self._ahead[0][len(offsets) :]], self._ahead[1]
        if back > len(offsets):
            raise CannotResume("where its text stands is not known")
        return (offsets[-back], (offsets[-back:], end)) if back else (end, ([], end))

    def _request(self) -> dict[str, Any]:
        """Its fields as the engine takes them; none of a request that it would refuse, and that is not continued."""
        if self._fields is None:
            try:
                self._fields = fields(self.body, chat=self.asked.chat)
            except (ValueError, RecursionError):
                self._fields = {}
                self.obstacle = self.obstacle or obstacles.NOT_UNDERSTOOD
        return self._fields

    def _prompt(self) -> list[int]:
        if self._prompt_ids is None:
            raise CannotResume("its worker did not tell the tokens of its prompt")
        return [int(digits) for digits in self._prompt_ids.split(b",")] if self._prompt_ids else []

    def _wants_usage(self) -> bool:
        if b'"usage":{' in (self._began or b""):
            return True  # of every event: its worker may tell it unasked (`--enable-force-include-usage`)
        if b'"include_usage"' not in self.body and b"\\u" not in self.body:
            return False  # most say nothing of it, and need not be parsed
        options = self._request().get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))

    def _shows_tokens(self, asked: dict[str, Any]) -> bool:
        logprobs = asked.get("logprobs")
        return bool(asked.get("return_token_ids")) or (bool(logprobs) if self.asked.chat else logprobs is not None)


def _failure(error: object, event: bytes) -> StreamFailed:
    said = error if isinstance(error, dict) else {}
    message, code = str(said.get("message") or error), said.get("code")
    final = isinstance(code, int) and 400 <= code < 500 and code not in (408, 429)
    kind = Failure.ENGINE_DIED if is_engine_death(error) else Failure.BROKEN
    return StreamFailed(f"it ended the stream in an error: {message}", event + b"\n\n", final, kind)


def _stops(asked: dict[str, Any]) -> tuple[str, ...]:
    stop = asked.get("stop")
    given = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    return tuple(text for text in given if isinstance(text, str) and text)
