"""Stepping one sequence: stop strings, hold-back, minimum and maximum, EOS. Pure.

The rules are those of vLLM's scheduler and detokenizer: text waits until its bytes are complete characters,
and with ``stop`` the last ``max(len(stop)) - 1`` characters wait until no stop string can begin in them.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from worker.sim.engine.guidance import grammar
from worker.sim.engine.guidance.grammar import EMPTY, NEVER, Node
from worker.sim.engine.tokens import EOS, PIECES, Context, context
from worker.sim.errors import internal

StopReason = int | str | None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """What ends a sequence and what is shown of it; lengths in tokens."""

    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop_str_in_output: bool = False
    # Forced choice, as far as one can be forced here: the first of these ids, always.
    allowed_token_ids: tuple[int, ...] | None = None
    # What the answer has to be, unless the model may write something else (``optional``); whether it goes on freely.
    guide: Node | None = None
    optional: bool = False
    then_free: bool = False
    # Of what a sample depends on beside the tokens, where it is drawn (or counted, as by penalties) from the answer's
    # beginning on: then it is another one where the tokens made so far stand in the prompt. 0: of nothing.
    salt: int = 0


@dataclass(frozen=True, slots=True)
class TokenStep:
    """One new token and the text that became visible with it."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str | None = None
    stop_reason: StopReason = None


@dataclass(slots=True)
class Sequence:
    """One sequence being generated: a prompt and the tokens made so far."""

    params: SamplingParams
    state: Context
    #: Made first, whatever would have been.
    forced: Seq[int] = ()
    #: What is left of what it has to be.
    guide: Node | None = None
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: StopReason = None
    # Text not shown yet, behind as much shown text as a stop string may begin in: short, so steps stay cheap.
    _window: str = ""
    _shown: int = 0
    _parts: list[str] = field(default_factory=list)
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    @property
    def text(self) -> str:
        """All text shown so far."""
        return "".join(self._parts)

    def step(self) -> TokenStep:
        """Make one token; the sequence must not be finished. Raises ApiError where it is not what it has to be."""
        token = self._choose()
        if self.guide is not None:
            self._follow(self.guide, token)
        self.state.push(token)
        self.token_ids.append(token)
        hidden = self._check_token(token) and not self.params.include_stop_str_in_output
        new_text = "" if hidden else self._decoder.decode(PIECES[token])
        self._window += new_text
        if self.params.stop and new_text and len(self.token_ids) > self.params.min_tokens:
            self._check_stop_strings(len(new_text))
        return TokenStep((token,), self._show(), self.finish_reason, self.stop_reason)

    def abort(self) -> TokenStep:
        """End the sequence as vLLM's scheduler aborts one: no token, the held-back text, ``abort``."""
        self.finish_reason = "abort"
        return TokenStep((), self._show(), "abort", None)

    def _choose(self) -> int:
        if len(self.token_ids) < len(self.forced):
            return self.forced[len(self.token_ids)]
        if self.params.allowed_token_ids:
            return self.params.allowed_token_ids[0]
        if self.guide is not None:
            return self._guided(self.guide)
        banned = len(self.token_ids) < self.params.min_tokens
        token = self.state.next_token(may_end=not banned)
        if banned and token in self.params.stop_token_ids:
            # vLLM masks stop ids below the minimum; a full stop or a line break is as good as any other.
            return 46 if 46 not in self.params.stop_token_ids else 10
        return token

    def _guided(self, guide: Node) -> int:
        options, draw = grammar.begins_with(guide), self.state.draw()
        if not options or (grammar.may_end(guide) and draw % 4 == 0):
            return EOS
        return options[(draw >> 2) % len(options)]

    def _follow(self, guide: Node, token: int) -> None:
        left = guide
        for byte in PIECES[token]:
            left = grammar.after(left, byte)
        ended = token == EOS and grammar.may_end(guide)
        if left == NEVER or not (PIECES[token] or ended):
            raise internal("Internal server error")  # as vLLM, whose scheduler finds that its grammar refuses a token
        self.guide = None if ended or (left == EMPTY and self.params.then_free) else left

    def _check_token(self, token: int) -> bool:
        """Set the finish reason if this token ends the sequence; true if it is a stop token."""
        count = len(self.token_ids)
        if count >= self.params.min_tokens:
            if token == EOS and (not self.params.ignore_eos or self.params.guide is not None):
                self.finish_reason = "stop"
                return True
            if token in self.params.stop_token_ids:
                self.finish_reason, self.stop_reason = "stop", token
                return True
        if count >= self.params.max_tokens:
            self.finish_reason = "length"
        return False

    def _check_stop_strings(self, new_chars: int) -> None:
        found = _first_stop(self._window, new_chars, self.params.stop)
        if found is None:
            return
        start, text = found
        end = start + len(text) if self.params.include_stop_str_in_output else start
        self._window = self._window[:end]
        self.finish_reason, self.stop_reason = "stop", text

    def _show(self) -> str:
        """Take the text that may be shown now out of the window."""
        stops = self.params.stop
        overlap = max(map(len, stops)) - 1 if stops else 0
        end = len(self._window)
        if self.finish_reason is None and not self.params.include_stop_str_in_output:
            end -= overlap
        if end <= self._shown:
            return ""
        text = self._window[self._shown : end]
        keep = max(0, end - overlap)
        self._window, self._shown = self._window[keep:], end - keep
        self._parts.append(text)
        return text


def start(
    model: str, prompt: Seq[int], params: SamplingParams, forced: Seq[int] = (), choice: int = 0
) -> Sequence:
    """A new sequence of ``model`` after ``prompt``, whose first tokens are ``forced``; the ``choice``-th of them."""
    state = context(model, prompt)
    if params.salt or choice:
        state.mix(params.salt + choice)
    writes = params.optional and state.draw() & 1
    return Sequence(params, state, forced, None if writes else params.guide)


def _first_stop(text: str, new_chars: int, stops: Seq[str]) -> tuple[int, str] | None:
    """Start and text of the stop string that completes first among the new characters."""
    best: tuple[int, int, str] | None = None
    for stop in stops:
        at = text.find(stop, max(0, len(text) - new_chars - len(stop) + 1))
        if at >= 0 and (best is None or at + len(stop) < best[0]):
            best = (at + len(stop), at, stop)
    return None if best is None else (best[1], best[2])
