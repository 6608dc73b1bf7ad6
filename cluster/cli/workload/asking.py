"""Who is asked many things, with what key, and what is shown meanwhile."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cli.common import asking_key, verification
from cluster.cli.render import console
from cluster.client.core import root_of
from cluster.client.token import key_for
from cluster.tools.batch.progress import BatchProgress
from cluster.tools.batch.run import BACKGROUND, RequestSender
from config import bounded
from config.errors import UsageError
from config.identity.secret import clean
from config.sources.commands import cluster_url, key_of
from config.text import printable

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


#: Bytes of a file that holds a key.
_LONGEST_KEY = 64 * 1024


@dataclass(frozen=True, slots=True)
class AskedServer:
    """A server, and how it is asked. ``url``: None for the cluster's own; ``is_cluster``: whether it is a cluster's,
    wherever that is. ``key_file``, ``key_env``: where its key is; without either a cluster is shown its own, and
    another server none: a key is not for every URL. ``background``: all other requests go first."""

    url: str | None
    is_cluster: bool
    key_file: Path | None = None
    key_env: str | None = None
    concurrency: int = 16
    retries: int = 5
    timeout: float = 600.0
    background: bool = True

    def sender(self) -> RequestSender:
        """Raises UsageError and ClusterError."""
        where = self.url or cluster_url()
        verify = verification(where)
        headers = BACKGROUND if self.background else None
        return RequestSender(
            where, self._key(where, verify), self.concurrency, self.retries, self.timeout, verify=verify,
            headers=headers,
        )  # fmt: skip

    def _key(self, where: str, verify: ssl.SSLContext | bool) -> str | None:
        if self.key_file is not None and self.key_env is not None:
            raise UsageError("a key is in a file or in a variable, not in both", exit_code=2)
        if self.key_file is not None:
            return _key_in(self.key_file)
        if self.key_env is not None:
            return key_of(self.key_env)
        return key_for(root_of(where), asking_key() if self.is_cluster else None, verify)


def _key_in(file: Path) -> str:
    """Raises UsageError."""
    text = bounded.read_given(file, _LONGEST_KEY)
    try:
        return clean(text)
    except ValueError as error:
        raise UsageError(f"{file}: {error}", exit_code=2) from None


@contextlib.contextmanager
def progress(report: BatchProgress, size: int | None, shown: bool, name: str = "") -> Iterator[None]:
    """A bar on a terminal, nothing elsewhere. ``size``: bytes of the input, or whatever else its offsets count;
    ``name``: what is done."""
    screen = console(stderr=True)
    if not screen.is_terminal or not shown:
        yield
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
    if size is not None:
        columns += [BarColumn(), TextColumn("{task.percentage:>3.0f} %")]
    columns += [TimeElapsedColumn()]
    if size is not None:
        columns += [TextColumn("left"), TimeRemainingColumn()]
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("asking", total=size)

        def look() -> None:
            words = name and f"{printable(name)}: "
            words += f"{report.kept + report.asked} lines, {report.failed} failed, {report.rates()}"
            bar.update(task, completed=report.offset, description=words)

        report.look = look
        yield
