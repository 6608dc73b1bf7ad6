"""A generation stream on its way to a client: event by event, or chunk by chunk where nothing is to be looked at."""

from __future__ import annotations

import re
from typing import Protocol

from lb.forwarding.relay import Owner, Relay
from lb.forwarding.resume import events
from lb.forwarding.resume.followed import FollowedStream
from lb.forwarding.resume.point import CannotResume
from lb.forwarding.resume.stream_failed import StreamFailed
from lb.forwarding.resume.transcript import StreamTranscript, Turned
from lb.forwarding.retry.failure_policy import of_status
from lb.protocol.errors import AttemptFailed
from lb.protocol.failures import Failure
from lb.protocol.http1.chunked import LAST, frame
from lb.protocol.http1.response import ResponseHead
from lb.protocol.messages import Downstream, Request
from lb.protocol.worker_errors import says_engine_died
from lb.upstream.connection import WorkerConnection

#: What we ask for, as vLLM's errors repeat it.
_ASKED = re.compile(rb",\s*['\"]return_token_ids['\"]:\s*[Tt]rue")

#: Answers of a worker that say nothing of what it was asked.
_BUSY = frozenset({401, 403, 404, 408, 429, 502, 503, 504})

#: Bytes of one event.
_MOST = 16 * 1024 * 1024

#: Bytes of an error that is read, as it may say what the worker is worth.
_MOST_ERROR = 64 * 1024


class StreamOwner(Protocol):
    """Who asks: what is known of the stream belongs to all attempts."""

    transcript: StreamTranscript | FollowedStream | None


class StreamRelay(Relay):
    """``failure``: in what way the worker ended the stream, if it did so in so many words.

    More attributes than a class should have: it is a relay, and where it stands in a stream."""

    failure: StreamFailed | None = None
    aligned = True
    _rest = b""
    _continues = False  # the stream of another relay
    _error: ResponseHead | None = None  # in answer to that

    def __init__(
        self, owner: Owner, client: Downstream, connection: WorkerConnection, request: Request,
        stream: StreamOwner,
    ) -> None:
        assert stream.transcript is not None
        super().__init__(owner, client, connection, request, stream.transcript.recorder)
        self._asked_by, self._transcript, self._is_transcribed = stream, stream.transcript, False

    def take_over(self, before: Relay) -> None:
        """It goes on with the stream of ``before``, whose head has been sent."""
        self.began, self.status, self._stream = True, before.status, before._stream
        self._head, self._frame, self._continues = before._head, before._frame, True

    @property
    def silent(self) -> bool:
        return self._error is None and not self._is_transcribed if self._continues else super().silent

    def on_head(self, head: ResponseHead) -> None:
        if self.began and not (head.status == 200 and head.is_events):
            self._error = head
            if head.length is not None and head.length <= _MOST_ERROR:
                self.raw, self._held = False, bytearray()
                return
            self._connection.drop()
            self._fail(b"")
            return
        if self.began:
            self._transcribe(head)
            return
        super().on_head(head)
        if self._head is head and head.status == 200 and self._stream and self._held is None and not _is_coded(head):
            self._transcribe(head)

    def _transcribe(self, head: ResponseHead) -> None:
        self._is_transcribed, self.raw = True, False
        self._transcript.answered(head.tells)

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        if self.began:
            self.on_head(head)  # no stream: a failure
            return
        super().on_whole(head, body)

    def on_body(self, data: bytes) -> None:
        if not self._is_transcribed:
            super().on_body(data)
            return
        transcript = self._transcript
        whole, self._rest = events.split(self._rest + data if self._rest else data)
        out, failure = [], None
        try:
            at = 0
            while at < len(whole):
                if transcript.started and transcript.straight is not None:
                    # Whatever came together: most of it need not be looked at one by one.
                    end = transcript.run_from(whole, at)
                    if end > at:
                        out.append(transcript.pass_run(whole[at:end]))
                        at = end
                        continue
                try:
                    out.append(transcript.pass_on(whole[at]))
                except Turned as turned:
                    transcript = self._turn(transcript, turned)
                    continue
                at += 1
            if len(self._rest) > _MOST:
                raise StreamFailed("an event of it is too long")
        except StreamFailed as error:
            failure = error
        except CannotResume as error:
            failure = StreamFailed(str(error), final=True)
        self._write(b"".join(out))
        if failure is not None:
            self._connection.drop()
            self.failure = failure
            self._owner.on_broken(AttemptFailed(str(failure), failure.kind))
            return
        self.aligned = not self._rest
        if self._frame and transcript.started and transcript.straight is not None and not transcript.finished:
            self._connection.go_straight(self._client.write, transcript.recorder, transcript.straight)

    def on_end(self) -> None:
        if self._error is not None:
            self._fail(bytes(self._held or b""))
        elif not self._is_transcribed:
            if self._held is not None and self.status in (400, 422):
                self._held = bytearray(_ASKED.sub(b"", self._held))  # an error repeats what was asked for
            super().on_end()
        elif self._transcript.may_end:
            try:
                self.complete()
            except CannotResume as error:
                self._owner.on_broken(AttemptFailed(str(error), Failure.BROKEN))
        else:
            self._owner.on_broken(AttemptFailed("the answer ended before it was finished", Failure.BROKEN))

    def _turn(self, before: StreamTranscript | FollowedStream, turned: Turned) -> FollowedStream:
        """It is more than text, or tells no tokens: from now on it is remembered as such."""
        assert isinstance(before, StreamTranscript)
        self._asked_by.transcript = self._transcript = made = FollowedStream.turned(before, turned.choices)
        self.recorder = made.recorder
        if made.recorder.tokens is not None:
            made.recorder.tokens = made.count
        return made

    def say(self, event: bytes) -> None:
        """One more event, the last one."""
        self._write(event)

    def complete(self) -> None:
        """Everything has come, but for what says so, perhaps. Raises CannotResume, before anything is written."""
        self._write(self._transcript.finish())
        if self._frame:
            self._client.write(LAST)
        self._owner.on_complete(self.status)

    def _latest(self) -> bytes:
        return self._transcript.latest()

    def _fail(self, body: bytes) -> None:
        """The worker answered with an error to what should go on with the stream."""
        assert self._error is not None
        status = self._error.status
        if status not in _BUSY and isinstance(self._transcript, FollowedStream):
            self._transcript.refused()
        kind = Failure.ABSENT if status == 404 else of_status(status, our_key=True) or Failure.BROKEN
        if kind is Failure.ERROR and says_engine_died(body):
            kind = Failure.ENGINE_DIED
        self._owner.on_broken(AttemptFailed(f"it answered {status}", kind))

    def _write(self, data: bytes) -> None:
        if not data:
            return
        if self.began:
            self._client.write(frame(data) if self._frame else data)
        else:
            self._owner.on_first_byte(data)
            start = self._start()
            self._client.write(start + (frame(data) if self._frame else data))


def _is_coded(head: ResponseHead) -> bool:
    """Compressed: nothing can be read in it."""
    return any(line[:17].lower() == b"content-encoding:" for line in head.kept)
