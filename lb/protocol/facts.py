"""What the balancer needs to know of a request's body, and the rules that hold for any form of it. Pure.

One rule: the balancer and the worker see the same model, or the request is refused. Readers differ in which of two they
take, so there must not be two.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lb.protocol.errors import ProxyError

#: Characters of a model's name, of a response's id, and of whatever else a client names. Nothing longer exists, and
#: nothing longer is looked up, repeated, written down or remembered.
MOST_NAME = 256

#: Where a name stands in a body: bytes from, to.
Span = tuple[int, int]


@dataclass(slots=True)
class Names:
    """The models that a body names. ``name``: the one there is; None for none, or for one that is no name, which is
    the worker's to refuse. ``spans``: of all its values as written, if they are `movable`."""

    name: str | None = None
    spans: list[Span] = field(default_factory=list)
    movable: bool = True

    def add(self, name: str | None, span: Span) -> None:
        """Raises ProxyError: 400 for a second one that is another, 404 for one that is too long to exist."""
        name = None if name is None else model_name(name)
        if self.spans and name != self.name:
            raise refused("it names two models", "model")
        self.name = name
        self.spans.append(span)


@dataclass(slots=True)
class Facts:
    """``previous``: the Responses API's ``previous_response_id``. All None for a body that is not a JSON object:
    such a body goes to the worker as it is; one that is too long to exist is cut off. ``names``: where the
    model stands, if somebody had to look; ``at``: where its name does, of a whole body that was looked at
    for something else."""

    model: str | None = None
    stream: bool = False
    previous: str | None = None
    names: Names | None = field(default=None, compare=False)
    at: Span | None = field(default=None, compare=False)


NOTHING = Facts()


def model_name(name: str) -> str | None:
    """``name``, None for an empty one. Raises ProxyError: 404 for one that is too long, 400 for no Unicode text."""
    if len(name) > MOST_NAME:
        message = f"The model does not exist: no name has more than {MOST_NAME} characters."
        raise ProxyError(404, message, param="model", code=404)
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        raise refused("the model's name is no text", "model")
    return name or None


def check_response(name: str) -> None:
    """Raises ProxyError (404) for an id that no response has."""
    if len(name) > MOST_NAME or not name.isascii():
        raise ProxyError(404, "Response with that id not found.", param="response_id")


def refused(reason: str, param: str | None = None) -> ProxyError:
    """The 400 for a body that different readers may read differently, or that none has to read."""
    return ProxyError(400, f"the request's body is refused: {reason}", param=param)
