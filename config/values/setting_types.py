"""The forms that settings are written in: types whose checks say in one sentence what is wrong, and what a change of
one does. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from config import model_names
from config.identity.secret import clean
from config.model_names import NAME
from config.topology import AUTO_STRATEGY, STRATEGIES
from config.values import discovery, schedule
from config.values.references import is_reference, parse
from config.values.store_url import StoreUrl

#: Other programs' words for what is logged, by ours; numbers are those of Python's logging.
_LEVELS = {
    "warn": "warning", "err": "error", "critical": "error", "fatal": "error", "trace": "debug", "notset": "debug",
    "10": "debug", "20": "info", "30": "warning", "40": "error", "50": "error",
}  # fmt: skip

#: Flags of the engine that the cluster sets itself.
OWNED_ENGINE_FLAGS = ("--host", "--port", "--api-key", "--uds")

#: Of memory, as people write it.
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([kmgtKMGT])(?:i?[bB])?|[bB])?")

#: Of a header, as `forward_headers` takes it.
_HEADER = re.compile(r"[a-z0-9-]{1,64}")

_ORIGIN = re.compile(r"(?!https:.*:443$|http:.*:80$)[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")

#: Headers of a request that never go on as the client wrote them.
OWN_HEADERS = frozenset(
    {
        "host", "content-length", "expect", "authorization", "x-api-key", "x-request-id", "x-forwarded-for",
        "x-forwarded-proto", "x-forwarded-host", "forwarded", "connection", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


def _not_empty(value: Any) -> Any:
    """An empty host would be every address, an empty path the working directory."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("it is empty")
    return value


def _comma_list(value: Any) -> Any:
    return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value


def _engine(value: Any) -> Any:
    """llama.cpp has as many spellings as users."""
    return "llamacpp" if isinstance(value, str) and value in ("llama_cpp", "llama-cpp", "llama.cpp") else value


def _any_case(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _level(value: Any) -> Any:
    return value if isinstance(value, bool) else _LEVELS.get(str(value).strip().lower(), _any_case(value))


def _size(value: Any) -> Any:
    """A number with K, M, G or T, of 1,024 each."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(float(match[1]) * 1024 ** "_kmgt".index((match[2] or "_").lower()))
    if isinstance(value, str):
        raise ValueError(f"bytes such as 1048576, 512M or 1.5G are needed, not {value!r}")
    return value


def _share(value: Any) -> Any:
    """YAML reads on and off as booleans."""
    word = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value).strip().lower()
    if word in ("on", "off", "errors"):
        return word
    try:
        share = float(word)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"off, errors, on or a share from 0 to 1 is needed, not {value!r}")
    return "errors" if share == 0.0 else "on" if share == 1.0 else f"{share:g}"


def part(value: Any) -> float | None:
    """A share above 0, or percents of the whole; None stays. Raises ValueError."""
    if value is None:
        return None
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise ValueError(f"a share above 0 and up to 1 such as 0.8, or 80%, is needed, not {value!r}")
    return share


def _mode(value: Any) -> Any:
    return value.strip().lower().replace("-", "_") if isinstance(value, str) else value


def _lines(value: Any) -> Any:
    """Others switch JSON lines on and off."""
    return {"on": "json", "off": "text"}.get(_switch(value), _any_case(value))


def _switch(value: Any) -> Any:
    """YAML reads on and off as booleans, and other people's set-ups say true and false."""
    word = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value).strip().lower()
    return {"true": "on", "1": "on", "yes": "on", "false": "off", "0": "off", "no": "off"}.get(word, word)


def _collector(value: str | None) -> str | None:
    if value is not None and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
        raise ValueError(f"{value!r} is no URL such as http://127.0.0.1:4318")
    return value


def _key(value: str | None) -> str | None:
    return clean(value) if value else None


def _store(value: str | None) -> str | None:
    if value is not None:
        StoreUrl.parse(value)
    return value


def _words(value: Any) -> Any:
    return tuple(value.split()) if isinstance(value, str) else value


