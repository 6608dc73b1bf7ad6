"""Pickles that do harm when they are loaded, each with what can be seen afterwards if it did.

`HARM` is what runs, as Python that finds ``outside`` (a folder that is not its own), ``own`` (one that is), ``port``
(somebody listens on it), and ``victim`` (a process). The harm is mild: where a wall is missing, a test fails and
nothing else does. `Scene.harmed` says what came of it.
"""

from __future__ import annotations

import io
import pickle
import socket
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRET = "root:$6$not-for-you"

HARM = {
    "writes a file": "open(outside + '/made', 'w').write('x')",
    "writes over a file": "open(outside + '/secret', 'w').write('x')",
    "appends to a file": "open(outside + '/secret', 'a').write('x')",
    "truncates a file": "import os; os.truncate(outside + '/secret', 0)",
    "removes a file": "import os; os.unlink(outside + '/secret')",
    "moves a file": "import os; os.rename(outside + '/secret', outside + '/moved')",
    "makes a folder": "import os; os.mkdir(outside + '/made')",
    "makes a file executable": "import os; os.chmod(outside + '/secret', 0o777)",
    "sets a file's times": "import os; os.utime(outside + '/secret', (1, 1))",
    "reads a secret": "open(own + '/stolen', 'w').write(open(outside + '/secret').read())",
    "reads a secret by a link": (
        "import os; os.symlink(outside + '/secret', own + '/link'); "
        "open(own + '/stolen', 'w').write(open(own + '/link').read())"
    ),
    "links a secret to itself": "import os; os.link(outside + '/secret', own + '/stolen')",
    "reads the environment of another process": (
        "import os; open(own + '/stolen', 'wb').write(open(f'/proc/{victim}/environ', 'rb').read())"
    ),
    "connects": "import socket; socket.create_connection(('127.0.0.1', port), 2).sendall(b'x')",
    "connects by the kernel's own call": (
        "import ctypes, struct; c = ctypes.CDLL(None); s = c.socket(2, 1, 0); "
        "c.connect(s, struct.pack('>HHI8x', 512, port, 0x7F000001), 16); c.send(s, b'x', 1, 0)"
    ),
    "starts a shell": "import os; os.system(f'touch {outside}/made')",
    "starts a program": "import subprocess; subprocess.run(['touch', outside + '/made'], check=False)",
    "becomes a program": "import os; os.execv('/usr/bin/touch', ['touch', outside + '/made'])",
    "forks": "import os\nfor _ in range(8):\n    if os.fork() == 0: open(own + '/forked', 'w'); os._exit(0)",
    "forks by the kernel's own call": (
        "import ctypes, os\nif ctypes.CDLL(None).syscall(57) == 0: open(own + '/forked', 'w'); os._exit(0)"
    ),
    "kills another process": "import os; os.kill(victim, 9)",
    "stops another process": "import os; os.kill(victim, 19)",
    "writes from another thread": (
        "import threading; t = threading.Thread(target=lambda: open(outside + '/made', 'w')); t.start(); t.join()"
    ),
    "mounts": "import ctypes; assert ctypes.CDLL(None).mount(b'none', outside.encode(), b'tmpfs', 0, None) == 0",
    "lifts its limits": (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)); open(own + '/lifted', 'w')"
    ),
    "takes all memory": "open(own + '/huge', 'w').write(str(len(bytearray(1 << 36))))",
    "fills the disk": "open(own + '/full', 'wb').write(bytes(1 << 25))",
}


@dataclass(frozen=True)
class Scene:
    """``listener`` has a connection waiting if somebody came."""

    outside: Path
    own: Path
    victim: subprocess.Popen[bytes]
    listener: socket.socket

    @property
    def names(self) -> dict[str, Any]:
        """For the code in `HARM`."""
        return {
            "outside": str(self.outside), "own": str(self.own), "victim": self.victim.pid,
            "port": self.listener.getsockname()[1],
        }  # fmt: skip

    def harmed(self) -> list[str]:
        """What was done, in words; nothing if nothing was."""
        found = [f"outside: {each.name}" for each in self.outside.iterdir() if each.name != "secret"]
        secret = self.outside / "secret"
        if not secret.exists() or secret.read_text() != SECRET:
            found.append("the secret was changed")
        else:
            status = secret.stat()
            if stat.S_IMODE(status.st_mode) != 0o600 or status.st_mtime < 1000 or status.st_nlink > 1:
                found.append("the secret's rights, times or links were changed")
        found += [f"own: {name}" for name in ("stolen", "forked", "lifted", "huge") if _filled(self.own / name)]
        full = self.own / "full"
        if full.exists() and full.stat().st_size > 1 << 22:
            found.append("the disk was filled")
        if self.victim.poll() is not None or _stopped(self.victim.pid):
            found.append("another process was signalled")
        try:
            self.listener.accept()[0].close()
            found.append("somebody connected")
        except BlockingIOError:
            pass
        return found


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    outside, own = folder / "outside", folder / "own"
    outside.mkdir(parents=True)
    own.mkdir()
    (outside / "secret").write_text(SECRET)
    (outside / "secret").chmod(0o600)
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    try:
        yield Scene(outside, own, victim, listener)
    finally:
        listener.close()
        victim.kill()
        victim.wait()


class Runs:
    """Whoever loads it runs ``code``."""

    def __init__(self, code: str, names: dict[str, Any]) -> None:
        self.code, self.names = code, names

    def __reduce__(self) -> Any:
        return exec, (self.code, dict(self.names))


def plain(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


def archived(value: Any, compression: int = zipfile.ZIP_STORED, name: str = "data.pkl") -> bytes:
    """As PyTorch's files are."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr(f"archive/{name}", plain(value))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return out.getvalue()


def _filled(path: Path) -> bool:
    return path.is_file() and (path.name in ("forked", "lifted") or path.stat().st_size > 0)


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
