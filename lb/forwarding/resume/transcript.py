"""What has come of one stream, over all the workers that had a part in it: which tokens were made, what of them the
client has been sent, whether it is finished. No I/O."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from lb.forwarding.resume import events, obstacles
from lb.forwarding.resume.continuation import Dresser
from lb.forwarding.resume.plan import Build, ResumePlan
from lb.forwarding.resume.point import CannotResume
from lb.forwarding.resume.stream_failed import StreamFailed, failure_of
from lb.protocol.http1.chunked import Cut
from lb.protocol.usage import TokenUsage
from lb.telemetry.model_metrics import RequestRecorder

#: Pieces of the record that are put together.
_MOST_PIECES = 64


class Turned(Exception):
    """The first of a stream that says something has more than text in it, or does not tell tokens. ``choices``: its."""

    def __init__(self, choices: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.choices = choices


class MadeTokens:
    """Of one stream, as ids: of its prompt, and those that were made, over all its workers. They are written down a few
    events at a time: ``recorder`` has the latest events by reference anyway. ``prompt_ids``: digits with commas between
    them, None where no worker told. ``base`` tokens had been made before the worker of now; ``once_more``: those after
    them, which it makes again."""

    def __init__(self, recorder: RequestRecorder) -> None:
        self._recorder = recorder
        self._written: list[bytes] = []  # digits with commas between them
        self.prompt_ids: bytes | None = None
        self.base = 0
        self.once_more: list[int] = []

    @property
    def none_written(self) -> bool:
        """All that were made are in the latest events."""
        return not self._written

    def write(self, ids: list[bytes]) -> None:
        """Those of events that leave the record."""
        self._written += ids
        if len(self._written) > _MOST_PIECES:
            self._written = [b",".join(self._written)]

    def begin_at(self, kept: int, made: Sequence[int]) -> None:
        """Of all that were ``made`` so many stand, and those behind them are made again."""
        text = b",".join(b"%d" % token for token in made[:kept])
        self._written = [text] if text else []
        self.base, self.once_more = kept, list(made[kept:])

    def start_over(self) -> None:
        self._written, self.base, self.once_more = [], 0, []

    def count(self) -> int:
        """How many were made, if that is known."""
        ids = [*self._written, *events.ids(b"".join(self._recorder.recent()))]
        return len(ids) + sum(some.count(b",") for some in ids)

    def all(self) -> list[int]:
        """All that were made."""
        text = b",".join([*self._written, *events.ids(b"".join(self._recorder.recent()))])
        made = [int(digits) for digits in text.split(b",")] if text else []
        return made + self.once_more[len(made) - self.base :]

    def prompt(self) -> list[int]:
        """Raises CannotResume."""
        if self.prompt_ids is None:
            raise CannotResume("its worker did not tell the tokens of its prompt")
        return [int(digits) for digits in self.prompt_ids.split(b",")] if self.prompt_ids else []

    @property
    def in_prompt(self) -> int | None:
        """How many tokens the prompt has, if its worker told."""
        ids = self.prompt_ids
        return None if ids is None else ids.count(b",") + bool(ids)


class StreamTranscript:
    """``plan`` is what workers are asked; ``recorder`` has its latest chunks; ``build`` is what streams of its model
    share.

    ``started``: text or tokens have come, and gone on to the client; ``made_here``: some of them from the worker of
    now. From then on whole chunks may pass through ``straight``, which says None to what has to be looked at; it is
    None itself if everything has to. ``dresser``: of the worker of now, if it goes on with what another began. More
    attributes and methods than a class should have: each is one fact of the stream, or one question."""

    def __init__(self, plan: ResumePlan, recorder: RequestRecorder, build: Build) -> None:
        self.plan, self.recorder, self._build = plan, recorder, build
        recorder.fold = self._fold
        self.straight: Cut | None = events.cut if plan.ids else events.plain
        self.finished = self.done = self.started = self.made_here = False
        self.moves = 0
        self._began: bytes | None = None  # its first event, without the ids of the prompt
        self.tokens = MadeTokens(recorder)
        self._open: int | None = None  # choices that have not ended, once one has
        self._usage_sent = self._echoed = False
        self.dresser: Dresser | None = None
        self._repeats = False  # it was begun anew: what is said once was said already

    # on the way

    def pass_on(self, event: bytes) -> bytes:
        """What the client is sent of one event (without the empty line at its end). Raises StreamFailed,
        CannotResume, and Turned before anything has been done with it."""
        whole = event
        if self._began is None:
            event, self.tokens.prompt_ids = events.without_prompt(event)
        if self._take_plainly(event):
            self.recorder.chunk(event + b"\n\n", True, whole=True)
            return (events.without_ids(whole) if self.plan.ids else whole) + b"\n\n"
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
                raise failure_of(parsed["error"], event)
            aborted = any(choice.get("finish_reason") in ("abort", "error") for choice in choices)
        except (ValueError, AttributeError, TypeError):
            raise StreamFailed("what it sent is no event of a stream") from None
        if aborted:
            raise StreamFailed("it gave the request up")
        if self._turns(choices):
            raise Turned(choices)
        self._began = self._began or event
        self.recorder.chunk(event + b"\n\n", True, whole=True)
        return self._event(whole, parsed, choices)

    def _turns(self, choices: Sequence[dict[str, Any]]) -> bool:
        """Whether it cannot be continued as text, as it turns out before any of it has been sent."""
        return (
            self.plan.ids and not self.started and self.dresser is None and not self.plan.echo
            and any(obstacles.says(choice) for choice in choices) and bool(obstacles.of_choices(choices))
        )  # fmt: skip

    def _take_plainly(self, event: bytes) -> bool:
        """Notes what ``event`` means if it is what the first one with text and the last one of nearly all streams are,
        and so need not be parsed; False if it has to be."""
        if self.straight is None or self.plan.echo:
            return False
        if not self.started:
            if events.says_something(event, ids=not self.plan.obstacle):
                self._began = self._began or event
                self.started = self.made_here = True
                return True
        elif not self.plan.obstacle and (build := events.build_at_end(event)) is not None:
            self._open, self.finished = 0, True
            self._build.fingerprint = build or self._build.fingerprint
            return True
        return False

    def pass_run(self, whole: Sequence[bytes]) -> bytes:
        """As `pass_on`, of several that are in the middle of a stream, in one go."""
        data = b"\n\n".join(whole) + b"\n\n"
        self.recorder.chunk(data, True, whole=True)
        return events.without_ids(data) if self.plan.ids else data

    def finish(self) -> bytes:
        """What is left to be said of a stream that is finished, if its worker did not say it. Raises CannotResume for
        usage that nobody has counted."""
        if self.done:
            return b""
        usage = b"" if self._usage_sent or not self._wants_usage() else self._usage()
        self.done = True
        return usage + events.DONE

    def _usage(self) -> bytes:
        if self.plan.obstacle:
            raise CannotResume(self.plan.obstacle)
        made, prompt = len(self.tokens.all()), len(self.tokens.prompt())
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}
        return events.dump({**self.first, "choices": [], "usage": usage, **self._build.fields()})

    def _event(self, event: bytes, parsed: dict[str, Any], choices: Sequence[dict[str, Any]]) -> bytes:
        says = any(obstacles.says(choice) for choice in choices)
        if says:
            self.plan.obstacle = self.plan.obstacle or obstacles.of_choices(choices)
            self.started = self.made_here = True
        if not choices and parsed.get("usage") is not None:
            if not self.finished:  # of a request given up before its first token vLLM says nothing else
                raise StreamFailed("it ended without having finished")
            self._usage_sent = True
        ended = sum(choice.get("finish_reason") is not None for choice in choices)
        if isinstance(said := parsed.get("system_fingerprint"), str):
            self._build.fingerprint = said
        if ended:
            self._open = (self.plan.choices() if self._open is None else self._open) - ended
            self.finished = self._open <= 0
        if self.dresser is not None:
            made = self.dresser.dress(parsed)
            return b"" if made is None else events.dump(made)
        if self._repeats:
            if choices and not says and not ended:
                return b""  # it has been said: the role
            parsed |= self.first
            return events.without_ids(events.dump(parsed)) if self.plan.ids else events.dump(parsed)
        if self.plan.echo and not self._echoed:
            return self._echo(event)
        return (events.without_ids(event) if self.plan.ids else event) + b"\n\n"

    def _echo(self, event: bytes) -> bytes:
        """The first event with the prompt before its text, and the prompt's ids, as vLLM writes it."""
        self._echoed = True
        made = events.parse(event) or {}
        for choice in made.get("choices", ()):
            choice["text"], choice["token_ids"] = self.plan.echo + choice["text"], None
        return events.dump(made)

    @functools.cached_property
    def first(self) -> dict[str, Any]:
        """What all its events have in common."""
        first = (None if self._began is None else events.parse(self._began)) or {}
        return {key: first[key] for key in ("id", "object", "created", "model") if key in first}

    def _fold(self, chunks: Sequence[bytes]) -> None:
        data = b"".join(chunks)
        made = None
        if self._unseen:
            made = events.ids_of_text(data, self._head, self.tokens.none_written)
            if made is None:
                self.plan.obstacle = obstacles.of_events(data)
        self.tokens.write(events.ids(data) if made is None else made)

    @property
    def _unseen(self) -> bool:
        """Whether something of a chat may have gone straight through that is not text and so cannot be continued.
        Looked for many events at a time: nobody asks before the stream breaks."""
        return self.plan.chat and self.straight is not None and not self.plan.obstacle and not self.finished

    @functools.cached_property
    def _head(self) -> int:
        """Bytes of its events before what is in them."""
        return max(0, (self._began or b"").find(b'"delta":'))

    @property
    def tells_progress(self) -> bool:
        """Whether its worker would say something if it made tokens."""
        return True

    @property
    def may_end(self) -> bool:
        """Whether its worker may end it here."""
        return self.finished

    def run_from(self, whole: Sequence[bytes], start: int) -> int:
        """Where the events in the middle of a stream that begin at ``start`` end."""
        return events.middle(whole, start, self.plan.ids)

    def answered(self, tells: bool) -> None:
        """A worker has begun to answer."""

    def latest(self) -> bytes:
        """What an error event has to follow."""
        return b"".join(self.recorder.recent()[-2:])

    # what has been used

    @property
    def prompt_tokens(self) -> int | None:
        """How many its prompt has, if its worker told."""
        return self.tokens.in_prompt

    def so_far(self) -> TokenUsage:
        """What it has used."""
        return TokenUsage(self.tokens.in_prompt or 0, 0, self.tokens.count())

    def count(self) -> int:
        """How many tokens were made, if that is known."""
        return self.tokens.count()

    # for what comes after a failure

    @property
    def can_start_over(self) -> bool:
        """Nothing of the answer itself has gone out."""
        return not self.started

    def hindrance(self) -> str:
        """Why it cannot be continued, by all that has come of it and all that it asks for; empty if it can."""
        if self._unseen:
            self.plan.obstacle = obstacles.of_events(b"".join(self.recorder.recent()))
        requested = self.plan.request()
        self.plan.obstacle = self.plan.obstacle or obstacles.lasting(requested)
        return self.plan.obstacle

    @property
    def repeats(self) -> bytes | None:
        """Its first event, if that has been sent and it was begun anew then."""
        return self._began if self._repeats else None

    def start_over(self) -> bytes:
        """The body that asks for all of it anew."""
        self._next_worker()
        self.tokens.start_over()
        self.dresser, self._repeats = None, self._began is not None
        if not self._repeats:
            self.straight = events.cut if self.plan.ids else events.plain
        return self.plan.body

    def go_on(self, dresser: Dresser) -> None:
        """Another worker does, and ``dresser`` makes its events the next ones."""
        made = self.tokens.all()
        self._next_worker()
        self.tokens.begin_at(dresser.point.kept, made)
        self.recorder.reads_usage = False  # from now on it is that of a part
        self.dresser, self._repeats = dresser, False

    def end_by_length(self) -> bytes:
        """The last event of a stream that has as many tokens as it may have."""
        assert self.dresser is not None
        self.finished = True
        end = {"choices": [{"text": "", "finish_reason": "length", "stop_reason": None}]}
        made = self.dresser.dress(end if self._wants_usage() else {**end, **self._build.fields()})
        return b"" if made is None else events.dump(made)

    def _next_worker(self) -> None:
        self.recorder.forget()
        self.made_here, self.straight = False, None

    def _wants_usage(self) -> bool:
        if b'"usage":{' in (self._began or b""):
            return True  # of every event: its worker may tell it unasked (`--enable-force-include-usage`)
        return self.plan.wants_usage()
