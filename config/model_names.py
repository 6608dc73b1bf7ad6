"""Names that clients ask for in place of a model: routes, which choose by what the last user message says, and aliases,
which split among models by who asks. Pure.

The supervisor checks and keeps them, the balancers choose by them, `clusterctl route test` says what they would choose.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from config.values import patterns

#: The name that asks for the route of that name, or for the only one there is.
AUTO = "auto"

#: Of an adapter, a route or an alias. Dots alone would be a step up in a path; a version's name has an @ before its
#: number.
NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,128}")
_VERSION = re.compile(r"([A-Za-z0-9._-]{1,128})@([0-9]{1,9})")

#: How many there may be: names, rules of a route, keywords of a rule, sides of an alias.
_MOST_NAMES, _MOST_RULES, _MOST_KEYWORDS, _MOST_SIDES = 200, 100, 200, 16

#: Characters: of a name of a model, of a keyword, and of the text that is looked at (half of it the beginning, half the
#: end). With the bounds of patterns they bound the time of a look.
_LONGEST_MODEL, _LONGEST_KEYWORD, LONGEST_TEXT = 512, 100, 8192

_DIGITS = "0123456789"

#: Characters of who asks whose position is kept, as of users, who come again and again. Conversations are longer.
_SHORT = 128

# Scripts that write words without blanks between them, and Korean, whose words take endings: a keyword is found inside.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
_WORD = rf"[\w--{_UNSPACED}]"


class Choice(NamedTuple):
    """A ``model``, and why it is the one. ``shadow``: the one that gets a copy, if there is such."""

    model: str
    reason: str
    shadow: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Asks ``model`` where one of ``keywords`` is in the text, or ``pattern`` (of Rust's `regex`, whose time grows with
    the length of the text only) matches somewhere in it."""

    model: str
    keywords: tuple[str, ...] = ()
    pattern: str = ""

    def found(self, text: str) -> str | None:
        """The first of ``keywords`` that is in ``text``, as `folded` makes it, or the pattern; None: nothing is."""
        if self.keywords and _any_of(self.keywords)(text):
            return f"keyword {next(word for word in self.keywords if patterns.matcher(_as_pattern(word))(text))!r}"
        return f"pattern {self.pattern!r}" if self.pattern and patterns.matcher(self.pattern)(text) else None

    def to_json(self) -> dict[str, Any]:
        given = {"model": self.model, "keywords": list(self.keywords), "pattern": self.pattern}
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """The first of ``rules`` that fits decides, ``default`` where none does."""

    rules: tuple[Rule, ...]
    default: str

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys([*(rule.model for rule in self.rules), self.default]))

    def choose(self, text: str, allowed: Container[str] | None = None) -> Choice | None:
        """For the last user message; None: no model that is ``allowed`` (None: all are)."""
        text = folded(text)
        for number, rule in enumerate(self.rules, 1):
            if (allowed is None or rule.model in allowed) and (found := rule.found(text)) is not None:
                return Choice(rule.model, f"rule {number}, {found}")
        return Choice(self.default, "no rule fits") if allowed is None or self.default in allowed else None

    def to_json(self) -> dict[str, Any]:
        return {"rules": [rule.to_json() for rule in self.rules], "default": self.default}


@dataclass(frozen=True, slots=True)
class ModelAlias:
    """Another name of one model, or of several, by weights. ``shadow``: the first that is not chosen gets a copy of
    each request."""

    sides: tuple[tuple[str, float], ...]
    shadow: bool = False

    @property
    def models(self) -> list[str]:
        return [model for model, _ in self.sides]

    def choose(self, name: str, who: str, allowed: Container[str] | None = None) -> Choice | None:
        """The same one for the same ``who`` asking for the alias ``name``, in every process; None: no model that is
        ``allowed`` (None: all are)."""
        return Split(name, self, allowed).choose(who)

    def to_json(self) -> dict[str, Any]:
        return {"sides": dict(self.sides), "shadow": self.shadow}


