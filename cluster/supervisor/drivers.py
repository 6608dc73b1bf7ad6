"""Which drivers a supervisor needs: for what it is to run, and for what one before it may have left."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator
from importlib.util import find_spec

from cluster.storage.store import Store
from config import bounded
from config.disk import private
from config.errors import UsageError
from config.identity import admin_token, secret
from config.paths import StateDir
from config.settings import Settings, from_json
from worker.drivers import available
from worker.drivers.base import KUBERNETES, LOCAL, RAY, Drivers
from worker.drivers.kubernetes.directory import KubernetesDirectory
from worker.drivers.kubernetes.driver import KubernetesDriver
from worker.drivers.local import LocalDriver
from worker.drivers.ray.directory import RayDirectory
from worker.drivers.remote.driver import RemoteDriver

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def left(state: StateDir, store: Store) -> AsyncIterator[Drivers]:
    """Those of the cluster that ran on ``state`` last, if there was one."""
    kept = await store.get("settings")
    drivers = _made(state, from_json(kept)) if kept else available()
    try:
        yield drivers
    finally:
        await asyncio.to_thread(_close, drivers)


@contextlib.asynccontextmanager
async def opened(state: StateDir, settings: Settings) -> AsyncIterator[Drivers]:
    """For a cluster that begins. Raises UsageError where workers could not be started as they are to be."""
    drivers = _made(state, settings)
    try:
        for driver in drivers.values():
            if isinstance(driver, RemoteDriver):
                await asyncio.to_thread(_check, driver)
        yield drivers
    finally:
        await asyncio.to_thread(_close, drivers)


async def give_back(state: StateDir, drivers: Drivers) -> None:
    """What was set up for workers, none of which is left. What stays is told in ``state.leftovers``, for
    `down` to say."""
    stays = []
    for driver in drivers.values():
        try:
            await asyncio.to_thread(driver.end)
        except OSError as error:
            log.error("%s", error)
            stays.append(str(error))
    if not stays:
        state.leftovers.unlink(missing_ok=True)
        return
    with private.open_file(state.leftovers, "wb") as file:
        file.write("; ".join(stays).encode(errors="replace"))


async def give_back_of_the_dead(state: StateDir, drivers: Drivers) -> None:
    """As `give_back`, where workers have ended long ago, with the lease of their nodes."""
    for driver in drivers.values():
        if isinstance(driver, RemoteDriver):
            with contextlib.suppress(OSError):  # why is told by its end
                await asyncio.to_thread(driver.directory.agents)
    await give_back(state, drivers)


def _made(state: StateDir, settings: Settings) -> Drivers:
    drivers = {**available(), LOCAL: LocalDriver(host=settings.worker_host)}
    if settings.driver == RAY:
        drivers[RAY] = _ray(state, settings)
    if settings.driver == KUBERNETES:
        drivers[KUBERNETES] = _kubernetes(state, settings)
    return drivers


def _kubernetes(state: StateDir, settings: Settings) -> KubernetesDriver:
    """Raises UsageError."""
    if find_spec("kubernetes_asyncio") is None:
        raise UsageError(
            "--driver kubernetes needs its client, which is not installed: pip install 'clusterctl[kubernetes]'"
        )
    if settings.agent_key_file is None:
        raise UsageError("--driver kubernetes needs --agent-key-file: the file that the pods of workers have, too")
    try:
        key = secret.clean(bounded.read_text(settings.agent_key_file.expanduser()))
    except (OSError, ValueError) as error:
        raise UsageError(f"--agent-key-file {settings.agent_key_file}: {error}") from None
    pods, most = KubernetesDirectory(settings.kubernetes_workers, key), int(settings.node_adapters_gib * 1024**3)
    return KubernetesDriver(
        pods, settings.node_lease, state.agents, state.adapters, most, scales=settings.kubernetes_scale
    )


def _ray(state: StateDir, settings: Settings) -> RemoteDriver:
    """Raises UsageError."""
    if find_spec("ray") is None:
        raise UsageError("--driver ray needs Ray, which is not installed: pip install 'clusterctl[ray]'")
    try:
        admin_token.ensure(state.agent_key)
    except OSError as error:
        raise UsageError(f"{state.agent_key} cannot be written: {error.strerror}") from None
    key = admin_token.read(state.agent_key)
    if key is None:
        raise UsageError(f"{state.agent_key} cannot be read")
    name = hashlib.sha256(key.encode()).hexdigest()[:12]
    directory = RayDirectory(
        settings.ray_address, name, key, settings.node_lease, state.log("ray"), settings.ray_insecure
    )
    most = int(settings.node_adapters_gib * 1024**3)
    return RemoteDriver(directory, settings.node_lease, state.agents, state.adapters, most, directory)


def _check(driver: RemoteDriver) -> None:
    kind = KUBERNETES if isinstance(driver, KubernetesDriver) else RAY
    try:
        found = driver.directory.agents()
    except OSError as error:
        raise UsageError(f"--driver {kind}: {error}") from None
    if not found and kind == RAY:
        raise UsageError("--driver ray: no node of that Ray has an agent: see ray.log in the state directory")


def _close(drivers: Drivers) -> None:
    for driver in drivers.values():
        driver.close()
