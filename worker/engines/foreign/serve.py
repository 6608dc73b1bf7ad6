"""``python -m worker.engines.foreign.serve SERVING COMMAND [ARGUMENT ...]``: runs the console script COMMAND of another
package, with each application that it gives to uvicorn behind the key guard and `OneModel`.

SERVING is the JSON of `Serving`; ``-m MODULE`` in place of COMMAND runs a module. The engine's server stays one process
that answers at one address: nothing listens without the guard, and nothing is added on the way of an answer but a
function.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from worker.engines.foreign.application import OneModel
from worker.engines.foreign.models import rules_of
from worker.engines.foreign.rules import RequestRules, Serving
from worker.engines.key_guard import KeyGuard

#: Longer than the balancer keeps an idle connection: it must not be the worker that closes one first (s).
_KEEP_ALIVE_S = 75


def main(argv: Sequence[str]) -> Any:
    """Ends with what the command returns. Raises SystemExit."""
    serving = Serving.from_json(json.loads(argv[0]))
    if serving.cores:
        os.sched_setaffinity(0, serving.cores)
    rules = rules_of(serving.engine)
    if argv[1] == "-m":
        guard(rules, serving)
        sys.argv = list(argv[2:])
        return runpy.run_module(argv[2], run_name="__main__", alter_sys=True)
    found = list(entry_points(group="console_scripts", name=argv[1]))
    if not found:
        raise SystemExit(f"{argv[1]}: no installed package has such a command")
    command = found[0].load()
    guard(rules, serving)
    sys.argv = list(argv[1:])
    return command()


def guard(rules: RequestRules, serving: Serving) -> None:
    """From here on, in this process, uvicorn serves nothing without the guard. Raises SystemExit when an application is
    to be served by several processes: they would know nothing of it."""
    import uvicorn

    made, loaded = uvicorn.Config.__init__, uvicorn.Config.load

    def make(config: uvicorn.Config, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"access_log": False, "timeout_keep_alive": _KEEP_ALIVE_S}  # probes would fill the log
        made(config, *args, **kwargs)
        if config.workers != 1 or config.should_reload:
            raise SystemExit("a worker is one server: it cannot be served by several processes")

    def load(config: uvicorn.Config) -> None:
        loaded(config)
        config.loaded_app = KeyGuard(OneModel(config.loaded_app, rules, serving), serving.seats)

    uvicorn.Config.__init__, uvicorn.Config.load = make, load


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
