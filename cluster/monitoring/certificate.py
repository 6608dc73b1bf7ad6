"""Says what became of a change of the files that the port's certificate is read from.

Each balancer process takes it by itself, with a supervisor or without; here it becomes one event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.events import Emit
from config import tls
from config.errors import UsageError
from config.topology import TlsFiles

#: Seconds between two looks at the files.
_LOOK_S = 1.0


async def watch_certificate(files: Callable[[], TlsFiles | None], emit: Emit) -> None:
    """Without an end. ``files``: those of now, None where TLS is not spoken."""
    now, watch = None, None
    while True:
        if (given := files()) != now:
            now, watch = given, None if given is None else tls.FileWatch(given)
        try:
            found = await asyncio.to_thread(watch.look) if watch is not None else None
        except UsageError as error:
            emit("load_balancer", f"{error}; what was served before is served on", kind="certificate.refused")
        else:
            if found is not None:
                told = {"names": list(found.names), "expires": found.expires}
                emit("load_balancer", "another certificate is served now", kind="certificate.replaced", data=told)
        await asyncio.sleep(_LOOK_S)
