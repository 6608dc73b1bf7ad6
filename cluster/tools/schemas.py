"""`docs/schemas`: JSON schemas of the files that people write, made from what reads them; for editors. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, BeforeValidator

from config.manifests.schema import HardwareProfile, MachineCondition, ManifestEntry, ModelsFile
from config.models import ModelDefinition
from config.settings import Settings

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT, _SWITCH = {"type": "string"}, {"type": "boolean"}

#: Settings that YAML's on and off are values of.
_SWITCHES = frozenset({"autoscale", "access_log", "worker_log_format"})

#: Which have no form as a text.
_MAPPINGS = frozenset({"models", "routes", "aliases"})


def cluster_yaml() -> dict[str, Any]:
    """Of the file of `--config`."""
    made = _schema("Settings of a clusterctl cluster", Settings, ModelDefinition)
    made["properties"]["models"]["additionalProperties"] = _or(_ref(ModelDefinition), _TEXT)
    made["properties"]["aliases"]["additionalProperties"] = _or({"type": "object"}, _TEXT)
    for properties in (made["properties"], made["$defs"][ModelDefinition.__name__]["properties"]):
        properties["gpus"] = _or(properties["gpus"], {"type": "integer"})
    for name in _SWITCHES:
        made["properties"][name] = _or(made["properties"][name], _SWITCH)
    return made


def models_yaml() -> dict[str, Any]:
    """Of a manifest."""
    made = _schema("Models known by name to clusterctl", ModelsFile, ManifestEntry, HardwareProfile, MachineCondition)
    made["properties"]["models"]["additionalProperties"] = _or(_ref(ManifestEntry), _TEXT)
    return made


#: By the name of the file that each is of.
SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {"cluster": cluster_yaml, "models": models_yaml}


def _schema(title: str, whole: type[BaseModel], *parts: type[BaseModel]) -> dict[str, Any]:
    made = whole.model_json_schema(by_alias=False)
    for model in (whole, *parts):
        node = made if model is whole else made["$defs"][model.__name__]
        node["additionalProperties"] = False
        node["description"] = (model.__doc__ or "").strip().partition("\n")[0]
        node.pop("title", None)
        node["properties"] = {name: _property(model, name, value) for name, value in node["properties"].items()}
    return {"$schema": _DIALECT, "title": title, **made}


def _property(model: type[BaseModel], name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What is made of texts may be written as one."""
    kept = {key: value for key, value in found.items() if key not in ("title", "effect")}
    read = any(isinstance(one, BeforeValidator) for one in model.model_fields[name].metadata)
    texts = [one.get("type") == "string" for one in (kept, *kept.get("anyOf", ()))]
    return kept if not read or any(texts) or name in _MAPPINGS else _or(kept, _TEXT)


def _or(found: Mapping[str, Any], *more: Mapping[str, Any]) -> dict[str, Any]:
    """What is said about it stays outside."""
    about = {key: found[key] for key in ("description", "default") if key in found}
    core = {key: value for key, value in found.items() if key not in about}
    return {"anyOf": [*(core.pop("anyOf", None) or [core]), *more], **about}


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{model.__name__}"}
