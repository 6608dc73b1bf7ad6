"""The description of the management API: every route and nothing else, valid, true to what the supervisor checks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from jsonschema import Draft202012Validator

from cluster.api import schemas as commands
from cluster.api.apply import Apply
from cluster.api.jobs import StartJob
from cluster.deployment.setting_changes import Effect
from cluster.fleet.states import WorkerState
from cluster.jobs.record import JobState
from config.settings import Settings
from config.topology import STRATEGIES
from lb.admin.openapi import PATHS, document, text
from lb.admin.openapi.schemas import SCHEMAS
from lbfakes import Balanced

PATH = "/v1/cluster/openapi.json"


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _nodes(item)


def _operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, operation) for path, methods in PATHS.items() for method, operation in methods.items()]


def _validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document()["components"]})


def _is_page(path: str) -> bool:
    """For browsers: no part of the API."""
    return path == "/" or path.split("/")[1] == "ui"


async def test_every_route_of_the_balancer_is_described_and_nothing_else(balancer: Balanced) -> None:
    app = web.Application()
    balancer.parts.admin.add_routes(app.router)
    routes = {
        (route.resource.canonical, route.method.lower())
        for route in app.router.routes()
        if route.resource is not None and route.method not in ("*", "HEAD") and not _is_page(route.resource.canonical)
    }
    assert {(path, method) for path, method, _ in _operations()} == routes


async def test_it_is_served_to_those_who_may_manage_the_cluster(balancer: Balanced) -> None:
    assert await balancer.answer("GET", PATH) == (200, json.loads(text()))
    assert (await balancer.answer("GET", PATH, headers={"Origin": "http://evil.example"}))[0] == 403


def test_it_is_valid_openapi() -> None:
    import schemathesis  # half a second, which only this test needs

    schema = schemathesis.openapi.from_dict(document())
    schema.validate()
    assert {operation.ok().label for operation in schema.get_all_operations()} == {
        f"{method.upper()} {path}" for path, method, _ in _operations()
    }


def test_every_reference_leads_somewhere_and_everything_is_referred_to() -> None:
    names = {node["$ref"] for node in _nodes(document()) if "$ref" in node}
    parts = document()["components"]
    there = {f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in parts[kind]}
    assert names <= there
    assert there - names <= {"#/components/responses/MethodNotAllowed"}, "no operation that is described answers 405"


def test_operations_have_names_of_their_own_and_links_lead_to_them() -> None:
    ids = [operation["operationId"] for _, _, operation in _operations()]
    assert len(ids) == len(set(ids))
    assert {node["operationId"] for node in _nodes(document()) if "operationId" in node} == set(ids)


@pytest.mark.parametrize(("path", "method", "operation"), _operations(), ids=lambda v: v if isinstance(v, str) else "")
def test_an_operation_says_who_may_and_what_may_go_wrong(path: str, method: str, operation: dict[str, Any]) -> None:
    answers = set(operation["responses"])
    public = ("/health", "/metrics", "/v1/models", "/v1/cluster/ui/session")
    if path in public or (path, method) == ("/v1/models/{name}", "get"):
        assert operation["security"] == []
        assert ({"401", "403"} <= answers) == (path in ("/metrics", "/v1/cluster/ui/session"))
        return
    assert "security" not in operation and {"401", "403"} <= answers
    alone = ("/v1/cluster/ui/link", "/v1/cluster/routes/{name}/test")  # no supervisor is asked
    if method != "get" and path not in alone:
        assert "503" in answers
    if "requestBody" in operation:
        assert {"400", "413", "415"} <= answers
    assert ("{" in path) == any(p["in"] == "path" for p in operation.get("parameters", ()))


@pytest.mark.parametrize(("path", "method", "operation"), _operations(), ids=lambda v: v if isinstance(v, str) else "")
def test_examples_are_as_their_schemas_say(path: str, method: str, operation: dict[str, Any]) -> None:
    for content in _nodes(operation):
        if "schema" in content:
            shown = [example["value"] for example in content.get("examples", {}).values()]
            for example in [*shown, *([content["example"]] if "example" in content else [])]:
                _validator(content["schema"]).validate(example)


@pytest.mark.parametrize("response", document()["components"]["responses"].values(), ids=lambda r: r["description"])
def test_errors_have_one_shape(response: dict[str, Any]) -> None:
    content = response["content"]["application/json"]
    _validator(content["schema"]).validate(content["example"])


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("Scale", commands.Scale), ("SetStrategy", commands.SetStrategy), ("Restart", commands.Restart),
        ("Drain", commands.DrainBody), ("Weight", commands.Weight), ("Apply", Apply), ("Shutdown", commands.Shutdown),
        ("LoadAdapter", commands.LoadAdapter), ("UnloadAdapter", commands.UnloadAdapter),
        ("RollbackAdapter", commands.RollbackAdapter), ("StartJob", StartJob),
    ],
)  # fmt: skip
def test_a_request_has_the_fields_that_the_supervisor_takes(name: str, model: Any) -> None:
    ways = SCHEMAS[name].get("oneOf") or SCHEMAS[name].get("anyOf") or [SCHEMAS[name]]
    for way in ways:
        assert set(way["properties"]) == set(model.model_fields)
        assert way["additionalProperties"] is False


def _accepted(model: Any, body: Any) -> bool:
    try:
        commands.parse(model, json.dumps(body).encode())
    except commands.Refused:
        return False
    return True


@pytest.mark.parametrize("body", [
    {"instances": 2}, {"instances": 2.0}, {"instances": 2.5}, {"instances": True}, {"instances": "2"},
    {"instances": -1}, {"instances": None}, {"instances": 2, "action": None}, {"instances": 2, "count": 1},
    {"action": "scale_up"},
    {"action": "scale_up", "count": None}, {"action": "scale_up", "count": 0}, {"action": "grow"}, {}, [], None, 3,
    {"instances": 10**40}, {"instances": 2, "more": 1}, {"action": "scale_down", "count": 2, "instances": None},
])  # fmt: skip
def test_the_schema_of_a_scaling_takes_what_the_supervisor_takes(body: Any) -> None:
    assert _validator(SCHEMAS["Scale"]).is_valid(body) == _accepted(commands.Scale, body)


@pytest.mark.parametrize("body", [
    {"instance_id": "instance_0"}, {"instance_id": None}, {"instance_id": 3}, {"rolling": True}, {"rolling": False}, {},
    {"rolling": True, "spare": None}, {"rolling": True, "spare": False}, {"rolling": 1}, {"rolling": True, "spare": 0},
    {"instance_id": "x", "rolling": True}, {"instance_id": "x", "rolling": False}, {"instance_id": "x", "spare": True},
    {"instance_id": "x", "rolling": None, "spare": None}, {"instance_id": None, "rolling": True},
])  # fmt: skip
def test_the_schema_of_a_restart_takes_what_the_supervisor_takes(body: Any) -> None:
    assert _validator(SCHEMAS["Restart"]).is_valid(body) == _accepted(commands.Restart, body)


def test_words_that_are_listed_are_those_that_are_used() -> None:
    instance = SCHEMAS["Instance"]["properties"]
    assert set(instance["state"]["enum"]) == {*WorkerState, "drained", "spare"}
    assert set(SCHEMAS["Settings"]["properties"]) == set(Settings.model_fields)
    assert SCHEMAS["SetStrategy"]["properties"]["strategy"]["enum"] == ["auto", *STRATEGIES]
    change = SCHEMAS["Applied"]["properties"]["changes"]["items"]["properties"]
    assert set(change["effect"]["enum"]) == set(Effect)
    assert SCHEMAS["Job"]["properties"]["state"]["enum"] == list(JobState)
