"""Fills `MachineFacts`. Reads only: one process that imports the engine is started, and nothing is changed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

import cluster
from cluster.deployment import forks, limits
from cluster.deployment import plan as plans
from cluster.deployment.profiles import resolution, summary
from cluster.deployment.profiles.automatic import EngineChoice, choose
from cluster.tools.doctor import engine, gpus, ray, states
from cluster.tools.doctor.facts import CertificateFacts, Clock, Cpu, Disk, MachineFacts, Port, Sized
from cluster.tools.sizing import files
from config import settings as configuration
from config import tls
from config.errors import UsageError
from config.identity.peer_credentials import uid_of_peer
from config.settings import Settings
from worker.drivers import proc

#: Optional packages, by the name of the extra that brings them.
EXTRAS = {"plot": "matplotlib", "otel": "opentelemetry-sdk"}

_TIME_ERROR = 5  # adjtimex(2): no time service keeps the clock


def look(flags: Mapping[str, Any], config: Path | None, import_seconds: float) -> MachineFacts:
    """``flags`` as `up` was to be given them. Blocking: importing the engine takes up to ``import_seconds``."""
    settings, wrong = _settings(flags, config)
    plan = plan_wrong = state = disk = port = None
    if settings is not None:
        try:
            plan = plans.make(settings)
        except UsageError as error:
            plan_wrong = str(error)
        folder = settings.state_directory()
        state, disk, port = states.look(folder), _disk(folder), look_at_port(settings.host, settings.port)
    if settings is not None and settings.engine != "vllm":
        import_seconds = 0.0  # another engine is asked for, and importing this one takes its time
    memory = psutil.virtual_memory()
    engines, automatic = _engines()
    return MachineFacts(
        python=sys.version_info[:3], executable=sys.executable, cpu=look_at_cpu(), memory=int(memory.total),
        available=int(memory.available), limits=limits.read(), shm=_disk(Path("/dev/shm")),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE), gpus=gpus.look(configuration.visible_gpus()),
        engine=engine.look(configuration.inherited_environment(), import_seconds),
        extras={extra: engine.installed(package) for extra, package in EXTRAS.items()}, clock=_clock(),
        orphans=orphans(), others=states.others(state.folder if state else None), settings=settings,
        config_error=wrong, config_file=config, plan=plan, plan_error=plan_wrong, state=state, disk=disk, port=port,
        model=look_at_model(plan.spec.model) if plan is not None and plan.spec.engine == "vllm" else None,
        knows_peers=knows_peers(), engines=engines, automatic=automatic,
        certificate=None if settings is None else look_at_certificate(settings),
        ray=ray.look(settings),
        plain_starts=forks.reason_against(plan.settings.zygote, forks.of(plan)) if plan is not None else "",
    )  # fmt: skip


def _settings(flags: Mapping[str, Any], config: Path | None) -> tuple[Settings | None, str | None]:
    try:
        settings = resolution.load(flags, config).settings
        settings.state_directory()
        return settings, None
    except UsageError as error:
        return None, str(error)


def _engines() -> tuple[dict[str, str], EngineChoice | None]:
    """What each lacks, and which one is the machine's choice."""
    try:
        machine = summary.look()
    except UsageError:  # parts of GPUs are named: what follows from that is said elsewhere
        return {}, None
    return {name: found.missing for name, found in machine.engines.items()}, choose(machine)


def look_at_model(name: str) -> Sized:
    try:
        return Sized(*files.read(name))
    except UsageError as error:
        return Sized(error=str(error))


def look_at_certificate(settings: Settings) -> CertificateFacts | None:
    """None where the port does not speak TLS."""
    if (named := settings.tls()) is None:
        return None
    try:
        found = tls.load(named)
    except UsageError as error:
        return CertificateFacts(error=str(error))
    return CertificateFacts(found.names, found.expires)


def look_at_cpu(info: Path = Path("/proc/cpuinfo")) -> Cpu:
    """x86 calls them flags, ARM Features."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in info.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    flags = found.get("flags") or found.get("Features") or ""
    name = found.get("model name") or platform.processor() or platform.machine()
    return Cpu(platform.machine(), name, len(os.sched_getaffinity(0)), frozenset(flags.split()))


def _disk(path: Path) -> Disk | None:
    folder = next((f for f in (path, *path.parents) if f.is_dir()), None)
    if folder is None:
        return None
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return Disk(folder, usage.total, usage.free, os.access(folder, os.W_OK | os.X_OK))


def look_at_port(host: str, number: int) -> Port:
    """Whether ``number`` could be listened on: it is bound for a moment, and nobody can connect to it."""
    error = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as failed:
        error = failed.strerror or str(failed)
    owners, parents = dict[int, str](), set[int]()
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr[1:] == (number,):
                owners[connection.pid] = gpus.command(connection.pid, "?")
                parents.add(psutil.Process(connection.pid).ppid())
    return Port(host, number, error, tuple(sorted(owners.items())), frozenset(parents))


def knows_peers() -> bool:
    """Whether the kernel says that a connection of ours over loopback is ours."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            return uid_of_peer(client.getsockname(), client.getpeername()) == os.geteuid()
    except OSError:
        return False


def orphans() -> tuple[tuple[int, str], ...]:
    """Processes of engines that outlived the worker they belonged to: vLLM gives them these names, and a worker leads
    the session of all of its processes."""
    there = [process for process in proc.processes() if process.alive]
    leaders = {process.pid for process in there if process.pid == process.session}
    found = []
    for process in there:
        if process.session in leaders:
            continue
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{process.pid}/cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace")
            if name.startswith("VLLM::"):
                found.append((process.pid, name.strip()))
    return tuple(found)


def _clock() -> Clock:
    newest = max((file.stat().st_mtime for file in Path(cluster.__file__).parent.rglob("*.py")), default=0.0)
    return Clock(time.time(), newest, _synchronized())


def _synchronized() -> bool | None:
    """What the kernel says of its clock, which containers share. Asking changes nothing."""
    try:
        status = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if status < 0 else status != _TIME_ERROR
