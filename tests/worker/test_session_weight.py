"""Who has the processors first, as the kernel of this machine says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

#: Before and after, the group of a process that leads a session.
_LIGHTEN = """
import json
from worker import session_weight
seen = [open("/proc/self/autogroup").read()]
session_weight.lighten()
print(json.dumps([*seen, open("/proc/self/autogroup").read()]))
"""

#: Becomes somebody else, whose own its files in /proc are again (prctl(2), PR_SET_DUMPABLE).
_AS_ANYBODY = """
import ctypes, json, os
import worker.session_weight
os.setgroups([]), os.setgid(65534), os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1)
"""


def group() -> str:
    """Empty where nobody groups sessions."""
    return Path("/proc/self/autogroup").read_text()


@pytest.mark.parametrize(
    "who", ["", pytest.param(_AS_ANYBODY, marks=pytest.mark.skipif(os.geteuid() != 0, reason="is anybody already"))],
    ids=["whoever runs this", "anybody"],
)  # fmt: skip
def test_a_session_is_lightened_and_no_other(who: str) -> None:
    ours = group()
    done = subprocess.run(
        [sys.executable, "-c", who + _LIGHTEN], text=True, capture_output=True, start_new_session=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    assert after == before.replace("nice 0", "nice 19") and group() == ours