def _gpu_list(value: Any) -> Any:
    if isinstance(value, int):
        return (value,)
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"\d+(,\d+)*", value.strip()):
        raise ValueError("a list of GPU indices such as 0,1 is needed")
    return tuple(int(v) for v in value.split(","))


def _gpus_once(value: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if value is not None and len(set(value)) != len(value):
        raise ValueError("a GPU is named twice")
    return value


def _named_count(value: str) -> str:
    name, _, count = value.rpartition("=")
    if not name or not count.isdecimal() or not 0 < int(count) < 10**9:
        raise ValueError(f"NAME=N is needed, N at least 1, not {value!r}")
    return value


def _lora_pairs(value: Any) -> Any:
    pairs = value.split(",") if isinstance(value, str) else value
    if not isinstance(pairs, list | tuple):
        return value
    result: dict[str, str] = {}
    for pair in pairs:
        name, separator, path = str(pair).partition("=")
        if not separator or not path:
            raise ValueError(f"NAME=PATH is needed, not {pair!r}")
        if name in result:
            raise ValueError(f"the adapter name {name!r} is given twice")
        result[name] = path
    return result


def _amounts(value: Any) -> Any:
    """A JSON object, or NAME=NUMBER and more of them after commas."""
    found = _words_by_name(value)
    if not isinstance(found, Mapping):
        return value
    try:
        amounts = {str(name): float(amount) for name, amount in found.items()}
    except (TypeError, ValueError):
        raise ValueError('names and numbers are needed, as GPU=2 or {"accelerator_type:H100": 0.001}') from None
    if wrong := [name for name, amount in amounts.items() if not 0.0001 <= amount <= 1_000_000]:
        raise ValueError(f"{wrong[0]}: a number from 0.0001 on is needed")
    return amounts


def _words_by_name(value: Any) -> Any:
    """A JSON object, or NAME=VALUE and more of them after commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    pairs = [pair.strip().partition("=") for pair in value.split(",") if pair.strip()]
    if not all(name and separator and text for name, separator, text in pairs):
        raise ValueError(f"NAME=VALUE is needed, not {value!r}")
    return {name: text for name, _, text in pairs}


def _lora_names(value: dict[str, str]) -> dict[str, str]:
    for name, path in value.items():
        if is_reference(path):
            parse(path)
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no adapter name: [A-Za-z0-9._-], 1 to 128 characters")
    return value


def _reference(value: str | None) -> str | None:
    """A path and a name stay as they are."""
    if value is not None and is_reference(value):
        parse(value)
    return value


def _network(network: str) -> str:
    try:
        ipaddress.ip_network(network, strict=False)
    except ValueError:
        raise ValueError(f"{network!r} is no address or network such as 10.0.0.0/8") from None
    return network


def _origin(origin: str) -> str:
    """As browsers write it: no path, no default port, lower case."""
    if origin != "*" and not _ORIGIN.fullmatch(origin := origin.strip().lower()):
        raise ValueError(f"{origin!r} is no origin such as https://app.example or http://localhost:3000, nor *")
    return origin


def _path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is no path: it has to begin with /")
    return path


def _header(name: str) -> str:
    name = name.lower()
    if not _HEADER.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a header: letters, digits and hyphens are")
    if name in OWN_HEADERS:
        raise ValueError(f"{name} is read or written by the balancer itself and never passed on")
    return name


def _not_owned(word: str) -> str:
    flag = word.split("=", 1)[0].replace("_", "-")
    # Its parser takes a flag's beginning for the flag.
    if len(flag) > 3 and any(owned.startswith(flag) for owned in OWNED_ENGINE_FLAGS):
        raise ValueError(f"{flag} is set by the cluster itself and cannot be given to the engine")
    return word


def _each(check: Callable[[str], str]) -> AfterValidator:
    return AfterValidator(lambda values: tuple(check(value) for value in values))


def _named(read: Callable[[Any], model_names.Named]) -> BeforeValidator:
    return BeforeValidator(lambda given: model_names.named(read, given))


_NOT_EMPTY = BeforeValidator(_not_empty)

Text = Annotated[str, _NOT_EMPTY]
EngineName = Annotated[str, _NOT_EMPTY, BeforeValidator(_engine)]
TextOrNone = Annotated[str | None, _NOT_EMPTY]
ModelPlace = Annotated[str, _NOT_EMPTY, AfterValidator(_reference)]
ModelPlaceOrNone = Annotated[str | None, _NOT_EMPTY, AfterValidator(_reference)]
PathOrNone = Annotated[Path | None, _NOT_EMPTY]
Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_list)]
Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_comma_list)]
Networks = Annotated[Texts, _each(_network)]
Routes = Annotated[Texts, _each(_path)]
Discoveries = Annotated[Texts, _each(lambda text: str(discovery.parse(text)))]
Origins = Annotated[Texts, _each(_origin)]
Headers = Annotated[Texts, _each(_header)]
NamedCounts = Annotated[Texts, _each(_named_count)]
ModelRoutes = Annotated[dict[str, dict[str, Any]], _named(model_names.route)]
ModelAliases = Annotated[dict[str, dict[str, Any]], _named(model_names.alias)]
EngineArgs = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words), _each(_not_owned)]
Adapters = Annotated[dict[str, str], NoDecode, BeforeValidator(_lora_pairs), AfterValidator(_lora_names)]
Amounts = Annotated[dict[str, float], NoDecode, BeforeValidator(_amounts)]
WordsByName = Annotated[dict[str, str], NoDecode, BeforeValidator(_words_by_name)]
Gpus = Annotated[tuple[int, ...] | None, NoDecode, BeforeValidator(_gpu_list), AfterValidator(_gpus_once)]
Size = Annotated[int | None, BeforeValidator(_size)]
SizeGiven = Annotated[int, BeforeValidator(_size)]
Key = Annotated[str | None, AfterValidator(_key)]
Store = Annotated[str | None, _NOT_EMPTY, AfterValidator(_store)]
Collector = Annotated[str | None, AfterValidator(_collector)]
MinInstances = Annotated[int | str, NoDecode, BeforeValidator(schedule.normal)]
Autoscale = Annotated[Literal["off", "advise", "on"], BeforeValidator(_switch)]
DriverName = Annotated[Literal["local", "ray", "kubernetes"], BeforeValidator(_any_case)]
Zygote = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)]
Share = Annotated[float | None, BeforeValidator(part)]
InferenceMode = Annotated[Literal["single", "multi_instance", "load_balance"] | None, BeforeValidator(_mode)]
AccessLog = Annotated[str, BeforeValidator(_share)]
Strategy = Annotated[Literal[STRATEGIES], BeforeValidator(_any_case)]  # type: ignore[valid-type]
ClusterStrategy = Annotated[
    Literal[(AUTO_STRATEGY, *STRATEGIES)], BeforeValidator(_any_case)  # type: ignore[valid-type]
]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_level)]
LogLevelOrNone = Annotated[
    Literal["debug", "info", "warning", "error"] | None, BeforeValidator(lambda value: value and _level(value))
]
WorkerLogFormat = Annotated[Literal["text", "json"], BeforeValidator(_lines)]
LogFormat = Annotated[Literal["text", "json"], BeforeValidator(_any_case)]


class Effect(StrEnum):
    """What a change of a setting on a running cluster means, in the words people are told."""

    AT_ONCE = "at once"
    WORKERS = "rolling restart of the workers"
    BALANCER = "replacement of the balancer"
    NEVER = "not on a running cluster"


def _changed(effect: Effect) -> Callable[..., Any]:
    """What makes the fields of settings whose change has that ``effect``."""

    def setting(default: Any, meaning: str, **limits: Any) -> Any:
        return Field(default, description=meaning, json_schema_extra={"effect": effect}, **limits)

    return setting


at_once, workers, balancer, fixed = map(_changed, Effect)
