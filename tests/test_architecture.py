"""What is said of the files in the tree is so: by ARCHITECTURE.md, and by themselves."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "config", "lb", "worker")


def test_every_file_that_the_architecture_names_is_there() -> None:
    named = set(re.findall(r"[\w/]+\.(?:py|yml|md)\b", (ROOT / "ARCHITECTURE.md").read_text()))
    there = [path.as_posix() for path in ROOT.glob("*/**/*") if path.suffix in (".py", ".yml", ".md")]
    assert len(named) > 100
    assert not [name for name in named if not any(path.endswith(f"/{name}") for path in there)]


def test_a_module_that_says_it_is_pure_is_held_to_it() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (held,) = (contract["source_modules"] for contract in contracts if contract["name"] == "pure files do no I/O")
    pure = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if re.search(r"\bPure[.,:;]", ast.get_docstring(ast.parse(path.read_text())) or ""):
                pure.add(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    assert len(pure) > 50
    assert not [name for name in pure if not any(f"{name}.".startswith(f"{module}.") for module in held)]


def test_modules_stand_in_the_folder_that_they_belong_to() -> None:
    beside = {
        package: {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"} for package in ("lb", "cluster")
    }
    assert beside == {"lb": {"__main__", "app", "limits"}, "cluster": {"errors", "events"}}
