"""An API server of Kubernetes as far as workers in pods need one, and what stands behind it: a StatefulSet's pods are
agents on this machine, each at a loopback address of its own.

It speaks the protocol of Kubernetes' documentation ("API concepts"): lists in pages at one resourceVersion, watches
from one with bookmarks, 410 for one that is too old (as an answer, and as an event of a watch), patches of the
subresource scale, deletions with preconditions, bearer tokens. kubectl 1.37 works with it. (The driver was run once
against kube-apiserver and kube-controller-manager 1.20, built from Debian's sources; no registry has them as programs.)
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from aiohttp import web

from config.aio import Tasks
from harness import free_port, poll

NAMESPACE, NAME, TOKEN, KEY = "models", "clusterctl-worker", "the-token-of-an-account", "the-key-of-agents"

_SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
_SET = f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{NAME}"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


@dataclass
class StubPod:
    """``host``: a loopback address, given anew to each; ``process``: the agent's keeper."""

    name: str
    host: str
    process: subprocess.Popen[bytes]
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    ready: bool = False
    leaving: bool = False


class StubCluster:
    """A StatefulSet, its headless Service with one EndpointSlice, and the controllers that keep both. ``oldest``: the
    resourceVersion before which nothing is known any more. ``requests``: what was asked for, in its order. ``patches``:
    statuses with which the next patches are refused; 0 for one that gets no answer."""

    def __init__(self, root: Path, replicas: int = 0) -> None:
        self.root, self.replicas = root, replicas
        self.port, self.agents = free_port(), free_port()
        self.pods: dict[str, StubPod] = {}
        self.version, self.oldest = 100, 0
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.requests: list[str] = []
        self.watch_s: float | None = None
        self.page_of = 0
        self.refused: int | None = None
        self.patches: list[int] = []
        self._hosts = itertools.count(int(time.time() * 7) % 60000 + 256)
        self._slices: dict[str, dict[str, Any]] = {}
        self._told = asyncio.Event()
        self._tasks = Tasks()

    # What stands behind it.

    async def control(self) -> None:
        """The controller of the StatefulSet (pods all at once) and that of EndpointSlices. Until cancelled."""
        while True:
            wanted = {f"{NAME}-{number}" for number in range(self.replicas)}
            for name in sorted(wanted - self.pods.keys()):
                self.pods[name] = self._started(name)
            for name in self.pods.keys() - wanted:
                self.delete(name)
            for name, pod in list(self.pods.items()):
                if pod.process.poll() is not None:
                    if pod.leaving:
                        del self.pods[name]
                    else:
                        pod.process = self._container(name, pod.host)
                pod.ready = pod.process.poll() is None and not pod.leaving
            self._reflect()
            await asyncio.sleep(0.03)

    def delete(self, name: str) -> None:
        """As the kubelet does once a deletion is asked for."""
        pod = self.pods[name]
        if not pod.leaving:
            pod.leaving = True
            with contextlib.suppress(ProcessLookupError):
                pod.process.terminate()

    def kill(self, name: str) -> None:
        """The whole pod at once, as the end of its machine does; Kubernetes notices."""
        pod = self.pods[name]
        pod.leaving = True
        kill_tree(pod.process.pid)

    def _started(self, name: str) -> StubPod:
        number = next(self._hosts)
        host = f"127.{number // 65536 % 100 + 100}.{number // 256 % 256}.{number % 256}"
        return StubPod(name, host, self._container(name, host))

    def home(self, name: str, host: str) -> Path:
        """What a pod has on its disk: nothing of the one before it."""
        return self.root / f"{name}.{host}"

    def _container(self, name: str, host: str) -> subprocess.Popen[bytes]:
        home = self.home(name, host)
        key = self.root / "key"
        key.write_text(KEY)
        # Ends with the tests, also where these are killed.
        argv = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "worker.agent.pod"]
        argv += [str(home), host, str(self.agents), str(key), "60"]
        with (self.root / f"{name}.log").open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)

    def _reflect(self) -> None:
        endpoints = [
            {
                "addresses": [pod.host], "nodeName": f"machine-of-{pod.name}",
                "conditions": {"ready": pod.ready, "serving": pod.ready, "terminating": pod.leaving},
                "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": pod.name, "uid": pod.uid},
            }
            for pod in self.pods.values()
        ]  # fmt: skip
        # Sent as Kubernetes sends it: null, not an empty list.
        self.tell(f"{NAME}-abcde", {"addressType": "IPv4", "endpoints": endpoints or None, "ports": [
            {"name": "agent", "port": self.agents, "protocol": "TCP"},
        ]})  # fmt: skip

    def tell(self, name: str, content: dict[str, Any] | None) -> None:
        """A slice is as ``content`` says from now on; None: it is deleted."""
        before = self._slices.get(name)
        if content is not None and before is not None and all(before[key] == content[key] for key in content):
            return
        if content is None and before is None:
            return
        self.version += 1
        labels = {"kubernetes.io/service-name": NAME}
        document = {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", **(content or before or {}),
            "metadata": {
                "name": name, "namespace": NAMESPACE, "labels": labels, "resourceVersion": str(self.version),
                "uid": f"of-{name}",
            },
        }  # fmt: skip
        kind = "DELETED" if content is None else "ADDED" if before is None else "MODIFIED"
        if content is None:
            del self._slices[name]
        else:
            self._slices[name] = document
        self.history.append((self.version, kind, document))
        self._wake()

    def forget(self) -> None:
        """Nothing that was is known any more (compaction): who watches is told so."""
        self.version += 1
        self.oldest = self.version
        self.history.clear()
        self._wake()

    def _wake(self) -> None:
        self._told.set()
        self._told = asyncio.Event()

    # The server.

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get(_SLICES, self._list_or_watch)
        app.router.add_get(_SET + "/scale", self._scale)
        app.router.add_patch(_SET + "/scale", self._patch)
        app.router.add_get(_SET, self._scale)
        app.router.add_delete(_PODS + "/{name}", self._delete)
        app.router.add_get("/{rest:.*}", self._discovery)
        app.on_startup.append(self._begin)
        app.on_cleanup.append(self._close)
        return app

    async def _begin(self, app: web.Application) -> None:
        self._tasks.start(self.control(), "controllers")

    async def _close(self, app: web.Application) -> None:
        await self._tasks.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(unquote(f"{request.method} {request.path_qs}"))
        if self.refused is not None:
            return _status(self.refused, "Forbidden", "not for you")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _status(401, "Unauthorized", "Unauthorized")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _list_or_watch(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("labelSelector") not in (None, f"kubernetes.io/service-name={NAME}"):
            return web.json_response(self._list([], ""))
        if request.query.get("watch") in ("true", "True", "1"):
            return await self._watch(request)
        items = [self._slices[name] for name in sorted(self._slices)]
        if not (most := min(int(request.query.get("limit") or 0), self.page_of) or self.page_of):
            return web.json_response(self._list(items, ""))
        first = int(request.query.get("continue") or 0)
        rest = str(first + most) if len(items) > first + most else ""
        return web.json_response(self._list(items[first : first + most], rest))

    def _list(self, items: list[dict[str, Any]], rest: str) -> dict[str, Any]:
        metadata = {"resourceVersion": str(self.version), **({"continue": rest} if rest else {})}
        return {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "metadata": metadata, "items": items
        }

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        seen = int(request.query.get("resourceVersion") or self.version)
        if seen < self.oldest:
            return _status(410, "Expired", f"too old resource version: {seen} ({self.oldest})")
        patience = self.watch_s or float(request.query.get("timeoutSeconds") or 30)
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(patience):
                while True:
                    news = self._told
                    if seen < self.oldest:
                        gone = _gone(seen, self.oldest)
                        await answer.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                        break
                    now, pending = self.version, [one for one in self.history if one[0] > seen]
                    for version, kind, document in pending:
                        await answer.write(json.dumps({"type": kind, "object": document}).encode() + b"\n")
                        seen = version
                    if request.query.get("allowWatchBookmarks") in ("true", "True", "1"):
                        mark = {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": {
                            "resourceVersion": str(now), "creationTimestamp": None,
                        }}  # fmt: skip
                        await answer.write(json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n")
                        seen = now
                    await news.wait()
        return answer

    async def _scale(self, request: web.Request) -> web.Response:
        return web.json_response({
            "apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": self.replicas},
            "metadata": {"name": NAME, "namespace": NAMESPACE, "resourceVersion": str(self.version)},
            "status": {"replicas": len(self.pods)},
        })  # fmt: skip

    async def _patch(self, request: web.Request) -> web.Response:
        kinds = ("application/strategic-merge-patch+json", "application/merge-patch+json")
        if request.content_type not in kinds:
            return _status(415, "UnsupportedMediaType", request.content_type)
        if self.patches:
            if (refused := self.patches.pop(0)) == 0:
                await asyncio.Event().wait()
            return _status(refused, "Refused", "not now")
        self.replicas = int((await request.json())["spec"]["replicas"])
        return await self._scale(request)

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.pods:
            return _status(404, "NotFound", f'pods "{name}" not found')
        given = (await request.json()).get("preconditions", {}) if request.body_exists else {}
        if given.get("uid", self.pods[name].uid) != self.pods[name].uid:
            return _status(409, "Conflict", "the UID in the precondition does not match")
        self.delete(name)
        return web.json_response({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}})

    async def _discovery(self, request: web.Request) -> web.Response:
        """Which resources there are, for kubectl."""
        known: dict[str, Any] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {
                "kind": "APIGroupList", "apiVersion": "v1", "groups": [_group("apps"), _group("discovery.k8s.io")],
            },
            "/api/v1": _resources("v1", ("pods", "Pod")),
            "/apis/apps/v1": _resources("apps/v1", ("statefulsets", "StatefulSet"), ("statefulsets/scale", "Scale")),
            "/apis/discovery.k8s.io/v1": _resources("discovery.k8s.io/v1", ("endpointslices", "EndpointSlice")),
        }
        if (found := known.get(request.path)) is None:
            return _status(404, "NotFound", "the server could not find the requested resource")
        return web.json_response(found)


