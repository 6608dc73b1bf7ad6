"""``python -m cluster.cli FILE``: the supervisor behind ``up --detach``, with its settings in FILE."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from cluster.cli.lifecycle import foreground
from config.disk import private
from config.errors import UsageError
from config.settings import from_json


def main() -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it has no terminal; some send it for "read your settings again"
    try:
        return foreground.run(from_json(private.read(Path(sys.argv[1])).decode()))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