class Split:
    """The ``alias`` of that ``name``, ready to choose among those of its models that are ``allowed`` (None: all are).
    ``by_asker``: whether it depends on who asks."""

    __slots__ = ("_sides", "_total", "alias", "by_asker", "name")

    def __init__(self, name: str, alias: ModelAlias, allowed: Container[str] | None = None) -> None:
        self.name, self.alias = name, alias
        sides = {model: weight for model, weight in alias.sides if allowed is None or model in allowed}
        self._total = total = sum(sides.values())
        self._sides = [
            (weight, Choice(
                model, f"{weight / total:.0%} of {name}",
                next((other for other in sides if other != model), None) if alias.shadow else None,
            ))
            for model, weight in sides.items() if weight
        ]  # fmt: skip
        self.by_asker = len(self._sides) > 1

    def choose(self, who: str) -> Choice | None:
        """As `ModelAlias.choose`."""
        if len(self._sides) < 2:
            return self._sides[0][1] if self._sides else None
        find = _remembered if len(who) <= _SHORT else position
        at = find(self.name, who) * self._total
        for weight, choice in self._sides:
            if (at := at - weight) < 0:
                return choice
        return self._sides[-1][1]  # by rounding


Named = ModelRoute | ModelAlias


def position(name: str, who: str) -> float:
    """Where ``who`` stands between 0 and 1. Numbers in a row, as ids often are, are spread evenly: multiples of the
    golden ratio (Knuth, TAOCP 6.4) and not of chance."""
    end = begin = max(map(who.rfind, _DIGITS)) + 1
    while begin and end - begin < 15 and who[begin - 1] in _DIGITS:
        begin -= 1
    rest = f"{who[:begin]}\0{who[end:]}" if end else who
    start = int.from_bytes(hashlib.blake2b(f"{name}\0{rest}".encode(errors="replace"), digest_size=8).digest())
    return ((start + int(who[begin:end] or 0) * 0x9E3779B97F4A7C15) % 2**64) / 2**64


_remembered = functools.lru_cache(maxsize=4096)(position)


def folded(text: str) -> str:
    """What of ``text`` is looked at, in one of the ways in which the same is written."""
    if len(text) > LONGEST_TEXT:
        text = f"{text[: LONGEST_TEXT // 2]}\n{text[-LONGEST_TEXT // 2 :]}"
    return unicodedata.normalize("NFKC", text.encode(errors="replace").decode())[: 2 * LONGEST_TEXT]


def read_all(given: Mapping[str, Any]) -> dict[str, Named]:
    """Those that `Named.to_json` wrote, by name; what a later version wrote is left out."""
    found: dict[str, Named] = {}
    for name, data in given.items():
        try:
            found[name] = route(data) if "rules" in data else alias(data)
        except ValueError:
            continue
    return found


def route(data: Any) -> ModelRoute:
    """Of a mapping such as settings have. Raises ValueError in one sentence."""
    fields = _fields(data, "a route", {"rules", "default"})
    rules = fields.get("rules") or []
    if not isinstance(rules, Sequence) or isinstance(rules, str) or len(rules) > _MOST_RULES:
        raise ValueError(f"rules: a list of at most {_MOST_RULES} is needed")
    return ModelRoute(tuple(_rule(rule) for rule in rules), _model(fields.get("default"), "default"))


def alias(data: Any) -> ModelAlias:
    """Of ``medical@3=90,medical@4=10``, or of a mapping with the sides. Raises ValueError in one sentence."""
    if isinstance(data, str) or (isinstance(data, Mapping) and not {"sides", "shadow"} & data.keys()):
        data = {"sides": data}
    fields = _fields(data, "an alias", {"sides", "shadow"})
    given = fields.get("sides")
    sides = dict(_sides(given)) if isinstance(given, str) else given
    if not isinstance(sides, Mapping) or not 1 <= len(sides) <= _MOST_SIDES:
        raise ValueError(f"1 to {_MOST_SIDES} models with weights are needed, such as a=90,b=10")
    found = tuple((_model(model, "a side"), _weight(weight)) for model, weight in sides.items())
    shadow = fields.get("shadow") or False
    if not isinstance(shadow, bool):
        raise ValueError("shadow: true or false is needed")
    if not any(weight for _, weight in found):
        found = tuple((model, 1.0) for model, _ in found)
    return ModelAlias(found, shadow)


