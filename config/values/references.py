"""Where adapters and models come from, as people write it: ``hf://org/name@revision``, and everything else with ``://``
in it is a reference, too. All that has none is a path, or a name that the engine knows. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

#: What each scheme is called for people.
SCHEMES = {
    "hf": "hf://ORG/NAME[@REVISION]", "ms": "ms://ORG/NAME[@REVISION]", "s3": "s3://BUCKET[/PREFIX]",
    "https": "https://HOST/FILE[#sha256=HEX]",
}  # fmt: skip

#: Characters of one.
LONGEST = 2048

_BEGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_REPOSITORY = re.compile(r"(?P<place>[\w][\w.-]{0,95}/[\w][\w.-]{0,95})(@(?P<revision>[\w][\w./-]{0,127}))?", re.ASCII)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s?#]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Reference:
    """``place``: ``org/name``, ``bucket/prefix``, or a URL. ``revision``: a branch, tag or commit. ``sha256``: in hex,
    what the file behind a URL has to be."""

    scheme: str
    place: str
    revision: str | None = None
    sha256: str | None = None

    @property
    def key(self) -> str:
        """What it is known by on disk: 32 hex digits, nothing in them can be read."""
        text = "\0".join((self.scheme, self.place, self.revision or "", self.sha256 or ""))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def is_pinned(self) -> bool:
        """It means the same content for ever: nobody has to be asked again."""
        return bool(self.sha256 or (self.scheme == "hf" and self.revision and _COMMIT.fullmatch(self.revision)))

    @property
    def name(self) -> str:
        """What a model is called that came from there, where nobody says it."""
        if self.scheme in ("hf", "ms"):
            return self.place
        last = urlsplit(self.place).path if self.scheme == "https" else self.place
        return last.rpartition("/")[2].partition(".")[0] or self.scheme

    def __str__(self) -> str:
        """For people: a URL without its query, in which signatures and tokens stand."""
        if self.scheme != "https":
            return f"{self.scheme}://{self.place}" + (f"@{self.revision}" if self.revision else "")
        parts = urlsplit(self.place)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "…" if parts.query else "", ""))


def is_reference(text: str) -> bool:
    """Whether ``text`` is no path: `parse` says whether it can be fetched."""
    return _BEGIN.match(text) is not None


def parse(text: str) -> Reference:
    """Raises ValueError with one sentence, which shows no query: it may hold a secret."""
    begin = _BEGIN.match(text)
    scheme = begin[1].lower() if begin else ""
    if len(text) > LONGEST or any(not char.isprintable() or char.isspace() for char in text):
        raise ValueError(f"a reference has at most {LONGEST} printable characters and no spaces")
    if scheme == "file":
        raise ValueError("file:// is not fetched: write the path itself")
    if scheme not in (*SCHEMES, "http"):
        raise ValueError(f"{scheme}:// is not known; there are {', '.join(SCHEMES.values())}, and paths")
    rest = text[len(scheme) + 3 :]
    return {"hf": _repository, "ms": _repository, "s3": _bucket}.get(scheme, _url)(scheme, rest)


def _repository(scheme: str, rest: str) -> Reference:
    match = _REPOSITORY.fullmatch(rest)
    if match is None or ".." in rest:
        raise ValueError(f"{scheme}://{rest[:100]} is no {SCHEMES[scheme]}")
    return Reference(scheme, match["place"], match["revision"])


def _bucket(scheme: str, rest: str) -> Reference:
    if _BUCKET.fullmatch(rest) is None or {"..", "."} & set(rest.split("/")):
        raise ValueError(f"s3://{rest[:100]} is no {SCHEMES[scheme]}")
    return Reference(scheme, rest.rstrip("/"))


def _url(scheme: str, rest: str) -> Reference:
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise ValueError(f"{scheme}:// without a host: it is {SCHEMES['https']}")
    if "@" in parts.netloc:
        raise ValueError(f"{scheme}://…@{host}: a password in a URL is seen by many: put it into ~/.netrc")
    if scheme == "http" and host not in _LOOPBACK:
        raise ValueError(f"http://{host}: anybody on the way could change what is fetched: use https://")
    sha256 = _SHA256.fullmatch(parts.fragment)
    if parts.fragment and sha256 is None:
        raise ValueError(f"https://{host}…#{parts.fragment[:20]}: after # only sha256=64 hex digits can stand")
    place = urlunsplit((scheme, parts.netloc, parts.path, parts.query, ""))
    return Reference("https", place, sha256=sha256[1].lower() if sha256 else None)
