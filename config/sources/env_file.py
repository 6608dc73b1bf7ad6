"""Files of environment variables, ``NAME=value`` a line, as compose files and shells have them.

Such a file is read only where somebody names it: one that happens to lie in the working directory could be anybody's.
Nothing in it is expanded: ``$`` is a character.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path

from config import bounded
from config.errors import UsageError

#: Variables in one file.
MOST = 1000

_LINE = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(.*)")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"[ \t]*(?:#.*)?')
_SINGLE = re.compile(r"'([^']*)'[ \t]*(?:#.*)?")
_COMMENT = re.compile(r"(^|[ \t]+)#.*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}

#: What decides which programs and libraries run: nothing that a settings file should.
_NOT_TAKEN = re.compile(r"PATH|LD_.*|DYLD_.*|PYTHON.*")

#: By which such files are found.
_FINDERS = frozenset({"CLUSTERCTL_ENV_FILE", "CLUSTERCTL_CONFIG"})


def read(path: Path) -> dict[str, str]:
    """The variables in ``path``. Raises UsageError that names file, line and what is wrong."""
    text = bounded.read_given(path)
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if (pair := parse(line)) is None:
                continue
            if pair[0] in found:
                raise ValueError(f"{pair[0]} is given twice")
            if len(found) >= MOST:
                raise ValueError(f"more than {MOST} variables")
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: {error}", exit_code=2) from None
        found[pair[0]] = pair[1]
    return found


def parse(line: str) -> tuple[str, str] | None:
    """Name and value of one line, None of an empty one or a comment. Raises ValueError, which shows no value: it may
    be a secret."""
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    if (match := _LINE.fullmatch(line)) is None:
        raise ValueError("NAME=value is needed")
    name, value = match[1], match[2]
    if _NOT_TAKEN.fullmatch(name):
        raise ValueError(f"{name} decides which programs run, and is not taken from a file: export it")
    if name in _FINDERS:
        raise ValueError(f"{name} says which files are read, and stands in none of them")
    if value.startswith('"'):
        if (quoted := _DOUBLE.fullmatch(value)) is None:
            raise ValueError(f"{name}: the quotation has no end on its line, or something follows it")
        value = re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), quoted[1])
    elif value.startswith("'"):
        if (quoted := _SINGLE.fullmatch(value)) is None:
            raise ValueError(f"{name}: the quotation has no end on its line, or something follows it")
        value = quoted[1]
    else:
        value = _COMMENT.sub("", value).rstrip()
    if "\0" in value:
        raise ValueError(f"{name}: a value holds no NUL")
    return name, value


def complete(environ: MutableMapping[str, str], found: dict[str, str]) -> None:
    """``environ`` with what is ``found`` in a file and not set, or empty, in it."""
    for name, value in found.items():
        if value and not environ.get(name):
            environ[name] = value
