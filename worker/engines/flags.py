"""Reads, without changing them, those of the engine's own flags that the cluster has to know. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from config.errors import UsageError

_SHORT = {"-tp": "--tensor-parallel-size", "-pp": "--pipeline-parallel-size"}


def values(args: Sequence[str], flag: str) -> list[str] | None:
    """The values of ``flag`` as the engine's parser would take them (the last one wins; ``--a_b`` is ``--a-b``;
    ``--flag=value`` too). None if it is not there, [] if it has no value."""
    found: list[str] | None = None
    for position, word in enumerate(args):
        name, equals, value = word.partition("=")
        if _canonical(name) != flag:
            continue
        if equals:
            found = [value]
            continue
        found = []
        for following in args[position + 1 :]:
            if following.startswith("-") and not _is_number(following):
                break
            found.append(following)
    return found


def names(args: Sequence[str]) -> list[str]:
    """Of all flags in ``args``, in their order; short ones that have a long name by that."""
    words = (word.partition("=")[0] for word in args if word.startswith("-") and not _is_number(word))
    return [_canonical(word) for word in words if word != "-m"]


def without(args: Sequence[str], flag: str) -> list[str]:
    """``args`` without ``flag`` and its values, wherever it stands."""
    kept: list[str] = []
    inside = False
    for word in args:
        if word.startswith("-") and not _is_number(word):
            name, equals, _ = word.partition("=")
            inside = _canonical(name) == flag and not equals
            if _canonical(name) == flag:
                continue
        elif inside:
            continue
        kept.append(word)
    return kept


def has(args: Sequence[str], flag: str) -> bool:
    return values(args, flag) is not None


def unless_given(args: Sequence[str], wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """Each flag of ``wanted`` with its values, but those that are in ``args`` already."""
    return [word for flag, given in wanted.items() if not has(args, flag) for word in (flag, *given)]


def integer(args: Sequence[str], flag: str, default: int) -> int:
    """Raises UsageError where the flag is there without a positive whole number."""
    found = values(args, flag)
    if found is None:
        return default
    if len(found) < 1 or not (found[0].isascii() and found[0].isdigit()) or int(found[0]) < 1:
        raise UsageError(f"engine flag {flag}: a positive whole number is needed", exit_code=2)
    return int(found[0])


def _canonical(name: str) -> str:
    return _SHORT.get(name) or ("--" + name[2:].replace("_", "-") if name.startswith("--") else name)


def _is_number(word: str) -> bool:
    return word[1:].replace(".", "", 1).isdigit()