def named(read: Callable[[Any], Named], given: Any) -> dict[str, dict[str, Any]]:
    """The mapping ``given`` of a setting, each checked by ``read`` and as `to_json` writes it. Raises ValueError."""
    if not isinstance(given, Mapping) or len(given) > _MOST_NAMES:
        raise ValueError(f"at most {_MOST_NAMES} names with what each stands for are needed")
    found = {}
    for name, data in given.items():
        try:
            found[check_name(str(name))] = read(data).to_json()
        except ValueError as error:
            raise ValueError(f"{str(name)[:128]}: {error}") from None
    return found


def check_name(name: str) -> str:
    """Raises ValueError."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name[:200]!r} is no name: [A-Za-z0-9._-], 1 to 128 characters")
    return name


def version_of(model: str) -> tuple[str, int] | None:
    """The adapter and the number that ``NAME@N`` means; None for any other name."""
    match = _VERSION.fullmatch(model)
    return (match[1], int(match[2])) if match else None


def _rule(data: Any) -> Rule:
    fields = _fields(data, "a rule", {"model", "keywords", "pattern"})
    words, pattern = fields.get("keywords") or (), fields.get("pattern") or ""
    if isinstance(words, str) or not isinstance(words, Sequence) or len(words) > _MOST_KEYWORDS:
        raise ValueError(f"keywords: a list of at most {_MOST_KEYWORDS} is needed")
    keywords = tuple(str(word).strip() for word in words)
    if not all(0 < len(word) <= _LONGEST_KEYWORD for word in keywords):
        raise ValueError(f"a keyword has 1 to {_LONGEST_KEYWORD} characters")
    if not isinstance(pattern, str) or not (keywords or pattern):
        raise ValueError("a rule has keywords or a pattern")
    if pattern:
        patterns.bounded(pattern)
    if keywords:
        _any_of(keywords)
    return Rule(_model(fields.get("model"), "model"), keywords, pattern)


def _fields(data: Any, what: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} is a mapping with {', '.join(sorted(known))}")
    if unknown := [str(name) for name in data if name not in known]:
        raise ValueError(f"{what} has no {unknown[0][:100]!r}; known: {', '.join(sorted(known))}")
    return data


def _model(name: Any, where: str) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_MODEL:
        raise ValueError(f"{where}: the name of a model is needed")
    return name


def _sides(text: str) -> Iterator[tuple[str, str]]:
    seen = set()
    for part in text.split(","):
        model, separator, weight = part.strip().rpartition("=")
        model, weight = (model, weight) if separator else (weight, "1")
        if model in seen:
            raise ValueError(f"{model!r} is named twice")
        seen.add(model)
        yield model, weight


def _weight(given: Any) -> float:
    try:
        weight = float(given)
    except (TypeError, ValueError):
        weight = -1.0
    if not 0.0 <= weight <= 1e6 or isinstance(given, bool):
        raise ValueError(f"a weight is a number from 0 to a million, not {str(given)[:50]!r}")
    return weight


def _as_pattern(keyword: str) -> str:
    """Finds it in any case; where it begins or ends with a letter of a script with blanks between words, as a whole
    word."""
    keyword = unicodedata.normalize("NFKC", keyword)
    escaped = "".join(c if c.isalnum() else f"\\x{{{ord(c):x}}}" for c in keyword)
    before, after = (patterns.matcher(f"^{_WORD}$")(edge) for edge in (keyword[0], keyword[-1]))
    outside = rf"[^\w]|{_UNSPACED}"
    return f"(?i){f'(?:^|{outside})' if before else ''}{escaped}{f'(?:$|{outside})' if after else ''}"


@functools.lru_cache(2000)
def _any_of(keywords: tuple[str, ...]) -> Callable[[str], bool]:
    return patterns.matcher("|".join(map(_as_pattern, keywords)))
