"""How one description becomes a method of both clients. No I/O."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from cluster.client.core import Call
from cluster.client.workflows import Workflow

P = ParamSpec("P")
T = TypeVar("T")


class Blocking:
    """The base of a client whose methods return their results."""

    def _run(self, work: Call[T] | Workflow[T]) -> T:
        raise NotImplementedError


class Awaiting:
    """The base of a client whose methods are awaited."""

    async def _run(self, work: Call[T] | Workflow[T]) -> T:
        raise NotImplementedError


class method(Generic[P, T]):
    """Decorates what describes the work of a method: a `Call`, or a `Workflow` of several. Both clients get a method
    of its name, parameters and docstring, which does that work."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Call[T] | Workflow[T]]) -> None:
        @functools.wraps(describe)
        def waiting(client: Blocking, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return client._run(describe(client, *args, **kwargs))

        @functools.wraps(describe)
        async def awaiting(client: Awaiting, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return await client._run(describe(client, *args, **kwargs))

        shown = inspect.signature(describe)
        shown = shown.replace(return_annotation=str(shown.return_annotation).partition("[")[2].removesuffix("]"))
        for function in (waiting, awaiting):
            vars(function)["__signature__"] = shown  # what help() shows: the result, not the description
        self._waiting: Callable[..., Any] = waiting
        self._awaiting: Callable[..., Any] = awaiting

    @overload
    def __get__(self, client: Blocking, owner: type | None = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type | None = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...

    def __get__(self, client: Any, owner: type | None = None) -> Callable[..., Any]:
        function = self._awaiting if issubclass(owner or type(client), Awaiting) else self._waiting
        return function if client is None else MethodType(function, client)
