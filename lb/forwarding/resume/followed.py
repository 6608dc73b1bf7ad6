"""A stream that cannot go on from its tokens alone (`lb.forwarding.resume.obstacles`), or is of an API that has none in
its events: what the client has had of it is remembered, another worker makes it again whole, and of that goes on what
is new. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from config import replay
from config.topology import Capabilities
from lb.forwarding.resume import events
from lb.forwarding.resume.follow import cut
from lb.forwarding.resume.follow.atoms import Event, StreamOver
from lb.forwarding.resume.follow.choices import ChoiceGrammar
from lb.forwarding.resume.follow.follower import AnswerFollower
from lb.forwarding.resume.follow.plan import FollowPlan
from lb.forwarding.resume.follow.responses import ResponseGrammar
from lb.forwarding.resume.follow.sent import SentAnswer, ToldTokens
from lb.forwarding.resume.stream_failed import StreamFailed, failure_of
from lb.forwarding.resume.transcript import StreamTranscript
from lb.protocol.http1.chunked import Cut
from lb.protocol.usage import TokenUsage
from lb.telemetry.model_metrics import RequestRecorder


class Way(Enum):
    """How a stream goes on, as logs and metrics name it."""

    TOKENS = "tokens"  # from prompt and tokens
    REPLAY = "replay"  # made again from the first token on, with these tokens first
    COMPARE = "compare"  # made again as it was asked for, and compared
    AGAIN = "again"  # nothing of the answer had been sent


class FollowedStream:
    """``plan``: what was asked; ``recorder`` has the latest chunks. ``started``, ``made_here``, ``straight`` and
    ``moves`` as those of `lb.forwarding.resume.transcript.StreamTranscript`. ``tells``: whether all tokens of what was
    sent are known; ``prompt_tokens``: how many its prompt has, if that is.

    More methods than a class should have: what a relay, a failover and an account ask of a stream is answered by the
    same few facts."""

    def __init__(self, plan: FollowPlan, recorder: RequestRecorder, prompt_tokens: int | None = None) -> None:
        self.plan, self.recorder, self.grammar = plan, recorder, plan.grammar()
        recorder.fold = self._fold
        self._sent, self.tokens = SentAnswer(self.grammar), ToldTokens()
        self.straight: Cut | None = events.cut if plan.ids else cut.middle(self.grammar.straight)
        self.made_here = self.done = False
        self.tells = plan.ids
        self.moves, self.prompt_tokens = 0, prompt_tokens
        self._follower: AnswerFollower | None = None
        self._refused = False  # a worker did not make the tokens again
        self._is_odd = False  # some of it was no event of its API

    @classmethod
    def turned(cls, before: StreamTranscript, choices: Sequence[Event]) -> FollowedStream:
        """The stream ``before``, of which no more than who speaks has been sent, as it turns out with ``choices`` that
        it is more than text, or that its worker does not tell tokens."""
        ids = any(choice.get("token_ids") is not None for choice in choices)
        plan = FollowPlan(before.plan.path, before.plan.body if ids else before.plan.sent, ids)
        made = cls(plan, before.recorder, before.tokens.in_prompt)
        made.moves = before.moves
        if before.repeats is not None:
            made._sent.add([before.repeats + b"\n\n"])
            made._follower, made.straight = AnswerFollower(made.grammar, made._sent.lanes()), None
        return made

    # on the way

    @property
    def started(self) -> bool:
        return self.grammar.started or self._is_odd

    @property
    def finished(self) -> bool:
        return self.done or self.grammar.ended

    @property
    def tells_progress(self) -> bool:
        """Whether its worker would say something if it made tokens."""
        return not self.plan.may_be_silent

    @property
    def may_end(self) -> bool:
        """Whether its worker may end it here."""
        return self.finished or self._is_odd

    @property
    def wants_told(self) -> bool:
        """Whether a worker is to be asked for tokens beside its events."""
        return not self.plan.ids and self.plan.has_tokens_told

    def answered(self, tells: bool) -> None:
        """A worker has begun to answer; ``tells``: it tells tokens beside its events."""
        if not self.plan.ids:
            self.tells = tells

    def run_from(self, whole: Sequence[bytes], start: int) -> int:
        """Where the events in the middle of a stream that begin at ``start`` end."""
        if self.plan.ids:
            return events.middle(whole, start, True)
        end = start
        while end < len(whole) and self.grammar.straight in whole[end]:
            end += 1
        return end

    def pass_run(self, whole: Sequence[bytes]) -> bytes:
        """As `pass_on`, of several that are in the middle of a stream, in one go."""
        data = b"\n\n".join(whole) + b"\n\n"
        self.recorder.chunk(data, True, whole=True)
        return events.without_ids(data) if self.plan.ids else replay.take_comments(data)[0]

    def pass_on(self, event: bytes) -> bytes:
        """What the client is sent of one event (without the empty line at its end). Raises StreamFailed,
        CannotResume."""
        lines, told = self._take_tokens(event + b"\n")
        bare = lines[:-1]
        data = events.payload(bare)
        parsed = None
        if data == b"[DONE]":
            if not (self.grammar.has_finished or self._is_odd):
                raise StreamFailed("it ended without having finished")
            self.done = True
        elif data is not None:
            parsed = self._parse(data, bare)
            self.made_here = self.made_here or parsed is None or self.grammar.says(parsed)
        if self._follower is not None:
            self.tokens.add(told)
            if parsed is not None:
                return self._follow(self._follower, parsed)
        else:
            self.recorder.chunk(event + b"\n\n", True, whole=True)  # with what it tells, to be read in order
            if parsed is not None:
                self.grammar.note(parsed)
        return bare + b"\n\n" if bare.strip() else b""

    def _parse(self, data: bytes, event: bytes) -> Event | None:
        """None for what is no event of its API, which is the client's where nobody has to go on with it."""
        try:
            parsed = events.load(data)
            self.grammar.check(parsed)
        except StreamOver as over:
            if over.error is not None:
                raise failure_of(over.error, event) from None
            raise StreamFailed(str(over)) from None
        except (ValueError, AttributeError, TypeError, KeyError):
            if self._follower is not None or isinstance(self.grammar, ChoiceGrammar):
                raise StreamFailed("what it sent is no event of a stream") from None
            self._is_odd = True
            return None
        assert isinstance(parsed, dict)
        return parsed

    def _follow(self, follower: AnswerFollower, event: Event) -> bytes:
        try:
            made = follower.follow(event)
        except (ValueError, AttributeError, TypeError, KeyError):
            raise StreamFailed("what it sent is no event of a stream") from None
        if made is None:
            self.recorder.hears()
            return b""
        out = self.grammar.dump(made)
        self.grammar.note(made)
        self.recorder.chunk(out, True, whole=True)
        return out

    def _take_tokens(self, data: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
        """``data``, whole lines, without what tells tokens, and that."""
        if self.plan.ids:
            return events.without_ids(data), [(0, some) for some in events.ids(data)]
        return replay.take_comments(data)

    def _fold(self, chunks: Sequence[bytes]) -> None:
        """They have been sent, and leave the record."""
        if self._follower is not None:
            self._sent.add(chunks)  # what they told is known already
        elif self.plan.ids:
            data = b"".join(chunks)
            self.tokens.add([(0, some) for some in events.ids(data)])
            self._sent.add([events.without_ids(data)])
        else:
            if self.tells:
                self.tokens.read(chunks)
            self._sent.add(chunks)

    def finish(self) -> bytes:
        """What is left to be said of a stream that is finished, if its worker did not say it."""
        if self.done or self._is_odd:
            return b""
        self.done = True
        return self.grammar.finish()

    def latest(self) -> bytes:
        """What an error event has to follow."""
        recent = b"".join(self.recorder.recent()[-2:])
        return recent if recent or not isinstance(self.grammar, ResponseGrammar) else self.grammar.latest()

    # what has been used

    def so_far(self) -> TokenUsage:
        """What it has used."""
        made = self.recorder.so_far()
        return made._replace(completion=self.count()) if self.tells else made

    def count(self) -> int:
        """How many tokens were made, if that is known."""
        latest = sum(ids.count(b",") + 1 for _, ids in self._take_tokens(b"".join(self.recorder.recent()))[1])
        return self.tokens.count() + (latest if self._follower is None else 0) if self.tells else 0

    # for what comes after a failure

    @property
    def can_start_over(self) -> bool:
        """Nothing of the answer itself has gone out."""
        return not self.started

    def hindrance(self) -> str:
        """Why it cannot be continued; empty if it can, where there is a worker that can."""
        if self._is_odd:
            return "what its worker sent is not understood"
        if self.plan.hindrance or self.plan.is_repeatable or (self.tells and not self._refused):
            return self.plan.hindrance
        return "a worker did not make its tokens again" if self.tells else "it is a sample whose tokens are not known"

    def way(self, able: Capabilities) -> Way | None:
        """How a worker goes on with it that can do that, None: not at all."""
        if self.can_start_over:
            return Way.AGAIN
        repeatable = self.plan.is_repeatable
        if able.replay and not self._refused and (self.tells or (repeatable and self.tokens.count())):
            return Way.REPLAY
        return Way.COMPARE if repeatable else None

    def refused(self) -> None:
        """A worker answered with an error to what asked for its tokens once more."""
        self._refused = True

    def start_over(self) -> bytes:
        """The body that asks for all of it anew, nothing of which has been sent."""
        return self.again(Way.AGAIN)

    def again(self, way: Way, *, named: bool = True) -> bytes:
        """The body that asks another worker for all of it. ``named``: under the name that the client knows."""
        self.recorder.forget()
        sent = self._sent.lanes()
        if way is Way.AGAIN:
            self.tokens.forget()
        else:
            self.tokens.begin_again()
        self.made_here = False
        if not self._sent.is_empty or self._follower is not None:
            self._follower, self.straight = AnswerFollower(self.grammar, sent), None
        body = self._body(named)
        return replay.body(self.tokens.all(), body) if way is Way.REPLAY else body

    def _body(self, named: bool) -> bytes:
        response = self.response if named else None
        if response is None:
            return self.plan.body
        return b'%b,"request_id":"%b"}' % (self.plan.body.rstrip()[:-1], response.encode())

    @property
    def response(self) -> str | None:
        """The id of the Responses API that the client knows it by."""
        return self.grammar.response if isinstance(self.grammar, ResponseGrammar) else None
