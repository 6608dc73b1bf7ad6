"""How much of the processors this session has, where not everybody can have one.

Linux shares them out among sessions first (sched(7), "The autogroup feature"): there a thread's own class and nice
value count within its session only. Where it does not, as in a unit of systemd or a container, nothing is changed here.
"""

from __future__ import annotations

import time
from pathlib import Path

#: 15 parts beside the 1024 of any other session.
_LIGHT = 19

#: What a user changes is refused for 0.1 s after the last change of anybody.
_TRIES, _PAUSE_S = 20, 0.1


def lighten() -> None:
    """From now on it has what others leave. Blocks for 2 s at most, where many are changed at once."""
    for _ in range(_TRIES):
        try:
            Path("/proc/self/autogroup").write_text(f"{_LIGHT}\n")
            return
        except BlockingIOError:
            time.sleep(_PAUSE_S)
        except OSError:  # nobody groups sessions
            return
