"""What can go wrong with a request."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from lb.protocol import error_shapes
from lb.protocol.failures import CONSEQUENCES, Consequence, Failure


class Source(StrEnum):
    """Whose fault it is."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    INTERNAL = "internal"


class ProxyError(Exception):
    """An error that is the client's answer. ``retry_after`` in seconds."""

    def __init__(
        self, status: int, message: str, *, source: Source = Source.CLIENT, param: str | None = None,
        code: str | int | None = None, retry_after: int | None = None, headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.headers = headers or {}
        self.status, self.source, self.param, self.retry_after = status, source, param, retry_after
        self.code = status if code is None else code

    def body(self, path: str = "") -> dict[str, Any]:
        """As whoever asked for ``path`` understands it."""
        return error_shapes.body(path, self.status, str(self), self.param, self.code)


def internal_error() -> ProxyError:
    """A mistake of ours is an answer too."""
    return ProxyError(500, "internal error of the balancer; its log has it", source=Source.INTERNAL)


class Answered(Exception):
    """A request that the server answers at once: ``status``, ``text`` and header ``fields``."""

    def __init__(self, status: int, text: str, fields: dict[str, str]) -> None:
        super().__init__(text)
        self.status, self.text, self.fields = status, text, fields


class AttemptFailed(Exception):
    """One attempt on one backend came to nothing, in the way that ``kind`` says."""

    def __init__(self, reason: str, kind: Failure) -> None:
        super().__init__(reason)
        self.kind = kind

    @property
    def follows(self) -> Consequence:
        return CONSEQUENCES[self.kind]


def error_body(status: int, message: str, param: str | None = None, code: str | int | None = None) -> dict[str, Any]:
    """OpenAI's and vLLM's error object."""
    return error_shapes.body("", status, message, param, code)
