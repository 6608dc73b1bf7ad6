"""`top`: the cluster, live."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from cluster.cli.common import Finite, client, url_option, verification
from cluster.cli.render import console
from cluster.cli.running import top_view
from cluster.cli.streams import end, handling
from cluster.client import ClusterClient, ClusterError, Event
from cluster.tools.chat.openai_client import OpenAIClient
from cluster.tools.top import series
from cluster.tools.top.top import SORTS, WANTED, Snapshot, SnapshotHistory, ordered
from config.sources.commands import cluster_url, own_admin_key

if TYPE_CHECKING:
    from rich.console import Console

#: Events that are shown, where there is room.
_EVENTS = 8


@click.command("top")
@click.option(
    "--interval", default=2.0, show_default=True, type=Finite(0.1, 3600), help="Seconds between looks."
)
@click.option("--sort", default="instance", show_default=True, type=click.Choice(list(SORTS)), help="What comes first.")
@click.option("--once", is_flag=True, help="Print one table and end; so it is where there is no terminal.")
@url_option
def top_command(interval: float, sort: str, once: bool, url: str | None) -> int:
    """Watch the cluster: instances, load, latency, cache, events. Keys: q ends, s sorts, p pauses, space looks now."""
    where = url or cluster_url()
    with client(url) as cluster, OpenAIClient(where, own_admin_key(), verify=verification(where)) as asks:
        look = Look(cluster, asks)
        screen = console()
        if once or not (sys.stdin.isatty() and screen.is_terminal):
            return _once(look, screen, where, interval, sort)
        return _Screen(look, screen, where, interval, sort).run()


@dataclass
class Look:
    """One look at the cluster. Raises ClusterError."""

    cluster: ClusterClient
    asks: OpenAIClient

    def __call__(self) -> tuple[Snapshot, list[Event]]:
        status = self.cluster.status()
        at = time.monotonic()
        page = events = None
        with contextlib.suppress(ClusterError):  # a status alone is worth showing
            page = series.read(self.asks.metrics(), WANTED)
        with contextlib.suppress(ClusterError):
            events = self.cluster.events(_EVENTS)
        return Snapshot(at, status, page or {}), events or []


def _once(look: Look, screen: Console, url: str, interval: float, sort: str) -> int:
    history = SnapshotHistory()
    history.add(look()[0])
    time.sleep(interval)
    sample, events = look()
    history.add(sample)
    totals, rows = history.view(lifetime=True)
    screen.print(top_view.screen(totals, ordered(rows, sort), events, url, screen.width, None))
    screen.print(f"rates over {interval:g} s, TTFT since the workers' starts", style="dim")
    return 0


@dataclass
class _LastLook:
    """What the looking thread found last; ``lock`` guards it."""

    history: SnapshotHistory = field(default_factory=SnapshotHistory)
    events: list[Event] = field(default_factory=list)
    trouble: str = ""
    since: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Screen:
    """Looks in a thread, so that a key is answered however long the cluster takes."""

    def __init__(self, look: Look, screen: Console, url: str, interval: float, sort: str) -> None:
        self._look, self._screen, self._url, self._interval, self._sort = look, screen, url, interval, sort
        self._seen, self._paused = _LastLook(), False
        self._now, self._over = threading.Event(), False
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)

    def run(self) -> int:
        sample, events = self._look()  # without a cluster there is nothing to show
        self._seen.history.add(sample)
        self._seen.events = events
        threading.Thread(target=self._keep_looking, name="looking", daemon=True).start()
        try:
            with handling({
                signal.SIGTERM: end, signal.SIGHUP: end, signal.SIGWINCH: lambda number, frame: self._poke(),
            }):  # fmt: skip
                while self._shown():
                    os.kill(os.getpid(), signal.SIGSTOP)  # Ctrl-Z: the terminal is the shell's again
            return 0
        except KeyboardInterrupt:
            return 130
        finally:
            self._over = True
            self._now.set()

    def _keep_looking(self) -> None:
        while not self._over:
            self._now.wait(self._interval)
            self._now.clear()
            try:
                sample, events = self._look()
            except ClusterError as error:
                with self._seen.lock:
                    self._seen.since = self._seen.since or time.monotonic()
                    self._seen.trouble = str(error)
            except RuntimeError:  # the clients are closed: it is over
                return
            else:
                with self._seen.lock:
                    self._seen.history.add(sample)
                    self._seen.events, self._seen.trouble, self._seen.since = events, "", 0.0
            self._poke()

    def _poke(self) -> None:
        with contextlib.suppress(OSError):  # full: it wakes anyway
            os.write(self._wake, b".")

    def _shown(self) -> bool:
        """On the screen until somebody ends it (False) or puts it aside (True)."""
        from rich.live import Live

        with _keys(sys.stdin.fileno()), Live(console=self._screen, screen=True, auto_refresh=False) as live:
            while True:
                if not self._paused:
                    live.update(self._view(), refresh=True)
                ready, _, _ = select.select([sys.stdin, self._woken], [], [], 1.0)
                if self._woken in ready:
                    os.read(self._woken, 4096)
                if sys.stdin in ready:
                    pressed = os.read(sys.stdin.fileno(), 64)
                    if not pressed:  # the terminal is gone
                        return False
                    for key in pressed.decode(errors="replace"):
                        if key in "qQ":
                            return False
                        if key == "\x1a":
                            return True
                        self._press(key, live.update)

    def _press(self, key: str, show: Callable[..., None]) -> None:
        if key in "sS":
            names = list(SORTS)
            step = 1 if key == "s" else -1
            self._sort = names[(names.index(self._sort) + step) % len(names)]
        elif key == "p":
            self._paused = not self._paused
        elif key == " ":
            self._now.set()
        show(self._view(), refresh=True)

    def _view(self) -> Any:
        seen = self._seen
        with seen.lock:
            totals, rows = seen.history.view()
            events, trouble = list(seen.events), seen.trouble
            if trouble:
                trouble = f"{trouble}, for {time.monotonic() - seen.since:.0f} s"
        paused = " · paused" if self._paused else ""
        bar = f" q quit · s sort: {self._sort} · p pause · space now · every {self._interval:g} s{paused}"
        return top_view.screen(
            totals, ordered(rows, self._sort), events, self._url, self._screen.width, self._screen.height, bar, trouble
        )


@contextlib.contextmanager
def _keys(descriptor: int) -> Iterator[None]:
    """Keys as they are pressed, unseen, Ctrl-Z among them; afterwards the terminal is as it was."""
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        mode = termios.tcgetattr(descriptor)
        mode[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(descriptor, termios.TCSANOW, mode)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


