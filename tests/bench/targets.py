"""The proxies under comparison: each started in front of the same upstream, on one core, and ended again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from config.link import encode
from config.paths import short_socket_path
from config.topology import BackendSet, BackendSpec, BalancerConfig

_START_S = 60.0


def listening() -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(4096)
    return listener


def free_port() -> int:
    with listening() as taken:
        return int(taken.getsockname()[1])


@dataclass
class Target:
    """A proxy that runs. ``process`` is None for the way without one."""

    name: str
    port: int
    process: psutil.Process | None = None

    def _tree(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        return [self.process, *self.process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far, to the nanosecond: what ``/proc`` tells comes in steps of
        10 ms."""
        return sum(time.clock_gettime(_cpu_clock(p.pid)) for p in self._tree())

    def memory(self) -> int:
        """Resident bytes of all its processes, shared pages once each."""
        return sum(p.memory_info().rss for p in self._tree())


def _cpu_clock(pid: int) -> int:
    """What ``clock_getcpuclockid`` gives for a process (MAKE_PROCESS_CPUCLOCK in Linux' posix-timers.h)."""
    return ~pid << 3 | 2


@contextlib.contextmanager
def _running(command: list[str], log: Path, keep: tuple[int, ...] = (), cpus: str = "0") -> Iterator[psutil.Process]:
    with log.open("ab") as output:
        child = subprocess.Popen(
            ["taskset", "-c", cpus, *command], stdout=output, stderr=output, stdin=subprocess.DEVNULL, pass_fds=keep,
            start_new_session=True,
        )
    process = psutil.Process(child.pid)
    try:
        yield process
    finally:
        tree = [process, *process.children(recursive=True)] if process.is_running() else []
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        _, alive = psutil.wait_procs(tree, timeout=5)
        for each in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        child.wait()


def wait_for(port: int, path: str = "/health") -> None:
    """Until a request to ``path`` is answered with 200. Raises TimeoutError."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, IndexError), socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.settimeout(2)
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            if connection.recv(1024).split(b" ")[1] == b"200":
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing answers on port {port}")


@contextlib.contextmanager
def stub(folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """The upstream: its port and its process."""
    listener = listening()
    script = Path(__file__).with_name("stub.py")
    with _running(
        [sys.executable, str(script), str(listener.fileno())], folder / "stub.log", (listener.fileno(),), "1"
    ) as process:
        port = int(listener.getsockname()[1])
        wait_for(port)
        yield port, process
    listener.close()


@contextlib.contextmanager
def direct(folder: Path, upstream: int) -> Iterator[Target]:
    yield Target("direct", upstream)


@contextlib.contextmanager
def floor(folder: Path, upstream: int) -> Iterator[Target]:
    """A proxy that only copies, on our event loop."""
    listener, script = listening(), Path(__file__).with_name("floor.py")
    port, descriptor = int(listener.getsockname()[1]), listener.fileno()
    command = [sys.executable, str(script), str(descriptor), str(upstream)]
    with _running(command, folder / "floor.log", (descriptor,)) as process:
        listener.close()
        wait_for(port)
        yield Target("floor", port, process)


_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream workers {{ server 127.0.0.1:{upstream}; keepalive 4096; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 1000000; client_max_body_size 64m;
    location / {{
      proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[Target]:
    port, config = free_port(), folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, upstream=upstream, port=port))
    with _running(["nginx", "-c", str(config), "-p", str(folder)], folder / "nginx.out") as process:
        wait_for(port)
        yield Target("nginx", port, process)


_HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  option http-keep-alive
  http-reuse always
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server s 127.0.0.1:{upstream}
"""


@contextlib.contextmanager
def haproxy(folder: Path, upstream: int) -> Iterator[Target]:
    port, config = free_port(), folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(upstream=upstream, port=port))
    with _running(["haproxy", "-f", str(config), "-q", "-db"], folder / "haproxy.log") as process:
        wait_for(port)
        yield Target("haproxy", port, process)


def _router(name: str, command: list[str]) -> Callable[[Path, int], contextlib.AbstractContextManager[Target]]:
    @contextlib.contextmanager
    def start(folder: Path, upstream: int) -> Iterator[Target]:
        port = free_port()
        full = [
            *command, "--worker-urls", f"http://127.0.0.1:{upstream}", "--policy", "round_robin", "--host",
            "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()), "--log-level", "error",
        ]  # fmt: skip
        with _running(full, folder / f"{name}.log") as process:
            wait_for(port, "/v1/models")
            yield Target(name, port, process)

    return start


def routers(venv: Path) -> dict[str, Callable[[Path, int], contextlib.AbstractContextManager[Target]]]:
    """The Rust routers that are installed in ``venv``."""
    found = {}
    for name in ("vllm-router", "sglang-router"):
        program = venv / "bin" / name
        if program.exists():
            launch = [str(program)] if name == "vllm-router" else [str(program), "launch"]
            found[name] = _router(name, launch)
    return found


def clusterctl(
    name: str = "clusterctl", python: str = sys.executable, resume: bool = True, *,
    settings: Mapping[str, Any] = {}, names: Mapping[str, Any] = {}, keys: Mapping[str, Any] | None = None,
) -> Callable[[Path, int], contextlib.AbstractContextManager[Target]]:
    """The balancer as the supervisor starts it, told of one worker. ``settings`` of it, ``names``: its routes and
    aliases, ``keys``: the message that says what keys there are."""

    @contextlib.contextmanager
    def start(folder: Path, upstream: int) -> Iterator[Target]:
        state = folder / name
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        listener = listening()
        port, link = int(listener.getsockname()[1]), state / "lb.sock"
        config = BalancerConfig(
            listen_fd=listener.fileno(), state_dir=str(state), host="127.0.0.1", port=port, queue_timeout=30,
            resume=resume, **settings,
        )
        start_file = state / "balancer.json"
        start_file.write_text(json.dumps({"link": str(link), **asdict(config)}))
        with _running([python, "-m", "lb", str(start_file)], folder / f"{name}.log", (listener.fileno(),)) as process:
            listener.close()
            deadline = time.monotonic() + _START_S
            supervisor = socket.socket(socket.AF_UNIX)
            while True:
                try:
                    supervisor.connect(short_socket_path(link))
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            card = {"id": "base", "object": "model", "owned_by": "vllm", "root": "base", "parent": None}
            backend = BackendSpec("instance_0", 1, "ready", "http", "127.0.0.1", upstream, "127.0.0.1", models=(card,))
            backends = BackendSet(1, 1, "least_connections", (backend,), names=dict(names))
            if keys is not None:
                supervisor.sendall(encode(keys))
            supervisor.sendall(encode({"type": "set", "set": backends.to_json()}))
            wait_for(port)
            yield Target(name, port, process)
            supervisor.close()

    return start


def installed(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None
