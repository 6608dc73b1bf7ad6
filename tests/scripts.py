"""A `lb.forwarding.resume.script.Script` fed without I/O, and broken."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from lb.forwarding.resume import asked
from lb.forwarding.resume.build import Build
from lb.forwarding.resume.script import Script
from lb.protocol.http1.chunked import frame, payload_of
from lb.telemetry.model_metrics import ModelMetrics
from simstreams import CONTEXT, stream
from worker.sim import tokens


def script_of(body: dict[str, Any], chat: bool, build: Build | None = None) -> Script:
    raw = json.dumps(body).encode()
    meter = ModelMetrics(CollectorRegistry(), lambda: 1.0).begin("demo")
    return Script(asked.read(raw, chat=chat, resume=True), raw, meter, build or Build())


def feed(script: Script, event: bytes, straight: bool) -> bytes:
    """As a connection and its relay do it."""
    if straight and script.started and script.straight is not None and not script.finished:
        framed = frame(event)
        out = script.straight(framed, payload_of(framed))
        if out is not None:
            script.meter.stamps.append(2.0)
            script.meter.latest.append(framed)
            if len(script.meter.latest) >= 16:
                script.meter.count()
            return out[out.index(b"\n") + 1 : -2]
    return script.pass_on(event[:-2])


async def read(ids: Sequence[int]) -> str:
    """`/detokenize`."""
    return tokens.decode(ids, special=True)


async def broken(
    script: Script, breaks: Sequence[int], sizes: Sequence[int] = (), straight: bool = True
) -> bytes:
    """What a client gets of a stream whose workers are lost after so many events each. ``sizes``: see
    `simstreams.merged`. Raises CannotResume."""
    chat, out = script.asked.chat, b""
    coming = stream(json.loads(script.asked.body), chat, sizes)
    for number, after in enumerate(breaks):
        for event in coming[:after]:
            out += feed(script, event, straight)
        if script.finished:
            break
        name = "y" * (number + 2)
        if script.can_start_over:
            coming = stream(json.loads(script.start_over()), chat, sizes, name=name if out else "x")
            continue
        point = await script.point(read)
        asked_for = script.go_on(point, CONTEXT)
        assert asked_for, "there is always something left of a stream that has not finished"
        coming = stream(json.loads(asked_for), False, sizes[number:], name=name)
    else:
        for event in coming:
            out += feed(script, event, straight)
    return out + script.finish()
