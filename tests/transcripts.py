"""A `lb.forwarding.resume.transcript.StreamTranscript` fed without I/O, and broken."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from lb.forwarding.resume import plan
from lb.forwarding.resume.plan import Build
from lb.forwarding.resume.resumption import Resumption
from lb.forwarding.resume.transcript import StreamTranscript
from lb.protocol.http1.chunked import frame, payload_of
from lb.telemetry.model_metrics import ModelMetrics
from simstreams import CONTEXT, stream
from worker.sim.engine import tokens


def transcript_of(body: dict[str, Any], chat: bool, build: Build | None = None) -> StreamTranscript:
    raw = json.dumps(body).encode()
    recorder = ModelMetrics(CollectorRegistry(), lambda: 1.0).begin("demo")
    return StreamTranscript(plan.read(raw, chat=chat, resume=True), recorder, build or Build())


def feed(transcript: StreamTranscript, event: bytes, straight: bool) -> bytes:
    """As a connection and its relay do it."""
    if straight and transcript.started and transcript.straight is not None and not transcript.finished:
        framed = frame(event)
        out = transcript.straight(framed, payload_of(framed))
        if out is not None:
            transcript.recorder.stamps.append(2.0)
            transcript.recorder.latest.append(framed)
            if len(transcript.recorder.latest) >= 16:
                transcript.recorder.count()
            return out[out.index(b"\n") + 1 : -2]
    return transcript.pass_on(event[:-2])


async def read(ids: Sequence[int]) -> str:
    """`/detokenize`."""
    return tokens.decode(ids, special=True)


async def broken(
    transcript: StreamTranscript, breaks: Sequence[int], sizes: Sequence[int] = (), straight: bool = True
) -> bytes:
    """What a client gets of a stream whose workers are lost after so many events each. ``sizes``: see
    `simstreams.merged`. Raises CannotResume."""
    chat, out, resumption = transcript.plan.chat, b"", Resumption(transcript)
    coming = stream(json.loads(transcript.plan.body), chat, sizes)
    for number, after in enumerate(breaks):
        for event in coming[:after]:
            out += feed(transcript, event, straight)
        if transcript.finished:
            break
        name = "y" * (number + 2)
        if transcript.can_start_over:
            coming = stream(json.loads(transcript.start_over()), chat, sizes, name=name if out else "x")
            continue
        point = await resumption.point(read)
        asked_for = resumption.go_on(point, CONTEXT)
        assert asked_for, "there is always something left of a stream that has not finished"
        coming = stream(json.loads(asked_for), False, sizes[number:], name=name)
    else:
        for event in coming:
            out += feed(transcript, event, straight)
    return out + transcript.finish()
