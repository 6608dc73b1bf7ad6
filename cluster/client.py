"""A typed client of the management API; the command line is its first user."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from config.paths import StateDir, short_socket_path

#: Nothing has moved for this long (s): nothing will.
_STANDSTILL = 10.0

#: How long (s) what concerns every worker may take: an adapter is copied, then loaded on one after the other.
SLOW = 600.0

#: A stream of events that is silent for so long (s) is dead: it would have had comments.
_SILENCE = 40.0


class ClusterError(Exception):
    """The cluster answered with an error, or there is none. ``status`` is None where nothing answered."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ClusterClient:
    """Talks to the balancer at ``url`` or, given a ``state_dir``, to the supervisor there. Times are seconds.

    Every method raises ClusterError."""

    def __init__(
        self, url: str = "http://127.0.0.1:8000", admin_key: str | None = None, *, state_dir: Path | None = None,
        timeout: float = 35.0,
    ) -> None:
        self.where = str(state_dir) if state_dir else url
        headers = httpx.Headers({"Authorization": f"Bearer {admin_key}"} if admin_key else {}, encoding="utf-8")
        try:
            httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ClusterError(f"{url}: {error}") from None
        if state_dir is not None:
            socket = short_socket_path(StateDir(state_dir).control)
            transport = httpx.HTTPTransport(uds=socket)
            self._http = httpx.Client(transport=transport, base_url="http://supervisor", timeout=timeout)
        else:
            self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout, trust_env=False)

    def __enter__(self) -> ClusterClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def status(self) -> dict[str, Any]:
        return self._call("GET", "/v1/cluster/status")

    def snapshot(self) -> dict[str, Any]:
        """The supervisor's own view; only with ``state_dir``."""
        return self._call("GET", "/v1/cluster/snapshot")

    def scale(self, instances: int) -> dict[str, Any]:
        """Wants ``instances`` workers."""
        return self._call("POST", "/v1/cluster/scale", {"instances": instances})

    def scale_by(self, change: int) -> dict[str, Any]:
        """Wants ``change`` workers more (or, negative, fewer) than now."""
        action = "scale_up" if change > 0 else "scale_down"
        return self._call("POST", "/v1/cluster/scale", {"action": action, "count": abs(change)})

    def strategy(self, name: str) -> dict[str, Any]:
        return self._call("POST", "/v1/cluster/strategy", {"strategy": name})

    def restart(self, instance: str) -> dict[str, Any]:
        return self._call("POST", "/v1/cluster/restart", {"instance_id": instance})

    def restart_rolling(self, spare: bool | None = None) -> dict[str, Any]:
        """``spare``: whether a spare worker is started first; None leaves it to the cluster's settings."""
        body = {"rolling": True} if spare is None else {"rolling": True, "spare": spare}
        return self._call("POST", "/v1/cluster/restart", body)

    def drain(self, instance: str, grace: float | None = None) -> dict[str, Any]:
        """Takes it out of rotation until `undrain`; what runs there may finish for ``grace`` s (None: the cluster's
        drain timeout), the rest goes on elsewhere."""
        return self._call("POST", self._drain_path(instance), {} if grace is None else {"grace": grace})

    def undrain(self, instance: str) -> dict[str, Any]:
        return self._call("DELETE", self._drain_path(instance))

    @staticmethod
    def _drain_path(instance: str) -> str:
        return f"/v1/cluster/instances/{quote(instance, safe='')}/drain"

    def apply(
        self, settings: Mapping[str, Any] | None = None, *, defaults: Sequence[str] = (), previous: bool = False,
        dry_run: bool = False, spare: bool | None = None,
    ) -> dict[str, Any]:
        """Changes ``settings`` of the running cluster (as in a settings file; paths absolute), and puts those named
        in ``defaults`` back to what they are if nobody gives them; or, ``previous``, takes back the last apply."""
        body: dict[str, Any] = {"settings": dict(settings or {}), "defaults": list(defaults)}
        body |= {"previous": previous, "dry_run": dry_run}
        if spare is not None:
            body["spare"] = spare
        return self._call("POST", "/v1/cluster/apply", body)

    def weight(self, instance: str, weight: int) -> dict[str, Any]:
        return self._call("PATCH", f"/v1/cluster/instances/{quote(instance, safe='')}", {"weight": weight})

    def shutdown(self, now: bool = False) -> dict[str, Any]:
        return self._call("POST", "/v1/cluster/shutdown", {"now": now})

    def adapters(self) -> list[dict[str, Any]]:
        """Every adapter of the registry."""
        return self._list("/v1/lora_adapters", "adapters")

    def adapter(self, name: str) -> dict[str, Any]:
        """One adapter, with its versions."""
        return self._call("GET", f"/v1/lora_adapters/{quote(name, safe='')}")

    def load_adapter(
        self, name: str, path: Path | str, *, replace: bool = False, description: str | None = None
    ) -> dict[str, Any]:
        """Returns once it is on every ready worker. ``replace`` makes new content of a known name its next version.
        A ``path`` is the cluster's own: absolute."""
        body: dict[str, Any] = {"lora_name": name, "lora_path": str(path)}
        if replace:
            body["load_inplace"] = True
        if description is not None:
            body["description"] = description
        return self._call("POST", "/v1/load_lora_adapter", body, SLOW)

    def unload_adapter(self, name: str) -> dict[str, Any]:
        return self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name}, SLOW)

    def rollback_adapter(self, name: str, version: int | None = None) -> dict[str, Any]:
        """Makes ``version`` (default: the one before) the active one again."""
        body = {} if version is None else {"version": version}
        return self._call("POST", f"/v1/lora_adapters/{quote(name, safe='')}/rollback", body, SLOW)

    def models(self) -> list[dict[str, Any]]:
        """What a request's ``model`` can be; adapters have a ``parent``."""
        return self._list("/v1/models", "data")

    def ask(self, model: str, prompt: str, max_tokens: int) -> str:
        """The answer of ``model``, the same each time. A model without a chat template completes the prompt."""
        body = {"model": model, "max_tokens": max_tokens, "temperature": 0}
        try:
            chat = {**body, "messages": [{"role": "user", "content": prompt}]}
            return self._answer("/v1/chat/completions", chat)
        except ClusterError as error:
            if error.status != 400:
                raise
        return self._answer("/v1/completions", {**body, "prompt": prompt})

    def first_token(self, model: str, prompt: str) -> float:
        """Seconds from a request to the first token of its answer."""
        body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": True}
        request = self._http.build_request("POST", "/v1/completions", json=body, timeout=SLOW)
        begun = time.monotonic()
        with contextlib.closing(self._guarded(request, stream=True)) as response:
            try:
                if response.status_code != 200:
                    response.read()
                    self._raise(response)
                for line in response.iter_lines():
                    if line.startswith("data: {"):
                        took = time.monotonic() - begun
                        self._require_token(line.removeprefix("data: "))
                        return took
            except httpx.HTTPError as error:
                raise ClusterError(f"{self.where}: {str(error) or type(error).__name__}") from None
        raise ClusterError(f"{self.where}: an answer without a token")

    def healthy(self) -> bool:
        """Whether at least one worker is ready."""
        try:
            return self._http.get("/health", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_settled(
        self, timeout: float, pause: float = 0.2, look: Callable[[dict[str, Any]], None] = lambda status: None
    ) -> dict[str, Any]:
        """The status once nothing is on its way any more; ``look`` is shown every status before it. Raises
        ClusterError at the ``timeout``, and sooner if it cannot come to an end: the supervisor is gone, or a rolling
        restart waits for a failed worker."""
        began = moved = time.monotonic()
        while True:
            status, now = self.status(), time.monotonic()
            look(status)
            if status["supervisor"].get("settled"):
                return status
            if stopped := status["supervisor"].get("rolling", {}).get("stopped"):
                raise ClusterError(stopped)
            states = {name: i["state"] for name, i in status.get("instances", {}).items() if i["managed"]}
            moving = any(s not in ("ready", "failed", "drained") for s in states.values())
            if status["supervisor"].get("pid") and (moving or status.get("load_balancer", {}).get("replacing")):
                moved = now
            if now - moved > _STANDSTILL:
                stuck = [f"{name} is {state}" for name, state in states.items() if state in ("failed", "drained")]
                why = ", ".join(stuck) if status["supervisor"].get("pid") and stuck else "there is no supervisor"
                raise ClusterError(f"it does not go on: {why}")
            if now - began > timeout:
                raise ClusterError(f"not done after {timeout:g} s; it goes on in the background")
            time.sleep(pause)

    def logs(self, instance: str, lines: int, follow: bool) -> httpx.Response:
        """An open streaming response; close it."""
        parameters: dict[str, str | int] = {"lines": lines, "follow": "1" if follow else "0"}
        request = self._http.build_request(
            "GET", f"/v1/cluster/instances/{quote(instance, safe='')}/logs", params=parameters,
            timeout=httpx.Timeout(10.0, read=None) if follow else 10.0,
        )
        response = self._guarded(request, stream=True)
        if response.status_code != 200:
            response.read()
            self._raise(response)
        return response

    def events(self, limit: int, since: int | None = None) -> list[dict[str, Any]]:
        """The last ``limit`` events, or the first ``limit`` after the one with the id ``since``; the oldest first."""
        after = "" if since is None else f"&since={since}"
        return self._list(f"/v1/cluster/events?limit={limit}{after}", "events")

    def why(self, request_id: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """How the latest ``limit`` requests were routed, or those with that id; the newest first. ClusterError 404: no
        balancer knows it, or not any more."""
        query = {"limit": str(limit), **({} if request_id is None else {"request_id": request_id})}
        return self._list(f"/v1/cluster/why?{urlencode(query)}", "decisions")

    @contextlib.contextmanager
    def listen(self, since: int) -> Iterator[Iterator[dict[str, Any]]]:
        """All events after the one with the id ``since``, as they come. They end with the connection: go on after the
        last one."""
        request = self._http.build_request(
            "GET", "/v1/cluster/events", headers={"Accept": "text/event-stream", "Last-Event-ID": str(since)},
            timeout=httpx.Timeout(10.0, read=_SILENCE),
        )
        with contextlib.closing(self._guarded(request, stream=True)) as response:
            if response.status_code != 200:
                response.read()
                self._raise(response)
            yield self._heard(response)

    def _heard(self, response: httpx.Response) -> Iterator[dict[str, Any]]:
        try:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))
        except (httpx.HTTPError, ValueError) as error:
            raise ClusterError(f"{self.where}: {str(error) or type(error).__name__}") from None

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        request = self._http.build_request(method, path, json=body, timeout=timeout or self._http.timeout)
        response = self._guarded(request)
        if response.status_code >= 400:
            self._raise(response)
        try:
            data: dict[str, Any] = response.json()
        except ValueError:
            raise ClusterError(f"{self.where}: no clusterctl answers there") from None
        return data

    def _list(self, path: str, key: str) -> list[dict[str, Any]]:
        answer = self._call("GET", path)
        items = answer.get(key) if isinstance(answer, dict) else None
        if not isinstance(items, list):
            raise ClusterError(f"{self.where}: no clusterctl answers there")
        return items

    def _answer(self, path: str, body: dict[str, Any]) -> str:
        answer = self._call("POST", path, body, SLOW)
        try:
            choice = answer["choices"][0]
            return str((choice["message"]["content"] if "message" in choice else choice["text"]) or "")
        except (LookupError, TypeError):
            raise ClusterError(f"{self.where}: an answer without text") from None

    def _require_token(self, event: str) -> None:
        """The first event of a streamed answer is a token, or says why there is none."""
        try:
            data = json.loads(event)
            error = data.get("error")
        except (ValueError, AttributeError):
            raise ClusterError(f"{self.where}: an answer without a token") from None
        if error:
            raise ClusterError(str(error.get("message") if isinstance(error, dict) else error))

    def _guarded(self, request: httpx.Request, stream: bool = False) -> httpx.Response:
        try:
            return self._http.send(request, stream=stream)
        except httpx.ConnectError:
            raise ClusterError(f"no cluster at {self.where} (is it up? --url or CLUSTERCTL_URL name another)") from None
        except httpx.HTTPError as error:
            raise ClusterError(f"{self.where}: {str(error) or type(error).__name__}") from None

    def _raise(self, response: httpx.Response) -> None:
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"{self.where}: {response.status_code} {response.reason_phrase}; no clusterctl answers there"
        raise ClusterError(message, response.status_code)
