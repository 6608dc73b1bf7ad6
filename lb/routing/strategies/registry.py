"""The strategies by name: each one's module has the name that `config.topology.STRATEGIES` lists."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from config import topology
from lb.routing.strategies.base import Strategy


def _load(name: str) -> type[Strategy]:
    module = import_module(f"{__package__}.{name}")
    (found,) = (
        each for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Strategy) and each.__module__ == module.__name__
    )  # fmt: skip
    return found


STRATEGIES: Mapping[str, type[Strategy]] = {name: _load(name) for name in topology.STRATEGIES}