def _group(name: str) -> dict[str, Any]:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resources(version: str, *kinds: tuple[str, str]) -> dict[str, Any]:
    verbs = ["get", "list", "watch", "patch", "delete"]
    scale = {"group": "autoscaling", "version": "v1"}
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": [
        {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": verbs,
         **(scale if kind == "Scale" else {})}
        for name, kind in kinds
    ]}  # fmt: skip


def _gone(seen: int, oldest: int) -> dict[str, Any]:
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410, "reason": "Expired",
        "message": f"too old resource version: {seen} ({oldest})",
    }


def _status(code: int, reason: str, message: str) -> web.Response:
    return web.json_response({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code,
    }, status=code)  # fmt: skip


def kubeconfig(folder: Path, port: int) -> Path:
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "stub",
        "clusters": [{"name": "stub", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "account", "user": {"token": TOKEN}}],
        "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "account", "namespace": NAMESPACE}}],
    }))  # fmt: skip
    return path


class Kubernetes:
    """One that runs, in a thread; ``call`` runs something there. ``config``: a kubeconfig for it."""

    def __init__(self, folder: Path, replicas: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        self.stub = StubCluster(folder, replicas)
        self.config = kubeconfig(folder, self.stub.port)
        self.key_file = folder / "key"
        self.key_file.write_text(KEY)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner: web.AppRunner | None = None
        self.up()

    def up(self) -> None:
        """The API server."""
        self._run(self._serve())

    def away(self) -> None:
        """The API server and the controllers end; pods go on."""
        assert self._runner is not None
        self._run(self._runner.cleanup())

    def call(self, change: Any) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (change(), done.set()))
        assert done.wait(10)

    def end(self) -> None:
        with contextlib.suppress(Exception):
            self.away()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        for pod in self.stub.pods.values():
            kill_tree(pod.process.pid)
            pod.process.wait(10)
        self._loop.close()

    def running(self) -> list[str]:
        return sorted(name for name, pod in self.stub.pods.items() if pod.ready)

    def wait_pods(self, count: int, patience: float = 20.0) -> list[str]:
        return poll(lambda: (found := self.running()) if len(self.stub.pods) == count == len(self.running()) else None,
                    patience, f"{count} pods")  # fmt: skip

    async def _serve(self) -> None:
        self._runner = web.AppRunner(self.stub.application(), access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.stub.port, reuse_address=True).start()

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)


@contextlib.contextmanager
def running(folder: Path, replicas: int = 0) -> Iterator[Kubernetes]:
    made = Kubernetes(folder, replicas)
    try:
        yield made
    finally:
        made.end()


def kill_tree(pid: int) -> None:
    """A container: its first process and all that came of it, whatever session that is in."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        first.send_signal(signal.SIGSTOP)  # it starts no other agent meanwhile
        for process in [*first.children(recursive=True), first]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
