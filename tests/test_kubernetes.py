"""What lies in deploy/kubernetes/: the chart, what it renders to, and examples. Rendered by helm itself, and held to
the schemas that Kubernetes publishes (those of the package kubernetes-validate): an unknown field is an error."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from config import settings
from config.settings import Settings
from lb.protocol import routes
from worker.drivers.kubernetes.pods import PORT
from worker.drivers.remote import protocol

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "kubernetes"
PLAIN = FOLDER / "clusterctl.yaml"
EXAMPLES = sorted((FOLDER / "examples").glob("*.yaml"))

#: Of resources that Kubernetes itself does not know.
_FOREIGN = ("monitoring.coreos.com/v1", "keda.sh/v1alpha1")

#: How the plain manifests are made.
_RENDER = ("template", "clusterctl", "deploy/kubernetes/chart", "--namespace", "clusterctl")
_PLAIN = (*_RENDER, "--set", "secret.name=clusterctl-keys")


def helm(*args: str, given: str | None = None) -> str:
    beside = Path(sys.executable).with_name("helm")
    found = str(beside) if beside.exists() else shutil.which("helm")
    assert found, "helm is missing: tests/helm.sh puts it there"
    result = subprocess.run(
        [found, *args], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, input=given
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one is not None]


#: Everything that can be turned on, and settings of several models.
_ALL = {
    "image": {"repository": "registry.example/clusterctl", "tag": "1"}, "imagePullSecrets": [{"name": "pull"}],
    "config": {"engine": "sim", "models": {"a": {"path": "demo", "instances": 2}}, "autoscale": "on"},
    "supervisor": {
        "storage": {"size": "1Gi", "className": "fast"}, "nodeSelector": {"pool": "cpu"},
        "service": {"type": "LoadBalancer", "port": 443, "annotations": {"a": "b"}},
        "tolerations": [{"key": "k", "operator": "Exists"}], "extraEnv": [{"name": "HF_TOKEN", "value": "x"}],
    },
    "workers": {
        "scale": False, "runtimeClassName": "nvidia", "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "extraEnv": [{"name": "HF_HOME", "value": "/models"}],
    },
    "models": {"claim": "models"}, "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"team": "x"}}}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> dict[str, dict[str, Any]]:
    return by_name(documents(PLAIN.read_text()))


def test_values_of_the_recipe_for_aks_render_to_what_there_is() -> None:
    for one in documents(helm(*_RENDER, "--values", "deploy/azure/aks.yaml")):
        kubernetes_validate.validate(one, "1.37", strict=True)


@pytest.fixture(scope="module")
def full() -> dict[str, dict[str, Any]]:
    return by_name(documents(helm(*_RENDER, "--values", "-", given=yaml.safe_dump(_ALL))))


def by_name(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    made = {f"{one['kind']}/{one['metadata']['name']}": one for one in found}
    assert len(made) == len(found)
    return made


def test_the_plain_manifests_are_what_the_chart_renders_to() -> None:
    assert PLAIN.read_text() == helm(*_PLAIN), f"run: helm {' '.join(_PLAIN)} > {PLAIN.relative_to(ROOT)}"


def test_helm_finds_nothing_wrong() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", "deploy/kubernetes/chart")


@pytest.mark.parametrize("version", ["1.32", "1.37"])
def test_every_manifest_is_as_published_schemas_have_it(version: str, full: dict[str, dict[str, Any]]) -> None:
    examples = [one for path in EXAMPLES for one in documents(path.read_text())]
    checked = 0
    for one in [*documents(PLAIN.read_text()), *full.values(), *examples]:
        if one["apiVersion"] not in _FOREIGN:
            kubernetes_validate.validate(one, version, strict=True)
            checked += 1
    assert checked > 25


def test_a_field_that_does_not_exist_would_be_found(plain: dict[str, dict[str, Any]]) -> None:
    workers = plain["StatefulSet/clusterctl-worker"]
    wrong = {**workers, "spec": {**workers["spec"], "replica": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_the_settings_in_values_are_those_of_a_cluster(
    full: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cluster.yaml").write_text(full["ConfigMap/clusterctl"]["data"]["cluster.yaml"])
    (tmp_path / "demo").mkdir()
    for name, value in _environment(full["StatefulSet/clusterctl"]):
        if name.startswith("CLUSTERCTL_"):
            monkeypatch.setenv(name, value)
    got = settings.load({}, tmp_path / "cluster.yaml")
    assert (got.engine, got.autoscale, got.models["a"].instances) == ("sim", "on", 2)
    assert (got.driver, got.kubernetes_workers, got.kubernetes_scale) == ("kubernetes", "clusterctl-worker", False)
    assert (got.host, got.port, got.leave_workers, got.admin_key) == ("0.0.0.0", 8000, True, "of-the-secret")


def test_every_variable_of_ours_is_a_setting(plain: dict[str, dict[str, Any]]) -> None:
    names = [name for name, _ in _environment(plain["StatefulSet/clusterctl"])]
    assert len(names) > 6
    assert {name.removeprefix("CLUSTERCTL_").lower() for name in names} <= Settings.model_fields.keys()


def _environment(one: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for entry in _container(one)["env"]:
        yield entry["name"], entry.get("value", "of-the-secret")


def _container(one: dict[str, Any]) -> dict[str, Any]:
    (found,) = one["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_the_supervisor_may_do_no_more_than_it_does(plain: dict[str, dict[str, Any]]) -> None:
    assert plain["Role/clusterctl"]["rules"] == [
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
        {
            "apiGroups": ["apps"], "resources": ["statefulsets/scale"], "resourceNames": ["clusterctl-worker"],
            "verbs": ["get", "patch"],
        },
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]},
    ]  # fmt: skip
    own = plain["StatefulSet/clusterctl"]["spec"]["template"]["spec"]
    workers = plain["StatefulSet/clusterctl-worker"]["spec"]["template"]["spec"]
    assert own["automountServiceAccountToken"] and own["serviceAccountName"] == "clusterctl"
    assert workers["automountServiceAccountToken"] is False and "serviceAccountName" not in workers


def test_whatever_selects_pods_selects_those_it_means(plain: dict[str, dict[str, Any]]) -> None:
    for name in ("clusterctl", "clusterctl-worker"):
        labels = plain[f"StatefulSet/{name}"]["spec"]["template"]["metadata"]["labels"]
        assert plain[f"StatefulSet/{name}"]["spec"]["selector"]["matchLabels"] == labels
        assert plain[f"Service/{name}"]["spec"]["selector"] == labels
        assert plain[f"PodDisruptionBudget/{name}"]["spec"]["selector"]["matchLabels"] == labels
        assert plain[f"NetworkPolicy/{name}"]["spec"]["podSelector"]["matchLabels"] == labels
        assert plain[f"StatefulSet/{name}"]["spec"]["serviceName"] == name
    (rule,) = plain["NetworkPolicy/clusterctl-worker"]["spec"]["ingress"]
    supervisor = plain["StatefulSet/clusterctl"]["spec"]["template"]["metadata"]["labels"]
    assert rule["from"] == [{"podSelector": {"matchLabels": supervisor}}]


def test_workers_are_found_by_their_service_before_they_are_ready(plain: dict[str, dict[str, Any]]) -> None:
    service, container = plain["Service/clusterctl-worker"]["spec"], _container(plain["StatefulSet/clusterctl-worker"])
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    (port,), (listened,) = service["ports"], container["ports"]
    assert port["name"] == PORT == listened["name"] and port["port"] == listened["containerPort"]
    assert container["command"] == ["python", "-m", "worker.agent.pod"]
    home, host, number, key, lease = container["args"]
    assert int(number) == port["port"] and host == "$(POD_IP)" and float(lease) >= 10
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert any(home.startswith(mount + "/") for mount in mounts) and str(Path(key).parent) in mounts
    assert "replicas" not in plain["StatefulSet/clusterctl-worker"]["spec"], "an upgrade would undo what was scaled"


def test_probes_ask_what_means_ready(plain: dict[str, dict[str, Any]]) -> None:
    asked = {name: _container(plain[f"StatefulSet/{name}"])["readinessProbe"]["httpGet"] for name in
             ("clusterctl", "clusterctl-worker")}  # fmt: skip
    assert asked["clusterctl-worker"] == {"path": protocol.READY, "port": "agent"}
    assert asked["clusterctl"] == {"path": "/health", "port": "http"}
    assert "/health" in routes._OPEN, "a probe has no key"


def test_no_key_is_in_a_manifest_and_one_that_was_made_is_random() -> None:
    assert "Secret/" not in "".join(by_name(documents(PLAIN.read_text())))
    made = [by_name(documents(helm(*_RENDER)))["Secret/clusterctl"]["data"] for _ in range(2)]
    assert made[0].keys() == {"admin-key", "agent-key"}
    assert len({value for one in made for value in one.values()}) == 4


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_scale_our_pods_by_metrics_that_there_are(path: Path, plain: dict[str, dict[str, Any]]) -> None:
    (one,) = documents(path.read_text())
    target = one["spec"]["scaleTargetRef"]
    assert f"{target['kind']}/{target['name']}" in plain
    known = re.findall(r"`(clusterctl_\w+)`", (ROOT / "docs" / "metrics.md").read_text())
    named = re.findall(r"clusterctl_\w+", path.read_text())
    assert named and set(named) <= set(known)
