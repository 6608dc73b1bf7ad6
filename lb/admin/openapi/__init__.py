"""`GET /v1/cluster/openapi.json`: the management API, described as OpenAPI 3.1.

`paths_*.py` hold one entry a path, `schemas.py` what answers are made of, `parts.py` what entries are written with. A
new path is one entry in one of the tables below (and its line in the table of `lb/admin/api.py`); a test holds the two
together.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from lb.admin.openapi import (
    paths_adapters,
    paths_cluster,
    paths_jobs,
    paths_joining,
    paths_keys,
    paths_models,
    paths_names,
    paths_system,
)
from lb.admin.openapi.parts import ERRORS, Json
from lb.admin.openapi.schemas import SCHEMAS

#: Everything the balancer answers itself, by path.
PATHS: Mapping[str, Json] = {
    **paths_cluster.PATHS, **paths_adapters.PATHS, **paths_keys.PATHS, **paths_names.PATHS, **paths_system.PATHS,
    **paths_models.PATHS, **paths_jobs.PATHS, **paths_joining.PATHS,
}  # fmt: skip

_ABOUT = """\
One URL for a cluster of workers: see it, scale it, restart it, load adapters.

Who may: where an admin key is set (`CLUSTERCTL_ADMIN_KEY`), whoever sends it as `Authorization: Bearer …` (else 401);
where none is, the user who runs the cluster, and root, on its machine and through no proxy (else 403), or whoever sends
the token in `admin.token` of the state directory. An API key of the scope `admin` may as well, but for what is the
owner's alone; one of the scope `read` may look. A request whose `Host` or `Origin` is another site's is 403.
Bodies are JSON and declared as `application/json` (else 415); unknown fields are refused (400). A method that a path
does not take is 405, with `Allow`. `HEAD` works wherever `GET` does. Changes are answered with 202 when they are
accepted: `GET /v1/cluster/status` shows `supervisor.settled` once they are done. Answers may get further fields."""

_TAGS = (
    ("cluster", "What runs, and changes of it"), ("adapters", "LoRA adapters, on all workers at once"),
    ("models", "Base models, loaded when they are asked for"),
    ("jobs", "Work with an end: training, merging, converting, downloads"),
    ("names", "Routes and aliases: names that clients ask for in place of a model"),
    ("keys", "API keys: who may ask for models, or see and change the cluster"),
    ("system", "Health, models and figures"),
)  # fmt: skip


@functools.cache
def document() -> Json:
    """The whole description; not to be changed."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "clusterctl", "version": _version(), "description": _ABOUT},
        "tags": [{"name": name, "description": words} for name, words in _TAGS],
        "security": [{"adminKey": []}],
        "paths": dict(PATHS),
        "components": {
            "securitySchemes": {
                "adminKey": {
                    "type": "http", "scheme": "bearer",
                    "description": "`CLUSTERCTL_ADMIN_KEY`; without one, `admin.token` of the state directory, which "
                    "the owner of the cluster does not need on its machine. Or an API key, or a session of the page.",
                },
            },
            "schemas": dict(SCHEMAS),
            "responses": dict(ERRORS),
        },
    }  # fmt: skip


@functools.cache
def text() -> bytes:
    """`document` as it is sent."""
    return json.dumps(document()).encode()


def _version() -> str:
    try:
        return version("clusterctl")
    except PackageNotFoundError:  # run from a folder that was not installed
        return "0"
