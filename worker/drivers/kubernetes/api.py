"""The calls to Kubernetes' API server that workers in pods need: watch EndpointSlices, scale, delete a pod."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from config import bounded

#: How long (s) one call may take, and one watch; a watch that says nothing for longer than that is dead.
_CALL_S, _WATCH_S, _SLACK_S = 10.0, 60, 15.0

#: EndpointSlices in one answer, bytes of one, and JSON values in it.
_PAGE, _MOST, _VALUES = 200, 16 * 1024 * 1024, 1_000_000

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


#: What the kinds of OSError are by which a caller knows that asking again is of no use.
_FINAL = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError}


class Expired(OSError):
    """What was seen last is too old to go on from: list anew (410 Gone)."""


class KubernetesApi:
    """Of the StatefulSet ``workers`` and the Service of that name. All calls raise OSError where they fail:
    PermissionError or FileNotFoundError where they always would."""

    def __init__(self, library: Any, connection: Any, namespace: str, workers: str) -> None:
        self._discovery, self._apps = library.DiscoveryV1Api(connection), library.AppsV1Api(connection)
        self._core, self._error = library.CoreV1Api(connection), library.ApiException
        self.namespace, self.workers = namespace, workers
        self._selector = f"kubernetes.io/service-name={workers}"

    async def slices(self) -> tuple[list[dict[str, Any]], str]:
        """All EndpointSlices of the Service, and the version from which on `changes` tells more."""
        found: list[dict[str, Any]] = []
        token, version = "", ""
        with self._telling("EndpointSlices"):
            while True:
                answer = await self._discovery.list_namespaced_endpoint_slice(
                    self.namespace, label_selector=self._selector, limit=_PAGE, _request_timeout=_CALL_S,
                    _preload_content=False, **({"_continue": token} if token else {}),
                )  # fmt: skip
                page = await _document(answer, self._error)
                found += page.get("items") or []
                version, token = str(page["metadata"]["resourceVersion"]), str(page["metadata"].get("continue") or "")
                if not token:
                    return found, version

    async def changes(self, version: str) -> AsyncGenerator[tuple[str, dict[str, Any], str], None]:
        """What changes after ``version``, each with its own, until the server ends the watch. Raises Expired too."""
        from kubernetes_asyncio.watch import Watch

        silence = aiohttp.ClientTimeout(total=None, sock_connect=_CALL_S, sock_read=_WATCH_S + _SLACK_S)
        with self._telling("EndpointSlices"):
            # "object": not the library's classes, which refuse documents that servers send (endpoints: null).
            async with Watch(return_type="object") as watch:
                async for event in watch.stream(
                    self._discovery.list_namespaced_endpoint_slice, self.namespace, label_selector=self._selector,
                    resource_version=version, allow_watch_bookmarks=True, timeout_seconds=_WATCH_S,
                    _request_timeout=silence,
                ):  # fmt: skip
                    yield str(event["type"]), event["raw_object"], str(watch.resource_version)

    async def replicas(self) -> int:
        with self._telling(f"statefulsets/{self.workers}/scale"):
            found = await self._apps.read_namespaced_stateful_set_scale(
                self.workers, self.namespace, _request_timeout=_CALL_S
            )
            return int(found.spec.replicas or 0)

    async def scale(self, replicas: int) -> None:
        with self._telling(f"statefulsets/{self.workers}/scale"):
            await self._apps.patch_namespaced_stateful_set_scale(
                self.workers, self.namespace, {"spec": {"replicas": replicas}}, _request_timeout=_CALL_S
            )

    async def delete_pod(self, name: str, uid: str) -> None:
        """That very one: another of its name may have come. One that is gone is no trouble."""
        with self._telling(f"pods/{name}"):
            try:
                await self._core.delete_namespaced_pod(
                    name, self.namespace, body={"preconditions": {"uid": uid}}, _request_timeout=_CALL_S
                )
            except self._error as error:
                if error.status not in (404, 409):
                    raise

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            said = f"{what} in namespace {self.namespace}: {error.status} {str(error.reason)[:200]}"
            raise Expired(said) if error.status == 410 else _FINAL.get(error.status, OSError)(said) from None
        except (aiohttp.ClientError, TimeoutError, AssertionError, RuntimeError) as error:
            # The last two: what aiohttp says where its session is closed while a call begins.
            raise OSError(f"the API server: {error or type(error).__name__}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OSError(f"no answer of an API server: {type(error).__name__}: {str(error)[:200]}") from None


@contextlib.asynccontextmanager
async def connected(workers: str) -> AsyncIterator[KubernetesApi]:
    """``workers``: NAME or NAMESPACE/NAME. In a pod by its service account, else as kubectl would (``KUBECONFIG``).
    Raises OSError."""
    from kubernetes_asyncio import client, config

    namespace, _, name = workers.rpartition("/")
    configuration = client.Configuration()
    try:
        if "KUBECONFIG" not in os.environ and (_ACCOUNT / "token").is_file():
            config.load_incluster_config(client_configuration=configuration)
            namespace = namespace or bounded.read_text(_ACCOUNT / "namespace").strip()
        else:
            file = os.environ.get("KUBECONFIG")  # the library reads it once, when it is imported
            await config.load_kube_config(file, client_configuration=configuration)
            namespace = namespace or _of_context(config, file)
    except (config.ConfigException, ValueError) as error:
        raise OSError(f"no Kubernetes is known here: {error}") from None
    async with client.ApiClient(configuration) as connection:
        yield KubernetesApi(client, connection, namespace, name)


def _of_context(config: Any, file: str | None) -> str:
    _, active = config.list_kube_config_contexts(file)
    return str(active["context"].get("namespace") or "default")


async def _document(answer: Any, error: Any) -> dict[str, Any]:
    """Of a list that was asked for unread."""
    async with answer:
        body = await bounded.gathered(answer.content.iter_any(), _MOST)
        if answer.status != 200:
            raise error(status=answer.status, reason=answer.reason)
    found = bounded.parse_json(body, _VALUES)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found
