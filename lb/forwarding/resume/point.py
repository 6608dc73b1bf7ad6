"""After which token a broken stream goes on. Pure, but for a question to a tokenizer where ids alone do not tell.

Text lags behind tokens: a character may take several tokens, and with ``stop`` vLLM holds back the last
``max(len(stop)) - 1`` characters (`vllm/v1/engine/detokenizer.py`), as a stop string may begin in them. What was held
back was never sent, so it has to be made again: the stream goes on after the last token whose text was sent wholly.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

#: What special tokens look like, which a tokenizer shows and a stream leaves out. Others look so as well.
SPECIAL = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")

#: What a tokenizer writes for bytes that are no whole character yet.
PARTIAL = "\ufffd"

#: Tokens looked back on beyond one for each character held back: those of one character, and such without text.
_SLACK = 16


class CannotResume(Exception):
    """Why a stream ends here after all."""


class Unmatched(CannotResume):
    """What was sent is not what its tokens read."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One event: the tokens made, and the text that was sent with them."""

    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """``kept`` tokens stand. The continuation makes ``repeated`` once more, which is not sent a second time; ``held``
    was never sent and belongs to tokens that stand, so it is sent before anything of the continuation."""

    kept: int
    repeated: str = ""
    held: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """What is known of a broken stream. ``total`` tokens were made, the last of them with the pieces of ``tail``;
    before the first of those ``base`` tokens had been made, all of whose text had been sent if ``clean``. ``hold``:
    characters that its worker holds back; ``reach``: so many that it has sent may be the beginning of a stop string, as
    that is part of the output. ``behind``: the tail is of a continuation that has not got as far yet as the
    stream had before. Of ``floor`` tokens all text is known to be sent, held back or not."""

    total: int
    tail: Sequence[Piece]
    base: int
    clean: bool
    hold: int = 0
    stops: tuple[str, ...] = ()
    floor: int = 0
    behind: bool = False
    reach: int = 0


def by_tokens(sent: Sent) -> ResumePoint | None:
    """Without asking anybody; None where only the text tells."""
    if sent.hold or sent.reach:
        return None
    made, last, tokens = sent.base, -1, 0
    for piece in sent.tail:
        made += len(piece.tokens)
        if piece.text:
            last, tokens = made, len(piece.tokens)
    if last < 0:
        return ResumePoint(sent.base) if sent.clean else None
    # Of several tokens in one event the last ones may have added nothing to its text yet.
    return ResumePoint(last) if tokens == 1 else None


async def by_text(sent: Sent, text: Callable[[int], Awaitable[str]], *, exact: bool, shown: bool) -> ResumePoint:
    """``text(n)``: what the first n tokens read (from some fixed token on). ``exact``: what is made again will be what
    was made before; ``shown``: the client sees single tokens. Raises CannotResume, or Unmatched in particular."""
    full = _whole(await text(sent.total))
    end = max(0, len(full) - sent.hold)
    if sent.floor:
        end = max(end, len(_whole(await text(sent.floor))))
    said = "".join(piece.text for piece in sent.tail)
    if sent.behind:
        fits = full.startswith(_whole(await text(sent.base)) + said)
    elif sum(len(piece.tokens) for piece in sent.tail) == sent.total:
        fits = said == full[:end]
    else:
        fits = not said or (end > 0 and full[:end].endswith(said[-end:]))
    if not fits:
        raise Unmatched("its text cannot be matched with its tokens")
    if exact:
        return await _made_again(sent, text, full, end)
    return await _made_otherwise(sent, text, full, end, shown)


async def _made_again(sent: Sent, text: Callable[[int], Awaitable[str]], full: str, end: int) -> ResumePoint:
    """The last token whose text was sent wholly and in which no stop string can begin: what follows comes again."""
    least = low = max(0, sent.total - sent.hold - sent.reach - _SLACK)
    high, limit = sent.total, max(0, end - sent.reach)
    while low < high:
        middle = (low + high + 1) // 2
        if len(_whole(await text(middle))) <= limit:
            low = middle
        else:
            high = middle - 1
    before = await text(low)
    while before.endswith(PARTIAL) and low > least:
        low -= 1
        before = await text(low)
    if before.endswith(PARTIAL) or len(before) > limit or not full.startswith(before):
        raise CannotResume("no token was found whose text had been sent wholly")
    return ResumePoint(low, repeated=full[len(before) : end])


async def _made_otherwise(
    sent: Sent, text: Callable[[int], Awaitable[str]], full: str, end: int, shown: bool
) -> ResumePoint:
    """A sample is not made twice: as many tokens stand as can, and their text goes out, provided that no stop string
    can begin in it, and that all of it is text."""
    said = full[max(0, end - sent.reach) : end]
    for kept in range(sent.total, max(0, sent.total - sent.hold - _SLACK) - 1, -1):
        if shown and kept < sent.total:
            break  # the client has seen a token that would not stand
        before = await text(kept)
        if before.endswith(PARTIAL):
            continue
        if len(before) < end:
            break
        held = before[end:]
        if SPECIAL.search(held) and await _may_leave_out(text, kept, end):
            continue
        last = said + held
        if not any(stop.startswith(last[at:]) for stop in sent.stops for at in range(len(last))):
            return ResumePoint(kept, held=held)
    raise CannotResume("a sample broke off in the middle of a character or of a stop string, or at a special token")


async def _may_leave_out(text: Callable[[int], Awaitable[str]], kept: int, end: int) -> bool:
    """Whether one of the tokens up to ``kept`` whose text was not sent may be special: what was not sent shows in
    nothing whether it is."""
    after = await text(kept)
    for count in range(kept - 1, -1, -1):
        before = await text(count)
        if SPECIAL.fullmatch(after[len(before) :]):
            return True
        if len(before) <= end:
            break
        after = before
    return False


def _whole(text: str) -> str:
    return text.rstrip(PARTIAL)
