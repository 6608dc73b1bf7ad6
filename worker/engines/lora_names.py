"""What vLLM makes of the names in an adapter, read from its source: importing it takes many seconds and a gigabyte.

An adapter's module reaches the engine's of the same name after the renames of the model's class (``hf_to_vllm_mapper``,
without what is left out or stacked: vllm/model_executor/models/utils.py, get_rename_mapper). One that has no
counterpart is dropped without a word (vllm/lora/model_manager.py, activate_adapter, 0.32).
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Of nearly all models, and of those that name none themselves.
PACKED: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj"),
}  # fmt: skip

_MAPPER, _PACKING, _PARTS = "hf_to_vllm_mapper", "packed_modules_mapping", "get_mm_mapping"
_DEEPEST = 64  # classes deep; a chain of bases is shorter


@dataclass(frozen=True, slots=True)
class LoraNames:
    """Of one architecture. ``language``: how the names of a multimodal model's language part begin, None for others;
    nothing else of it takes an adapter unless it is told to."""

    regexes: tuple[tuple[re.Pattern[str], str], ...] = ()
    substrings: tuple[tuple[str, str], ...] = ()
    prefixes: tuple[tuple[str, str], ...] = ()
    suffixes: tuple[tuple[str, str], ...] = ()
    packed: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(PACKED))
    language: str | None = None

    def engine_name(self, module: str) -> str:
        """The engine's name for a ``module`` of an adapter or of the model's files: WeightsMapper._map_name."""
        # Renames are of tensors' names, which go on after a module's.
        name = f"{module}.lora_A.weight"
        for pattern, new in self.regexes:
            name = pattern.sub(new, name)
        for old, new in self.substrings:
            name = name.replace(old, new, 1)
        for old, new in self.prefixes:
            if name.startswith(old):
                name = name.replace(old, new, 1)
        for old, new in self.suffixes:
            if name.endswith(old):
                name = new.join(name.rsplit(old, 1))
        return name.removesuffix(".lora_A.weight")


class _Unknown(Exception):
    """The source says it in a way that is not read here."""


@functools.cache
def of(architecture: str, package: Path | None = None) -> LoraNames | None:
    """Of a model's class as its config.json names it; None where vLLM is not there or its source does not say.
    ``package``: vLLM's folder, by default that of the installed one. Blocking."""
    package = package or _package()
    if package is None:
        return None
    models = package / "model_executor" / "models"
    try:
        module, name = _registered(models / "registry.py", architecture)
        source = _Origin(package)
        tree = source.tree(module) if module.startswith("vllm.") else source.tree(module, models)
        source.require(tree, name)
        found = source.attribute(tree, name, _MAPPER)
        packed = source.attribute(tree, name, _PACKING)
        return LoraNames(
            **_renames(found if isinstance(found, _Mapper) else _Mapper()),
            packed={key: tuple(value) for key, value in packed.items()} if packed else dict(PACKED),
            language=source.attribute(tree, name, _PARTS),
        )
    except (_Unknown, OSError, SyntaxError, ValueError, TypeError, AttributeError, re.error):
        return None


def _package() -> Path | None:
    found = importlib.util.find_spec("vllm")
    locations = found.submodule_search_locations if found is not None else None
    return Path(next(iter(locations))) if locations else None


def _registered(registry: Path, architecture: str) -> tuple[str, str]:
    """Module and class. A classifier or an embedding model is made of the generating one."""
    tables: dict[str, tuple[str, ...]] = {}
    for node in ast.parse(registry.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple):
                    tables[str(key.value)] = ast.literal_eval(value)
    stem = re.sub(r"(For[A-Z]\w*|Model)$", "", architecture)
    for name in (architecture, f"{stem}ForCausalLM", f"{stem}ForConditionalGeneration"):
        if len(tables.get(name, ())) == 2:
            return tables[name][0], tables[name][1]
    raise _Unknown


@dataclass(frozen=True)
class _Mapper:
    """A WeightsMapper's arguments by name."""

    arguments: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)

    def __or__(self, other: _Mapper) -> _Mapper:
        names = {**self.arguments, **other.arguments}
        return _Mapper({n: {**self.arguments.get(n, {}), **other.arguments.get(n, {})} for n in names})


