"""For whom a request is answered: what whoever asks for models may, and counts for. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.identity.api_keys import ApiKey, Budget, Priority


@dataclass(frozen=True, slots=True, eq=False)
class Tenant:
    """Requests with one API key, or all that need none; equal to itself only, so that what is known of it is found
    by it at once. ``models``: the only ones that exist for it, None: all. ``rpm``, ``tpm``, ``max_concurrent``,
    ``budget``, ``weight``: as those of `config.identity.api_keys.ApiKey`. ``mark``: what the ids of its responses are
    signed for; empty: it may read everybody's, and its own are nobody's. ``is_limited``: in what it may take over a
    time."""

    name: str
    models: frozenset[str] | None = None
    rpm: int | None = None
    tpm: int | None = None
    max_concurrent: int | None = None
    priority: Priority = Priority.NORMAL
    weight: float = 1.0
    budget: Budget | None = None
    mark: str = ""
    is_limited: bool = field(init=False)

    def __post_init__(self) -> None:
        limited = self.rpm is not None or self.tpm is not None or self.budget is not None
        object.__setattr__(self, "is_limited", limited)  # it is asked with each request

    @classmethod
    def of(cls, key: ApiKey) -> Tenant:
        """A key that is made anew under an old name is another tenant: it was not there when the old one asked."""
        models = None if key.models is None else frozenset(key.models)
        return cls(
            key.name, models, key.rpm, key.tpm, key.max_concurrent, key.priority, key.weight, key.budget,
            f"{key.name}\0{key.created!r}",
        )  # fmt: skip


#: Who asks while nobody needs a key.
ANYBODY = Tenant("anybody")
