"""The sizes that files, classes and functions keep to, and that whatever is larger says why, where it stands.

A docstring gives the reason in a sentence such as "More methods than a class should have: each is a question of a
line", a package in that of its `__init__`. One that says so without need fails as well."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "config", "demo", "lb", "sim", "worker")

MODULES, METHODS, ATTRIBUTES, FUNCTION_LINES, FILE_LINES = 15, 20, 15, 50, 350

#: Of one kind each: any number of them is no folder too full.
MANY_OF_A_KIND = {"lb/routing/strategies", "worker/engines"}

#: "than a class should have: …", "than a function should be, as …"
EXCUSE = re.compile(r"\bthan\s+a\s+(file|class|function|folder)\s+should\s+(?:be|have)(?::|,?\s+as)\s")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_values(node: ast.ClassDef) -> bool:
    """A row of values, as wide as what it describes: nothing of it changes but by somebody else's hand."""
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    marks = [ast.unparse(each) for each in node.decorator_list]
    frozen = any(each.startswith("dataclass") and "frozen=True" in each for each in marks)
    return frozen or bool(bases & {"BaseModel", "BaseSettings", "NamedTuple", "TypedDict"})


def attributes(node: ast.ClassDef) -> set[str]:
    """What its body declares and what its methods set on ``self``."""
    found = {x.target.id for x in node.body if isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name)}
    for each in ast.walk(node):
        of_self = isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "self"
        if of_self and isinstance(each.ctx, ast.Store):
            found.add(each.attr)
    return found


def too_large(tree: ast.Module, source: str) -> Iterator[tuple[str, ast.Module | ast.ClassDef | Function]]:
    """Each node above a guide, and by what."""
    if (lines := len(source.splitlines())) > FILE_LINES:
        yield f"file: {lines} lines", tree
    for node in ast.walk(tree):
        if isinstance(node, Function):
            assert node.end_lineno is not None
            if (lines := node.end_lineno - node.lineno + 1) > FUNCTION_LINES:
                yield f"function {node.name}: {lines} lines", node
        elif isinstance(node, ast.ClassDef):
            if (methods := sum(isinstance(each, Function) for each in node.body)) > METHODS:
                yield f"class {node.name}: {methods} methods", node
            if not is_values(node) and (wide := len(attributes(node))) > ATTRIBUTES:
                yield f"class {node.name}: {wide} attributes", node


def excuse(node: ast.Module | ast.ClassDef | Function) -> str:
    """For what it says that it is too large: file, class, function or folder; empty if for nothing."""
    found = EXCUSE.search(ast.get_docstring(node) or "")
    return found[1] if found else ""


def wrong(source: str) -> list[str]:
    """What is too large and does not say why, and what says so and is not."""
    tree = ast.parse(source)
    large = list(too_large(tree, source))
    found = [what for what, node in large if excuse(node) != what.partition(":")[0].partition(" ")[0]]
    needed = [node for _, node in large]
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | Function)
        if documented and node not in needed and excuse(node) not in ("", "folder"):
            found.append(f"{getattr(node, 'name', 'file')} says that it is too large")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_larger_than_the_guides_says_why(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    found = {path.relative_to(ROOT).as_posix(): wrong(path.read_text()) for path in paths}
    assert not {path: what for path, what in found.items() if what}


def test_a_folder_of_more_modules_than_the_guides_says_why() -> None:
    found = []
    for package in PACKAGES:
        for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
            name, marker = folder.relative_to(ROOT).as_posix(), folder / "__init__.py"
            full = len([path for path in folder.glob("*.py") if path != marker]) > MODULES
            says = marker.exists() and excuse(ast.parse(marker.read_text())) == "folder"
            if full != says and name not in MANY_OF_A_KIND:
                found.append(name)
    assert not found


LONG = "    x = 1\n" * FUNCTION_LINES


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (f"def f():\n{LONG}", ["function f: 51 lines"]),
        (f"def f():\n    '''Longer than a function should be: it is a table.'''\n{LONG}", []),
        ("def f():\n    '''Longer than a function should be: it is a table.'''", ["f says that it is too large"]),
        ("class A:\n" + "".join(f"    def m{i}(self): self.x = 1\n" for i in range(21)), ["class A: 21 methods"]),
        ("class A:\n" + "".join(f"    a{i}: int = 0\n" for i in range(16)), ["class A: 16 attributes"]),
        ("class A(NamedTuple):\n" + "".join(f"    a{i}: int = 0\n" for i in range(16)), []),
        ("x = 1\n" * 351, ["file: 351 lines"]),
        ("'Longer than a file should be.'\n" + "x = 1\n" * 350, ["file: 351 lines"]),  # but why?
    ],
)  # fmt: skip
def test_the_guides_find(source: str, expected: list[str]) -> None:
    assert wrong(source) == expected
