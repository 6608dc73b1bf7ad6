"""A typed client of the management API; the command line is its first user."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from config.paths import StateDir, short_socket_path


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
        headers = {"Authorization": f"Bearer {admin_key}"} if admin_key else {}
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

    def restart_rolling(self) -> dict[str, Any]:
        return self._call("POST", "/v1/cluster/restart", {"rolling": True})

    def weight(self, instance: str, weight: int) -> dict[str, Any]:
        return self._call("PATCH", f"/v1/cluster/instances/{instance}", {"weight": weight})

    def shutdown(self, now: bool = False) -> dict[str, Any]:
        return self._call("POST", "/v1/cluster/shutdown", {"now": now})

    def healthy(self) -> bool:
        """Whether at least one worker is ready."""
        try:
            return self._http.get("/health", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_settled(self, timeout: float, pause: float = 0.2) -> dict[str, Any]:
        """The status once nothing is on its way any more. Raises ClusterError at the ``timeout``."""
        deadline = time.monotonic() + timeout
        while True:
            status = self.status()
            if status["supervisor"].get("settled"):
                return status
            if time.monotonic() > deadline:
                raise ClusterError(f"not done after {timeout:g} s; it goes on in the background")
            time.sleep(pause)

    def logs(self, instance: str, lines: int, follow: bool) -> httpx.Response:
        """An open streaming response; close it."""
        parameters: dict[str, str | int] = {"lines": lines, "follow": "1" if follow else "0"}
        request = self._http.build_request(
            "GET", f"/v1/cluster/instances/{instance}/logs", params=parameters,
            timeout=httpx.Timeout(10.0, read=None) if follow else 10.0,
        )
        response = self._guarded(request, stream=True)
        if response.status_code != 200:
            response.read()
            self._raise(response)
        return response

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        response = self._guarded(self._http.build_request(method, path, json=body))
        if response.status_code >= 400:
            self._raise(response)
        try:
            data: dict[str, Any] = response.json()
        except ValueError:
            raise ClusterError(f"{self.where}: no clusterctl answers there") from None
        return data

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
