"""What is said of the files in the tree is so: by ARCHITECTURE.md, and by themselves."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "config", "lb", "worker")


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def test_every_file_that_the_architecture_names_is_there() -> None:
    named = set(re.findall(r"[\w/]+\.(?:py|yml|md)\b", (ROOT / "ARCHITECTURE.md").read_text()))
    ours = [folder for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    there = [path.as_posix() for each in ours for path in each.rglob("*") if path.suffix in (".py", ".yml", ".md")]
    assert len(named) > 100
    assert not [name for name in named if not any(path.endswith(f"/{name}") for path in there)]


def test_a_module_that_says_it_is_pure_is_held_to_it() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    held = [name for each in contracts if each["name"].startswith("pure") for name in each["source_modules"]]
    pure = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if re.search(r"\bPure[.,:;]", ast.get_docstring(_parsed(path)) or ""):
                pure.add(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    assert len(pure) > 50
    assert not [name for name in pure if not any(f"{name}.".startswith(f"{module}.") for module in held)]


def test_modules_stand_in_the_folder_that_they_belong_to() -> None:
    beside = {
        package: {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"} for package in ("lb", "cluster")
    }
    assert beside == {"lb": {"__main__", "app", "limits"}, "cluster": {"errors", "events"}}


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports for type checkers and those inside functions count as well."""
    assert _circles(_imports()) == []


def test_a_circle_of_files_would_be_found() -> None:
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}) == [{"b", "c"}]


def _imports() -> dict[str, set[str]]:
    """For each module of ours those that it imports."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in (*PACKAGES, "demo", "sim") for path in (ROOT / package).rglob("*.py")
    }  # fmt: skip
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        named = set()
        for node in ast.walk(_parsed(path)):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[name] = (named & files.keys()) - {name}
        for module in list(found[name]):  # a package that is only on the way to a module is not what is meant
            if any(each.startswith(f"{module}.") for each in found[name]):
                found[name].discard(module)
    return found


def _circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The sets of nodes that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            new = graph[ahead.pop()] - seen
            seen |= new
            ahead += new
        return seen

    reach = {node: reached(node) for node in graph}
    circles: list[set[str]] = []
    for node in graph:
        if node in reach[node] and not any(node in circle for circle in circles):
            circles.append({other for other in reach[node] if node in reach[other]})
    return circles


#: Class names that stand for one thing in several files, and why.
SHARED_NAMES = {
    "Exchange": "the protocol that a connection knows, and what implements it",
    "Heads": "a reader of heads, for requests and for answers",
    "Owner": "what a part asks of the exchange that it is a part of",
}


def test_a_class_name_has_one_meaning() -> None:
    """But for answers of the API, whose names are those of the API's schemas."""
    places: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path.relative_to(ROOT).as_posix() not in (
                    "cluster/client/results.py", "cluster/client/status.py", "cluster/client/job_results.py",
                ):
                for node in ast.walk(_parsed(path)):
                    if isinstance(node, ast.ClassDef):
                        places.setdefault(node.name.lstrip("_"), []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not {name: found for name, found in places.items() if len(found) > 1 and name not in SHARED_NAMES}
