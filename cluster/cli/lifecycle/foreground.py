"""A supervisor in this process, and what it says of its start. Also that of `up --detach`, which has no terminal and
does not wait for what only a terminal needs."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import TYPE_CHECKING

from cluster.cli.lifecycle.failed import hopeless, last_words
from cluster.deployment import plan
from config import logs
from config.paths import StateDir
from config.settings import Settings

if TYPE_CHECKING:
    from cluster.supervisor.runtime import Snapshot


def run(settings: Settings) -> int:
    """Until SIGINT or SIGTERM."""
    from cluster.supervisor.runtime import serve

    plan.make(settings)  # what is wrong is said before any output of a start
    live = sys.stderr.isatty() and settings.log_format == "text"
    _log_to_terminal(settings.log_level, settings.log_format, live)
    watchers: list[asyncio.Task[None]] = []

    def ready(snapshot: Snapshot) -> None:
        watchers.append(asyncio.get_running_loop().create_task(_narrate(snapshot, settings, live), name="narrate"))

    asyncio.run(serve(settings, ready=ready))
    return 0


def _log_to_terminal(level: str, style: str, live: bool) -> None:
    logs.set_up(style, level, text="%(asctime)s %(message)s", time="%Y-%m-%d %H:%M:%S")
    if live:
        from rich.logging import RichHandler

        from cluster.cli.render import console

        handler = RichHandler(
            console=console(stderr=True), show_path=False, show_level=False, log_time_format="%H:%M:%S"
        )
        handler.setFormatter(logs.TextFormatter("%(message)s"))
        logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("asyncio", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


async def _narrate(snapshot: Snapshot, settings: Settings, live: bool) -> None:
    """Progress of the start, then one line that says how to use it."""
    began, said = time.monotonic(), False
    url = settings.url()
    log, where = logging.getLogger(__name__), snapshot()["supervisor"]["state_dir"]
    log.info("cluster: %s, state in %s", url, where, extra=logs.fields("up", url=url, state_dir=where))
    if not live:
        while not snapshot()["supervisor"]["settled"]:
            await asyncio.sleep(0.1)
    else:
        from rich.live import Live

        from cluster.cli.render import console, progress_table

        with Live(console=console(stderr=True), transient=True, refresh_per_second=4) as view:
            while not said:
                shown = snapshot()
                said = bool(shown["supervisor"]["settled"])
                view.update(progress_table(shown))
                await asyncio.sleep(0.25)
    seen = snapshot()
    if why := hopeless(seen):
        for line in last_words(StateDir(settings.state_directory()), seen):
            log.error("%s", line)
        log.error("cluster: %s. `clusterctl restart ID` tries one again", why)
        return
    running = sum(i["is_running"] for i in seen["instances"].values())
    took = time.monotonic() - began
    log.info(
        "cluster: %d ready after %.1f s. Try: curl %s/v1/models", running, took, url,
        extra=logs.fields("up.ready", ready=running, seconds=round(took, 1), url=url),
    )
