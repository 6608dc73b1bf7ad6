"""Where the store is through which several clusters share limits, as people write it: ``redis://``, ``rediss://`` (TLS)
or ``unix://``. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from config.values.addresses import bracketed

SCHEMES = ("redis", "rediss", "unix")

#: What may follow the question mark. Other options of the library would change how it is used.
_OPTIONS = frozenset(
    {"db", "password", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_min_version"}
)


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """``text`` is the whole of it, ``shown`` what may be said of it: neither user nor password."""

    text: str = field(repr=False)
    shown: str
    has_password: bool

    @classmethod
    def parse(cls, text: str) -> StoreUrl:
        """Raises ValueError, which repeats nothing of it."""
        example = "a URL such as redis://10.0.0.5:6379/0, rediss://… or unix:///run/redis.sock is needed"
        if not text.isprintable() or len(text) > 2_048:
            raise ValueError(example)
        try:
            parts = urlsplit(text)
            port = parts.port
            options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError:
            raise ValueError(example) from None
        if parts.scheme not in SCHEMES or parts.fragment:
            raise ValueError(example)
        if (parts.path in ("", "/")) if parts.scheme == "unix" else (not parts.hostname or not _is_number(parts.path)):
            raise ValueError(example)
        if not options.keys() <= _OPTIONS or not _is_number(options.get("db", "")):
            raise ValueError(f"its options can be {', '.join(sorted(_OPTIONS))}")
        where = bracketed(parts.hostname or "")
        where += "" if port is None else f":{port}"
        return cls(text, f"{parts.scheme}://{where}{parts.path}", bool(parts.password or options.get("password")))


def has_password(text: str) -> bool:
    """Whether there is one in what may be no URL."""
    try:
        return StoreUrl.parse(text).has_password
    except ValueError:
        return "@" in text or "password" in text


def _is_number(path: str) -> bool:
    """Of a database, or nothing."""
    number = path.removeprefix("/")
    return not number or (number.isascii() and number.isdigit() and len(number) <= 4)
