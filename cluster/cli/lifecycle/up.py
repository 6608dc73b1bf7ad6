"""`up`: run a cluster, in the foreground or detached."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.cli.lifecycle import detach
from cluster.cli.render import console, progress_table
from cluster.deployment import plan
from config import logs
from config import settings as configuration
from config.settings import Settings
from config.topology import STRATEGIES

if TYPE_CHECKING:
    from cluster.supervisor.loop import Supervisor

_LISTS = ("lora", "backend", "adapter_root")


@click.command("up", context_settings={"ignore_unknown_options": False})
@click.option("--instances", type=int, help="Workers to run (default 1).")
@click.option("--engine", help="vllm (default) or sim.")
@click.option("--model", help="Model path or hub id; without one, the demo model.")
@click.option("--lora", multiple=True, metavar="NAME=PATH", help="A LoRA adapter; repeatable.")
@click.option("--lora-config", metavar="FILE", help="YAML or JSON file that lists adapters.")
@click.option("--adapter-root", multiple=True, metavar="DIR", help="Load adapters from below these folders only.")
@click.option("--keep-versions", type=int, help="Versions of an adapter that can be gone back to (default 3).")
@click.option(
    "--allow-no-effect", is_flag=True, default=None, help="Adapters may answer as the base model does (untrained ones)."
)
@click.option("--backend", multiple=True, metavar="URL", help="Balance this server as well; repeatable.")
@click.option("--backend-key-file", metavar="FILE", help="File with the API key of those servers.")
@click.option(
    "--manage-backend-adapters", is_flag=True, default=None,
    help="Load adapters on those servers too (they must see the state directory).",
)
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=int, help="Port to listen on (default 8000).")
@click.option("--strategy", metavar="NAME", help=f"One of: {', '.join(STRATEGIES)}.")
@click.option("--gpus", metavar="0,1", help="GPUs to use (default: all that NVML reports).")
@click.option("--instances-per-gpu", type=int, help="Workers sharing one GPU (default 1).")
@click.option("--tensor-parallel-size", type=int, help="GPUs a worker spans (default 1).")
@click.option("--min-instances", type=int, help="Fewest workers scaling may leave (default 1).")
@click.option("--max-instances", type=int, help="Most workers (default: what the machine holds).")
@click.option("--drain-timeout", type=float, help="Seconds that running requests may finish in (default 30).")
@click.option(
    "--rolling-spare/--no-rolling-spare", default=None,
    help="Start a spare worker first in rolling restarts where there is room (default: yes).",
)
@click.option("--queue-timeout", type=float, help="Seconds a request waits for a worker (default 30).")
@click.option("--startup-timeout", type=float, help="Seconds a worker may take to be ready (default 600).")
@click.option("--first-byte-timeout", type=float, help="Seconds a silent worker has a stream to itself (default 30).")
@click.option("--stall-timeout", type=float, help="Seconds tokens may stand still on a busy worker (default 10).")
@click.option("--resume/--no-resume", default=None, help="Go on with a stream whose worker is lost (default: yes).")
@click.option("--migration-limit", type=int, help="Most moves of a stream, or repetitions of a request (default 3).")
@click.option("--lb-processes", type=int, help="Balancer processes that share the port (default 1).")
@click.option(
    "--lb-standby/--no-lb-standby", default=None, help="Keep one more waiting for one of them to die (default: yes)."
)
@click.option("--max-body", type=int, metavar="BYTES", help="Largest request body (default 64 MiB).")
@click.option("--max-buffered", metavar="SIZE", help="Memory for all bodies, such as 512M (default a 16th of all).")
@click.option("--state-dir", metavar="DIR", help="State, logs, sockets (default: one a port).")
@click.option("--log-level", metavar="LEVEL", help="debug, info (default), warning or error.")
@click.option("--log-format", metavar="text|json", help="Of the logs of supervisor and balancer.")
@click.option("--access-log", metavar="WHICH", help="A line a request: off, errors (default), on, or a share (0.01).")
@click.option("--log-prompts", is_flag=True, default=None, help="Prompts in the access log too.")
@click.option("--protect-metrics", is_flag=True, default=None, help="/metrics needs a credential on loopback too.")
@click.option("--otlp-endpoint", metavar="URL", help="A trace of each request goes there (needs clusterctl[otel]).")
@click.option("--config", type=click.Path(path_type=Path), help="A YAML file with settings.")
@click.option("--detach", "detached", is_flag=True, help="Return once the first worker is ready.")
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED)
def up_command(config: Path | None, detached: bool, engine_args: tuple[str, ...], **options: Any) -> int:
    """Run a cluster. What follows -- goes to the engine's own command line untouched.

    Settings come from flags, then the environment (CLUSTERCTL_*), then --config, then the defaults."""
    settings = configuration.load(given_flags(options, engine_args), config)
    if detached:
        return detach.start(settings)
    return foreground(settings)


def given_flags(options: dict[str, Any], engine_args: tuple[str, ...]) -> dict[str, Any]:
    """The settings that were named on the command line."""
    flags = {name: value for name, value in options.items() if value is not None and value != ()}
    for name in _LISTS:
        if name in flags:
            flags[name] = list(flags[name])
    if engine_args:
        flags["engine_args"] = list(engine_args)
    return flags


def foreground(settings: Settings) -> int:
    """Until SIGINT or SIGTERM."""
    from cluster.supervisor.runtime import serve

    plan.make(settings)  # what is wrong is said before any output of a start
    live = sys.stderr.isatty() and settings.log_format == "text"
    _log_to_terminal(settings.log_level, settings.log_format, live)
    watchers: list[asyncio.Task[None]] = []

    def ready(supervisor: Supervisor) -> None:
        watchers.append(asyncio.get_running_loop().create_task(_narrate(supervisor, settings, live), name="narrate"))

    asyncio.run(serve(settings, ready=ready))
    return 0


def _log_to_terminal(level: str, style: str, live: bool) -> None:
    logs.set_up(style, level, text="%(asctime)s %(message)s", time="%Y-%m-%d %H:%M:%S")
    if live:
        from rich.logging import RichHandler

        handler = RichHandler(
            console=console(stderr=True), show_path=False, show_level=False, log_time_format="%H:%M:%S"
        )
        handler.setFormatter(logs.TextFormatter("%(message)s"))
        logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("asyncio", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


async def _narrate(supervisor: Supervisor, settings: Settings, live: bool) -> None:
    """Progress of the start, then one line that says how to use it."""
    began, said = time.monotonic(), False
    url = settings.url()
    log, where = logging.getLogger(__name__), str(supervisor.state.root)
    log.info("cluster: %s, state in %s", url, where, extra=logs.fields("up", url=url, state_dir=where))
    if not live:
        while not supervisor.snapshot()["supervisor"]["settled"]:
            await asyncio.sleep(0.1)
    else:
        from rich.live import Live

        with Live(console=console(stderr=True), transient=True, refresh_per_second=4) as view:
            while not said:
                snapshot = supervisor.snapshot()
                said = bool(snapshot["supervisor"]["settled"])
                view.update(progress_table(snapshot))
                await asyncio.sleep(0.25)
    seen = supervisor.snapshot()
    running = sum(i["is_running"] for i in seen["instances"].values())
    took = time.monotonic() - began
    log.info(
        "cluster: %d ready after %.1f s. Try: curl %s/v1/models", running, took, url,
        extra=logs.fields("up.ready", ready=running, seconds=round(took, 1), url=url),
    )
