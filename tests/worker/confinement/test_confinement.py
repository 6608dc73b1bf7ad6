"""A confined process does no harm, whatever it runs; and what stands for that is there, or it is refused."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import environment
from hostile import HARM, scene
from worker.confinement import landlock, process, seccomp
from worker.confinement.process import Confinement, NotConfined, ProcessBounds

_RUN = """
import json, sys
from pathlib import Path
from worker.confinement.process import ProcessBounds, confine
code, names, own, confined = json.loads(sys.argv[1])
import ctypes, os, resource, socket, struct, subprocess, sysconfig, threading
if confined:
    libraries = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "platlib")]
    made = confine(libraries, [Path(own)], ProcessBounds(1 << 28, 1 << 20, 20))
    assert len(made.walls) >= 4 and not made.missing, made
exec(code, names)
"""


def _run(code: str, names: dict[str, Any], own: Path, *, confined: bool = True) -> subprocess.CompletedProcess[str]:
    given = json.dumps([code, names, str(own), confined])
    return subprocess.run(
        [sys.executable, "-c", _RUN, given], capture_output=True, text=True, env=environment(), timeout=30, check=False
    )


@pytest.mark.processes
@pytest.mark.parametrize("what", HARM)
def test_a_confined_process_does_no_harm(what: str, tmp_path: Path) -> None:
    with scene(tmp_path) as found:
        done = _run(HARM[what], found.names, found.own)
        assert not found.harmed(), done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("what", sorted(set(HARM) - {"takes all memory", "mounts", "lifts its limits"}))
def test_the_same_does_harm_where_it_is_not_confined(what: str, tmp_path: Path) -> None:
    """Or the test above would say nothing."""
    with scene(tmp_path) as found:
        done = _run(HARM[what], found.names, found.own, confined=False)
        assert found.harmed(), done.stderr


@pytest.mark.processes
def test_what_it_is_for_still_works(tmp_path: Path) -> None:
    """Reading, writing, computing in threads; and the time that it may take has an end."""
    code = (
        "import threading; done = []; t = threading.Thread(target=done.append, args=(1,)); t.start(); t.join(); "
        "open(own + '/a', 'w').write(str(done)); print(open(own + '/a').read())"
    )
    done = _run(code, {"own": str(tmp_path)}, tmp_path)
    assert (done.stdout, done.stderr) == ("[1]\n", "")


@pytest.mark.processes
def test_time_has_an_end() -> None:
    code = (
        "from worker.confinement.process import *\n"
        "confine([], [], ProcessBounds(1 << 28, 1, 0))\n"
        "try:\n    while True: sum(range(1000))\nexcept OutOfTime: print('ended')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60, check=False
    )
    assert done.stdout == "ended\n", done.stderr


_HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", _HEADERS)
def test_the_numbers_of_calls_are_those_of_the_kernel(machine: str) -> None:
    header = _HEADERS[machine]
    if not header.exists():
        pytest.skip(f"no {header}: the kernel's headers are not installed")
    named = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    column = list(_HEADERS).index(machine)
    table = {**seccomp.DENIED, "clone": seccomp.CLONE, "clone3": seccomp.CLONE3, "prlimit64": seccomp.PRLIMIT}
    differ = {name: numbers[column] for name, numbers in table.items()
              if numbers[column] is not None and str(numbers[column]) != named.get(name, str(numbers[column]))}
    assert not differ
    assert sum(name in named for name in table) > 80


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_jump_of_the_filter_lies_in_it(machine: str) -> None:
    made = seccomp.program(machine)
    assert len(made) <= 4096  # BPF_MAXINSNS
    for at, (_, yes, no, _) in enumerate(made):
        assert at + 1 + max(yes, no) <= len(made)
    assert made[-1][0] == 0x06


class _Kernel:
    """One that lacks what it is told to lack; nothing of the test's own process is confined."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lacks: set[str]) -> None:
        def lacking(name: str) -> Any:
            def call(*_: Any) -> None:
                if name in lacks:
                    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

            return call

        monkeypatch.setattr(process, "prctl", lambda *_: None)
        monkeypatch.setattr(process, "_limit", lambda _: None)
        monkeypatch.setattr(process, "_leave_network", lacking("namespaces"))
        monkeypatch.setattr(process.landlock, "version", lambda: 0 if "landlock" in lacks else 4)
        monkeypatch.setattr(process.landlock, "restrict", lacking("landlock"))
        monkeypatch.setattr(process.seccomp, "restrict", lacking("seccomp"))
        monkeypatch.setattr(process, "_threads", lambda: 2 if "one thread" in lacks else 1)


def _confine(**more: bool) -> Confinement:
    return process.confine([], [], ProcessBounds(1, 1, 1), **more)


@pytest.mark.parametrize(
    ("lacks", "told"),
    [("landlock", "no Landlock"), ("seccomp", "takes no seccomp filter"), ("one thread", "has 2 threads")],
)
def test_a_wall_that_is_needed_and_missing_is_named_and_ends_it(
    lacks: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Kernel(monkeypatch, {lacks})
    with pytest.raises(NotConfined, match=told):
        _confine()
    made = _confine(unconfined=True)
    assert len(made.missing) == 1 and told in made.missing[0]


def test_without_namespaces_the_filter_stands_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    _Kernel(monkeypatch, {"namespaces"})
    made = _confine()
    assert not made.missing and not any("namespace" in wall for wall in made.walls)


def test_this_machine_confines() -> None:
    """Where it does not, the tests above cannot run, and neither can conversions."""
    assert landlock.version() >= 1