def _renames(mapper: _Mapper) -> dict[str, Any]:
    def pairs(kind: str) -> tuple[tuple[Any, str], ...]:
        return tuple((old, new) for old, new in mapper.arguments.get(kind, {}).items() if new is not None)

    return {
        "regexes": pairs("orig_to_new_regex"), "substrings": pairs("orig_to_new_substr"),
        "prefixes": pairs("orig_to_new_prefix"), "suffixes": pairs("orig_to_new_suffix"),
    }  # fmt: skip


class _Origin:
    """Reads class attributes that are written down as values, in vLLM's files."""

    def __init__(self, package: Path) -> None:
        self._package = package
        self._trees: dict[Path, ast.Module] = {}
        self._folders: dict[int, Path] = {}

    def tree(self, module: str, folder: Path | None = None) -> ast.Module:
        """Of ``vllm.models.deepseek_v32``, or of a name in ``folder``."""
        parts = module.split(".")
        path = self._package / Path(*parts[1:]) if folder is None else folder / Path(*parts)
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file not in self._trees:
            self._trees[file] = tree = ast.parse(file.read_text())
            self._folders[id(tree)] = file.parent
        return self._trees[file]

    def attribute(self, tree: ast.Module, name: str, attribute: str, depth: int = 0) -> Any:
        """What the class or its bases say, in order; None where none does. Raises _Unknown."""
        if depth > _DEEPEST:
            raise _Unknown
        found = self._find(tree, name)
        if found is None:
            return None  # of another package, such as torch
        tree, node = found
        for item in ast.walk(node):  # what is put together when the model is built
            if isinstance(item, ast.Assign) and any(_is_of_self(t, attribute) for t in item.targets):
                raise _Unknown
        for item in node.body:
            if isinstance(item, ast.Assign | ast.AnnAssign) and item.value is not None:
                target = item.targets[0] if isinstance(item, ast.Assign) else item.target
                if isinstance(target, ast.Name) and target.id == attribute:
                    return self._value(tree, item.value, depth)
            if isinstance(item, ast.FunctionDef) and item.name == attribute:
                return _language(item)
        for base in node.bases:
            if isinstance(base, ast.Name):
                value = self.attribute(tree, base.id, attribute, depth + 1)
                if value is not None:
                    return value
        return None

    def require(self, tree: ast.Module, name: str) -> None:
        """Raises _Unknown unless there is such a class."""
        if self._find(tree, name) is None:
            raise _Unknown

    def _find(self, tree: ast.Module, name: str) -> tuple[ast.Module, ast.ClassDef] | None:
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return tree, node
            if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
                real = next(a.name for a in node.names if (a.asname or a.name) == name)
                if node.level == 1 and node.module:
                    return self._find(self.tree(node.module, self._folders[id(tree)]), real)
                if node.level or not node.module:
                    raise _Unknown
                return self._find(self.tree(node.module), real) if node.module.startswith("vllm.") else None
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                raise _Unknown  # made by a call
        raise _Unknown  # somewhere else than at the top: in a condition, or by a lazy import

    def _value(self, tree: ast.Module, node: ast.expr, depth: int) -> Any:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            value = self.attribute(tree, node.value.id, node.attr, depth + 1)
            if value is None:
                raise _Unknown
            return value
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self._value(tree, node.left, depth) | self._value(tree, node.right, depth)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "WeightsMapper":
            if node.args or any(word.arg in (None, "orig_to_new_renaming") for word in node.keywords):
                raise _Unknown
            return _Mapper({str(word.arg): _table(word.value) for word in node.keywords})
        return ast.literal_eval(node)


def _table(node: ast.expr) -> dict[Any, Any]:
    """A dictionary, whose keys may be patterns."""
    if not isinstance(node, ast.Dict):
        raise _Unknown
    table = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Call) and isinstance(key.func, ast.Attribute) and key.func.attr == "compile":
            table[re.compile(*map(ast.literal_eval, key.args))] = ast.literal_eval(value)
        elif key is not None:
            table[ast.literal_eval(key)] = ast.literal_eval(value)
        else:
            raise _Unknown
    return table


def _is_of_self(target: ast.expr, attribute: str) -> bool:
    return isinstance(target, ast.Attribute) and target.attr == attribute and isinstance(target.value, ast.Name)


def _language(function: ast.FunctionDef) -> str:
    """The ``language_model`` of a `get_mm_mapping`."""
    for node in ast.walk(function):
        if isinstance(node, ast.keyword) and node.arg == "language_model":
            value = ast.literal_eval(node.value)
            if isinstance(value, list) and len(value) == 1:
                return str(value[0])
            if isinstance(value, str):
                return value
    raise _Unknown
