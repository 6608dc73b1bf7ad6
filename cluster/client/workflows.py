"""Several calls in a row, for both clients. No I/O: a workflow yields calls and pauses, and is sent their outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

from cluster.client.core import SLOW, Call, ClusterError, Foreign, as_object, no_result, parsed
from cluster.client.status import Status

T = TypeVar("T")

#: Seconds (a float) are a pause; of a call the workflow is sent the result, or its ClusterError is thrown into it.
Workflow = Generator[Call[Any] | float, Any, T]

#: Nothing has moved, or nobody has said a word, for this long (s): nothing will, nobody is there.
_STANDSTILL = 10.0


STATUS: Call[Status] = Call("GET", "/v1/cluster/status", as_object(Status))


def _passes(error: ClusterError) -> bool:
    """Whether it may be another answer the next time: a balancer is being replaced, or short of time."""
    return error.status is None or error.status >= 500


def healthy() -> Workflow[bool]:
    try:
        yield Call("GET", "/health", no_result, timeout=5.0)
    except ClusterError:
        return False
    return True


def _completion(path: str, body: Mapping[str, Any]) -> Call[str]:
    """The text of an answer, which may be empty."""
    return Call("POST", path, _text, body, timeout=SLOW)


def _text(content: bytes) -> str:
    answer = parsed(content)
    try:
        choice = answer["choices"][0]
        return str((choice["message"]["content"] if "message" in choice else choice["text"]) or "")
    except (LookupError, TypeError):
        raise Foreign("an answer without text") from None


def ask(model: str, prompt: str, max_tokens: int) -> Workflow[str]:
    body = {"model": model, "max_tokens": max_tokens, "temperature": 0}
    try:
        chat = {**body, "messages": [{"role": "user", "content": prompt}]}
        return str((yield _completion("/v1/chat/completions", chat)))
    except ClusterError as error:
        if error.status != 400:
            raise
    return str((yield _completion("/v1/completions", {**body, "prompt": prompt})))


def wait_settled(
    timeout: float, pause: float, look: Callable[[Status], None], clock: Callable[[], float] = time.monotonic
) -> Workflow[Status]:
    """Raises ClusterError at the ``timeout``, and sooner if it cannot come to an end, or if nobody answers any more."""
    began = moved = answered = clock()
    while True:
        try:
            status: Status = yield STATUS
        except ClusterError as error:
            if not _passes(error) or clock() - answered > min(_STANDSTILL, timeout):
                raise
            yield pause
            continue
        now = answered = clock()
        look(status)
        supervisor = status["supervisor"]
        if supervisor.get("shutting_down"):
            raise ClusterError("it does not go on: the cluster is shutting down")
        if supervisor.get("settled"):
            return status
        if stopped := supervisor.get("rolling", {}).get("stopped"):
            raise ClusterError(str(stopped))
        states = {name: i["state"] for name, i in status.get("instances", {}).items() if i["managed"]}
        moving = any(s not in ("ready", "spare", "failed", "drained") for s in states.values())
        silent = supervisor.get("age_s") or 0.0
        heard = bool(supervisor.get("pid")) and silent <= _STANDSTILL
        if heard and (moving or status.get("load_balancer", {}).get("replacing")):
            moved = now
        if now - moved > _STANDSTILL:
            stuck = [f"{name} is {state}" for name, state in states.items() if state in ("failed", "drained")]
            nobody = f"the supervisor has not said a word for {silent:.0f} s" if supervisor.get("pid") else ""
            why = ", ".join(stuck) if heard and stuck else nobody or "there is no supervisor"
            raise ClusterError(f"it does not go on: {why}")
        if now - began > timeout:
            raise ClusterError(f"not done after {timeout:g} s; it goes on in the background")
        yield pause


def wait_ready(
    count: int, timeout: float, pause: float, clock: Callable[[], float] = time.monotonic
) -> Workflow[Status]:
    """Raises ClusterError at the ``timeout``, and sooner where too few are left as others have failed."""
    deadline = clock() + timeout
    while True:
        try:
            status: Status = yield STATUS
        except ClusterError as error:
            if not _passes(error):
                raise
            why = str(error)
        else:
            ready = status["running_instances"]
            if ready >= count:
                return status
            instances = status["instances"].items()
            failed = [f"{name} has failed: {i['reason']}" for name, i in instances if i["state"] == "failed"]
            why = "; ".join([f"{ready} of {count} ready", *failed])
            if failed and status["supervisor"].get("settled"):
                raise ClusterError(why)
        if clock() >= deadline:
            raise ClusterError(f"not within {timeout:g} s: {why}")
        yield pause
