"""``python -m lb FILE``: one balancer process, started by the supervisor with its configuration in FILE."""

from __future__ import annotations

import gc
import json
import logging
import sys
from pathlib import Path

import uvloop

from config.topology import BalancerConfig
from lb.app import serve
from lb.limits import raise_open_files


def main() -> None:
    data = json.loads(Path(sys.argv[1]).read_text())
    link = Path(data.pop("link"))
    config = BalancerConfig.from_json(data)
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    raise_open_files()
    # What was imported stays: the collector need not look at it again. What a request makes is freed by its count.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    uvloop.run(serve(config, link))


if __name__ == "__main__":
    main()
