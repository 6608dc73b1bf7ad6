"""What lies in deploy/: rules that are tested, a dashboard that is the one its script writes, a compose file in which
everything that it names is there."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from cluster.cli import cli
from config.settings import Settings

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
GRAFANA = DEPLOY / "grafana"

#: Where a secret of compose is found.
KEY_FILE = "/run/secrets/clusterctl_admin_key"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def promtool(*args: str) -> str:
    found = shutil.which("promtool")
    assert found, "promtool is missing: tests/system-packages.sh installs it"
    result = subprocess.run([found, *args], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in read(PROMETHEUS / "rules.yml")["groups"] for rule in group["rules"]}


def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard_build", GRAFANA / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def test_prometheus_takes_the_configuration_and_the_rules(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key")
    (tmp_path / "rules.yml").symlink_to(PROMETHEUS / "rules.yml")
    config = (PROMETHEUS / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(config.replace(KEY_FILE, str(tmp_path / "key")))
    assert "1 rule files found" in promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert f"{len(alerts())} rules found" in promtool("check", "rules", "rules.yml")


def test_compose_gives_prometheus_the_key_that_it_sends() -> None:
    """It is another machine to the cluster, which tells its metrics to none without a key."""
    compose = read(ROOT / "docker-compose.yml")
    (job,) = read(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    assert job["authorization"] == {"credentials_file": KEY_FILE}
    name = Path(KEY_FILE).name
    assert compose["services"]["prometheus"]["secrets"] == [name]
    assert compose["secrets"][name] == {"environment": "CLUSTERCTL_ADMIN_KEY"}


def test_every_alert_fires_when_it_should_and_not_before() -> None:
    assert "SUCCESS" in promtool("test", "rules", "rules.test.yml")


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [case for test in read(PROMETHEUS / "rules.test.yml")["tests"] for case in test["alert_rule_test"]]
    firing = {case["alertname"] for case in cases if case["exp_alerts"]}
    quiet = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert firing == quiet == set(alerts())


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "action"}


@pytest.mark.parametrize("name", [
    "KvCacheFull", "HighFirstTokenLatency", "HighRequestLatency", "QueueLong", "PreemptionStorm", "ThroughputZero",
    "WorkerRestarting", "AdapterDegraded", "ClusterBelowMin",
])  # fmt: skip
def test_what_was_asked_for_is_there(name: str) -> None:
    assert name in alerts()
    assert {"KvCacheFull": "5m", "QueueLong": "2m"}.get(name) in (None, alerts()[name].get("for"))


def test_the_dashboard_is_what_its_script_writes() -> None:
    module = build()
    assert module.OUT.read_text() == module.text(), "run: python deploy/grafana/build.py"


def test_the_dashboards_panels_have_their_place() -> None:
    panels = build().dashboard()["panels"]
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Cluster", "Per worker", "Per adapter and base model", "Balancer"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_grafana_finds_its_source_and_its_dashboard() -> None:
    (source,) = read(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    (provider,) = read(GRAFANA / "provisioning" / "dashboards" / "clusterctl.yml")["providers"]
    assert source["uid"] == build().SOURCE["uid"]
    services = read(ROOT / "docker-compose.yml")["services"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert any(published.endswith(f":{port}") for published in services[host]["ports"])
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in services["grafana"]["volumes"]}
    assert (ROOT / mounted[provider["options"]["path"]] / "clusterctl.json").is_file()
    assert (ROOT / mounted["/etc/grafana/provisioning"] / "datasources").is_dir()


def test_all_that_compose_mounts_is_there_and_its_images_are_pinned() -> None:
    compose = read(ROOT / "docker-compose.yml")
    for name, service in compose["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"
        if "image" in service:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), f"{name}: {service['image']} is not pinned"
        assert "healthcheck" in service, name


def test_either_profile_is_scraped_under_the_name_in_the_scrape_file() -> None:
    services = read(ROOT / "docker-compose.yml")["services"]
    (job,) = read(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    assert job["honor_labels"] is True
    for profile in ("cpu", "gpu"):
        there = {name: service for name, service in services.items() if profile in service["profiles"]}
        scraped = [s for s in there.values() if host in s.get("networks", {}).get("default", {}).get("aliases", ())]
        assert len(scraped) == 1 and any(p.endswith(f":{port}") for p in scraped[0]["ports"])
        assert {"prometheus", "grafana"} < set(there)
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in services["prometheus"]["volumes"]}
    config = next(arg for arg in services["prometheus"]["command"] if arg.startswith("--config.file="))
    folder, _, file = config.removeprefix("--config.file=").rpartition("/")
    assert (ROOT / mounted[folder] / file).is_file()


def test_only_the_machine_itself_reaches_what_compose_publishes() -> None:
    for name, service in read(ROOT / "docker-compose.yml")["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


def test_the_page_about_metrics_names_every_alert_as_it_is() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `([A-Z]\w+)` \| ([^|]+) \| (\w+) \| \S", text, re.MULTILINE)
    assert rows == [
        (name, rule.get("for", "at once"), rule["labels"]["severity"]) for name, rule in alerts().items()
    ]  # fmt: skip


def test_the_page_about_operations_says_what_to_do_about_every_alert() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| ((?:`[A-Z]\w+`(?:, )?)+) \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(alerts())


def test_every_flag_and_setting_that_an_alert_names_is_there() -> None:
    up = cli.get_command(None, "up")  # type: ignore[arg-type]
    flags = {flag for option in up.params for flag in option.opts}
    for name, rule in alerts().items():
        words = rule["annotations"]["action"]
        named = {variable.lower() for variable in re.findall(r"CLUSTERCTL_(\w+)", words)}
        assert set(re.findall(r"(?<![\w-])--[a-z-]+", words)) <= flags | {"--previous"}, name
        assert named <= set(Settings.model_fields), name


def keepalived(text: str, folder: Path) -> str:
    """What it says against a configuration; as that ends with a signal in some containers, its status says nothing."""
    found = shutil.which("keepalived", path="/usr/sbin:/usr/bin")
    assert found, "keepalived is missing: tests/system-packages.sh installs it"
    (folder / "keepalived.conf").write_text(text)
    command = [found, "--config-test", "-f", str(folder / "keepalived.conf")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, start_new_session=True)
    return result.stdout + result.stderr


def test_keepalived_takes_the_recipe(tmp_path: Path) -> None:
    recipe = (DEPLOY / "keepalived" / "keepalived.conf").read_text()
    assert "Line" not in keepalived(recipe, tmp_path)
    assert "Unknown keyword 'track_scripts'" in keepalived(recipe.replace("track_script", "track_scripts"), tmp_path)


def test_grafana_opens_with_the_dashboard() -> None:
    grafana = read(ROOT / "docker-compose.yml")["services"]["grafana"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in grafana["volumes"]}
    assert (ROOT / mounted[str(home.parent)] / home.name).is_file()
