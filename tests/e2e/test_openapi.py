"""The management API does what its description says: schemathesis finds nothing, and nothing is left undescribed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness import Cluster, clusterctl, environment, free_port
from lb.admin.openapi import PATHS, document
from worker.demo import adapter_path

KEY = "a key for everybody here"
JOB = "merge-1"

#: It fails: nothing is there.
MERGE = {"kind": "merge", "arguments": {"model": "/proc/no", "adapter": "/proc/no", "out": "/proc/no/out"}}
TESTS = Path(__file__).resolve().parents[1]
BEARER = {"Authorization": f"Bearer {KEY}"}


#: Streams that nothing in the request can make end: schemathesis would wait for the whole of them.
ENDLESS = {
    operation["operationId"]
    for methods in PATHS.values()
    for operation in methods.values()
    if set(operation["responses"].get("200", {}).get("content", ())) == {"text/event-stream"}
}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("openapi"), free_port())
    args = ("--engine", "sim", "--instances", "2", "--max-instances", "3")
    place = ("--port", str(cluster.port), "--state-dir", str(cluster.state_dir), "--detach")
    result = clusterctl("up", *place, *args, CLUSTERCTL_ADMIN_KEY=KEY)
    assert result.returncode == 0, result.stderr
    made = httpx.post(f"{cluster.url}/v1/cluster/keys", json={"name": "pirate", "scope": "read"}, headers=BEARER)
    assert made.status_code == 201, made.text
    failing = httpx.post(f"{cluster.url}/v1/cluster/jobs", json=MERGE, headers=BEARER)
    assert failing.json()["id"] == JOB, failing.text
    yield cluster
    cluster.close()


def _undescribed(schema: dict[str, Any], value: Any, where: str) -> Iterator[str]:
    """What of ``value`` the schema does not mention."""
    if "$ref" in schema:
        schema = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for way in schema.get("anyOf", ()):
        schema = way if way.get("type") != "null" else schema
    if isinstance(value, list):
        for item in value:
            yield from _undescribed(schema.get("items", {}), item, f"{where}[]")
    elif isinstance(value, dict) and schema.get("properties"):
        for name, field in value.items():
            if name not in schema["properties"]:
                yield f"{where}.{name}"
            else:
                yield from _undescribed(schema["properties"][name], field, f"{where}.{name}")
    elif isinstance(value, dict) and isinstance(schema.get("additionalProperties"), dict):
        for name, field in value.items():
            yield from _undescribed(schema["additionalProperties"], field, f"{where}[{name}]")


def test_the_admin_key_is_asked_of_everybody(keyed: Cluster) -> None:
    url = f"{keyed.url}/v1/cluster/status"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"Authorization": "Bearer wrong"}).status_code == 401
    right = httpx.get(url, headers=BEARER)
    assert right.status_code == 200
    assert httpx.get(f"{keyed.url}/health").status_code == 200
    assert keyed.complete().status_code == 200
    pid = right.json()["instances"]["instance_0"]["pid"]
    assert KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes(), "the admin key is no worker's business"
    shown = clusterctl("status", CLUSTERCTL_URL=keyed.url, CLUSTERCTL_ADMIN_KEY=KEY)
    assert "2 of 2 ready" in shown.stdout
    assert clusterctl("status", CLUSTERCTL_URL=keyed.url).returncode == 1


def test_every_field_of_an_answer_is_described(keyed: Cluster) -> None:
    answered = {}
    for path, methods in PATHS.items():
        content = methods.get("get", {}).get("responses", {}).get("200", {}).get("content", {}).get("application/json")
        if content is not None and "event-stream" not in path:
            url = keyed.url + path.replace("{name}", JOB if "/jobs/" in path else "pirate")
            answer = httpx.get(url, headers=BEARER, timeout=10)
            assert answer.status_code == 200, (path, answer.text)
            answered[path] = sorted(_undescribed(content["schema"], answer.json(), ""))
    assert len(answered) > 5 and not any(answered.values()), answered


_SCALE, _DRAIN = "/v1/cluster/scale", "/v1/cluster/instances/instance_0/drain"
_JSON = {**BEARER, "Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (_SCALE, b"", 400), (_SCALE, b"{", 400), (_SCALE, b'{"instances": 2', 400), (_SCALE, b"null", 400),
        (_SCALE, b'{"instances": NaN}', 400), (_SCALE, b'{"instances": Infinity}', 400),
        (_SCALE, b'{"instances": 1e999}', 400), (_SCALE, b'{"instances": 1e300}', 409),
        (_SCALE, b'{"instances": ' + b"9" * 5000 + b"}", 400), (_SCALE, b'{"instances": "\xff"}', 400),
        (_SCALE, b"\xff\xfe{\x00}\x00", 400), (_SCALE, b"[" * 100_000, 400), (_SCALE, b'{"a":' * 40_000, 400),
        (_SCALE, b'{"\\ud800": 1}', 400), (_SCALE, b'{"instances": 2, "' + b"x" * 200_000 + b'": 1}', 400),
        (_SCALE, b'{"instances": 2, "' + b"x" * 300_000 + b'": 1}', 413),
        (_DRAIN, b'{"grace": NaN}', 400), (_DRAIN, b'{"grace": Infinity}', 400), (_DRAIN, b'{"grace": 1e999}', 400),
        (_DRAIN, b'{"grace": -0.1}', 400), (_DRAIN, b'{"grace": true}', 400),
        ("/v1/cluster/strategy", b'{"strategy": "\\u0000"}', 400),
        ("/v1/load_lora_adapter", b'{"lora_name": "a", "lora_path": "/\\u0000"}', 404),
        ("/v1/load_lora_adapter", b'{"lora_name": "a\\u0000", "lora_path": "/"}', 400),
        ("/v1/load_lora_adapter", b'{"lora_name": "..", "lora_path": "/"}', 400),
        ("/v1/lora_adapters/pirate/rollback", b'{"version": 1e300}', 404),
        ("/v1/cluster/restart", b'{"instance_id": "\\u0000"}', 404),
        ("/v1/cluster/instances/%00/drain", b"{}", 404), ("/v1/cluster/instances/%FF/drain", b"{}", 404),
        ("/v1/cluster/apply", b'{"settings": {"drain_timeout": NaN}, "dry_run": true}', 400),
        ("/v1/cluster/apply", b'{"settings": {"drain_timeout": 1e999}, "dry_run": true}', 400),
        ("/v1/cluster/apply", b'{"settings": {"engine_args": [1, null]}, "dry_run": true}', 400),
        ("/v1/cluster/apply", b'{"settings": {"lora_config": "/\\u0000"}, "dry_run": true}', 200),
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
def test_whatever_comes_is_refused_in_the_usual_shape(keyed: Cluster, path: str, body: bytes, status: int) -> None:
    answer = httpx.post(keyed.url + path, content=body, headers=_JSON, timeout=20)
    assert answer.status_code == status, answer.text[:500]
    if status >= 400:
        assert answer.headers["Content-Type"].startswith("application/json")
        error = answer.json()["error"]
        assert (error["code"], set(error)) == (status, {"message", "type", "param", "code"})
        assert len(answer.content) < 4096


def test_a_method_that_a_path_does_not_take_is_405_with_allow_whatever_comes_with_it(keyed: Cluster) -> None:
    with httpx.Client(base_url=keyed.url, headers=BEARER) as client:
        for path, methods in PATHS.items():
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - {m.upper() for m in methods}:
                answer = client.request(method, path.replace("{name}", "instance_0"))
                assert answer.status_code == 405, (method, path)
                assert {m.upper() for m in methods} <= set(answer.headers["Allow"].split(", "))


def _schemathesis(cluster: Cluster, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
        "--config-file", str(TESTS / "schemathesis.toml"), "run", f"{cluster.url}/v1/cluster/openapi.json",
        "--checks", "all", "--header", f"Authorization: Bearer {KEY}", "--continue-on-failure", "--no-color",
        "--request-timeout", "30", *args,
    ]  # fmt: skip
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    env = environment(
        SCHEMATHESIS_HOOKS="openapi_hooks", PYTHONPATH=path, OPENAPI_ADAPTER=str(adapter_path("pirate"))
    )
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.timeout(300)
def test_schemathesis_finds_nothing(keyed: Cluster, tmp_path: Path) -> None:
    """All but the end of the cluster, which `test_nothing_that_is_wrong_ends_the_cluster` has."""
    left_out = [arg for name in sorted({"shutdown", *ENDLESS}) for arg in ("--exclude-operation-id", name)]
    result = _schemathesis(keyed, tmp_path, *left_out)
    assert result.returncode == 0, result.stdout + result.stderr
    described = sum(len(methods) for methods in PATHS.values())
    tested = described - len(ENDLESS) - 2  # the description itself is not asked for again
    assert f"Tested: {tested}" in result.stdout, result.stdout
    assert "Stateful (not applicable)" not in result.stdout


#: Of the other phases one sends the examples, which are right, and another follows links, of which there are none.
_ONLY_WRONG = ("--include-operation-id", "shutdown", "--mode", "negative", "--phases", "coverage,fuzzing")


def test_nothing_that_is_wrong_ends_the_cluster(keyed: Cluster, tmp_path: Path) -> None:
    result = _schemathesis(keyed, tmp_path, *_ONLY_WRONG)
    assert result.returncode == 0 and "Tested: 1" in result.stdout, result.stdout + result.stderr
    status = httpx.get(f"{keyed.url}/v1/cluster/status", headers=BEARER).json()
    assert status["supervisor"]["shutting_down"] is False


def test_the_end_of_the_cluster_is_as_described(keyed: Cluster) -> None:
    answer = httpx.post(f"{keyed.url}/v1/cluster/shutdown", content=json.dumps({"now": True}), headers=_JSON)
    assert (answer.status_code, answer.json()) == (202, {"shutting_down": True})
