"""Where a broken stream goes on, and the request that goes on with it. No I/O but by what is passed in."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from lb.forwarding.resume import continuation, obstacles, tail
from lb.forwarding.resume.continuation import Dresser
from lb.forwarding.resume.point import SPECIAL, CannotResume, ResumePoint, Sent, Unmatched, by_text, by_tokens
from lb.forwarding.resume.transcript import StreamTranscript

#: Tokens of the prompt before the first one that is looked at as text: what a tokenizer does with a token can depend
#: on the one before it. And so many tokens back from the last: a stop string is held back in them.
_CONTEXT, _WINDOW = 8, 256


class Resumption:
    """Of one stream, however often it breaks."""

    def __init__(self, transcript: StreamTranscript) -> None:
        self.transcript, self._tokens = transcript, transcript.tokens
        #: Where the tokens that are made again stand in the text, and where it ends.
        self._ahead: tuple[list[int], int] = ([], 0)
        #: Found to be left out of its text. Kept: if the next worker is lost before it has got as far again, there is
        #: nothing to find that by.
        self._special: set[int] = set()

    async def point(self, text: Callable[[Sequence[int]], Awaitable[str]]) -> ResumePoint:
        """Where it goes on. ``text`` reads tokens. Raises CannotResume."""
        transcript, base = self.transcript, self._tokens.base
        if transcript.hindrance():
            raise CannotResume(transcript.plan.obstacle)
        pieces, tokens = tail.pieces(transcript.recorder.recent()), self._tokens.all()
        requested = transcript.plan.request()
        made_here = self._tokens.count() - base
        said = sum(len(piece.tokens) for piece in pieces)
        stops = _stops(requested)
        lag = max(map(len, stops), default=1) - 1
        hold, reach = (0, lag) if requested.get("include_stop_str_in_output") else (lag, 0)
        floor = base if transcript.dresser is not None and transcript.dresser.said_held else 0
        sent = Sent(
            len(tokens), pieces, base + made_here - said, made_here == said, hold, stops, floor,
            behind=made_here < len(self._tokens.once_more), reach=reach,
        )  # fmt: skip
        found = by_tokens(sent)
        if found is not None:
            return found
        exact, shown = obstacles.is_greedy(requested), _shows_tokens(requested, transcript.plan.chat)
        try:
            return await by_text(sent, await self._reader(text, tokens, lag), exact=exact, shown=shown)
        except Unmatched:
            # Of a wrong guess, which tokens are special, the text says so. Text lags: that of the first events is of
            # tokens before them.
            latest = set(tokens[max(0, len(tokens) - len(tokens[sent.base :]) - lag) :]) - self._special
            special = {token for token in latest if SPECIAL.fullmatch(await text([token]))}
            if not special:
                raise
            self._special |= special
            return await by_text(sent, await self._reader(text, tokens, lag), exact=exact, shown=shown)

    async def _reader(
        self, text: Callable[[Sequence[int]], Awaitable[str]], tokens: list[int], hold: int
    ) -> Callable[[int], Awaitable[str]]:
        """What the first so many of ``tokens`` read, without special ones, from some token on."""
        begin = max(0, len(tokens) - _WINDOW - hold)
        context = [*self._tokens.prompt(), *tokens[:begin]][-_CONTEXT:]
        before = await text(context) if context else ""

        async def read(count: int) -> str:
            made = before
            if count > begin:
                made = await text([*context, *(token for token in tokens[begin:count] if token not in self._special)])
            if not made.startswith(before):
                raise CannotResume("the end of its prompt is no whole character")
            return made[len(before) :]

        return read

    def go_on(self, point: ResumePoint, longest: int | None) -> bytes:
        """The body that asks for the rest; empty if there is none, and the stream finished. ``longest`` of prompt and
        answer, in tokens. Raises CannotResume."""
        tokens, prompt, requested = self._tokens.all(), self._tokens.prompt(), self.transcript.plan.request()
        body = continuation.request(requested, self.transcript.plan.chat, prompt, tokens[: point.kept], longest)
        over = body["max_tokens"] == 0
        offset, ahead = self._offset(len(tokens) - point.kept)
        top, chosen = requested.get("top_logprobs") or 0, requested.get("logprob_token_ids")
        dresser = Dresser(
            self.transcript.plan.chat, self.transcript.first, point, len(prompt), len(tokens),
            shows_ids=bool(requested.get("return_token_ids")), offset=offset,
            alternatives=None if chosen else top, least=len(set(chosen)) if chosen else top,
        )  # fmt: skip
        self.transcript.go_on(dresser)
        self._ahead = ahead
        return b"" if over else json.dumps(body).encode()

    def _offset(self, back: int) -> tuple[int, tuple[list[int], int]]:
        """Where the token stands that is ``back`` tokens from the end, in characters of the text as log probabilities
        of completions count them; and where those do that follow it, and the end."""
        if self.transcript.plan.request().get("logprobs") is None or self.transcript.plan.chat:
            return 0, ([], 0)
        base = self.transcript.dresser.offset if self.transcript.dresser is not None else 0
        offsets, end = tail.offsets(self.transcript.recorder.recent(), base)
        if len(offsets) < len(self._ahead[0]):
            offsets, end = [*offsets, *self._ahead[0][len(offsets) :]], self._ahead[1]
        if back > len(offsets):
            raise CannotResume("where its text stands is not known")
        return (offsets[-back], (offsets[-back:], end)) if back else (end, ([], end))


def _shows_tokens(requested: dict[str, Any], chat: bool) -> bool:
    logprobs = requested.get("logprobs")
    return bool(requested.get("return_token_ids")) or (bool(logprobs) if chat else logprobs is not None)


def _stops(requested: dict[str, Any]) -> tuple[str, ...]:
    stop = requested.get("stop")
    given = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    return tuple(text for text in given if isinstance(text, str) and text)
