"""The page, of what is served: adapters, models, jobs, aliases and routes."""

from __future__ import annotations

import json

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from browser import Page
from harness import Cluster
from uipage import EVIL, EVIL_WORD, MARKS, cell

pytestmark = MARKS

def test_an_adapter_is_loaded_updated_rolled_back_and_unloaded(
    shown: Page, cluster: Cluster, demo_adapters: dict[str, str]
) -> None:
    def line(column: int) -> str:
        return f"#adapter-table tr[data-key='mine'] > :nth-child({column})"

    shown.section("adapters")
    shown.says("#adapter-table tr[data-key='poet'] .pill", "loaded")
    shown.click("#load")
    said = shown.refused("Load an adapter", name="mine", path=f"/nowhere/{EVIL}")
    assert EVIL in said or "/nowhere" in said
    shown.click("#load")
    shown.confirm("Load an adapter", name="mine", path=demo_adapters["pirate"], description=EVIL)
    shown.says(line(3), "loaded")
    assert EVIL in shown.text(line(1)) and shown.text(line(2)) == "1"
    shown.click("[aria-label='Update mine']")
    shown.confirm("Update mine", path=demo_adapters["poet"])
    shown.until(lambda: shown.text(line(2)) == "2", "version 2")
    shown.click("[aria-label='Roll back mine']")
    shown.confirm("Roll back mine?")
    shown.until(lambda: shown.text(line(2)) == "1", "version 1")
    (found,) = [a for a in httpx.get(f"{cluster.url}/v1/lora_adapters").json()["adapters"] if a["lora_name"] == "mine"]
    assert (found["version"], found["state"]) == (1, "loaded")
    shown.click("[aria-label='Unload mine']")
    shown.confirm("Unload mine?")
    shown.until(lambda: not shown.js("return document.querySelector('#adapter-table [data-key=mine]')"), "it is gone")
    assert cluster.complete("mine").status_code == 404


def test_adapters_on_workers_are_a_map(shown: Page, cluster: Cluster) -> None:
    """What is at home, in a slot and under way is in `tests/lb/admin/test_placement.py`."""
    before = cluster.status()["load_balancer_strategy"]
    httpx.post(f"{cluster.url}/v1/cluster/strategy", json={"strategy": "adaptive"}).raise_for_status()
    assert cluster.complete("poet").status_code == 200
    shown.section("adapters")
    spots = "return [...document.querySelectorAll(`#placement-table [data-key='poet'] .spot`)].map((s) => s.ariaLabel)"
    shown.until(lambda: any("in a slot" in (words or "") for words in shown.js(spots)), "it is where it was asked for")
    assert len(shown.js(spots)) == cluster.status()["total_instances"]
    httpx.post(f"{cluster.url}/v1/cluster/strategy", json={"strategy": before}).raise_for_status()
    shown.says("#placement-words", f"Strategy {before}.")


def test_a_model_is_loaded_put_to_sleep_woken_by_a_request_and_unloaded(shown: Page, cluster: Cluster) -> None:
    def of(name: str, label: str) -> str:
        return shown.text(cell(name, label, "model-table"))

    def acts() -> list[str]:
        return str(shown.text("#model-table tr[data-key='second'] .do")).split()

    shown.section("models")
    shown.says("#models .empty", "the one model that it was started with")
    shown.click("#load-model")
    assert "'<img" in shown.refused("Load a model", name=EVIL, path="other")
    shown.click("#load-model")
    assert "did you mean 'sim'" in shown.refused("Load a model", name="second", path="other", engine="simm")
    shown.click("#load-model")
    assert "a whole number" in shown.refused("Load a model", name="second", path="other", instances="two")
    shown.click("#load-model")
    shown.confirm("Load a model", name="second", path=EVIL_WORD, engine="sim")
    shown.until(lambda: of("second", "State") == "up", "it is up", 30)
    assert of("second", "Instances") == "1 of 1" and of("second", "Brought up") == "1"
    assert of("demo", "State") == "up" and "asked when none is named" in of("demo", "Model")
    assert "Unload" not in shown.text("#model-table tr[data-key='demo'] .do")
    assert acts() == ["Try", "Sleep", "Pin", "Unload"]

    shown.click("[aria-label='Pin second']")
    shown.confirm("Pin second?")
    shown.until(lambda: acts() == ["Try", "Unpin"], "what is pinned is not taken away")
    shown.click("[aria-label='Unpin second']")
    shown.confirm("Unpin second?")
    shown.until(lambda: "Sleep" in acts(), "it may be again")
    shown.click("[aria-label='Sleep second']")
    shown.confirm("Put second to sleep?")
    shown.until(lambda: of("second", "State") in ("down", "asleep"), "it sleeps")
    assert cluster.complete("second").status_code == 200
    shown.until(lambda: of("second", "State") == "up", "the request has brought it up")
    shown.click("[aria-label='Unload second']")
    shown.confirm("Unload second?")
    shown.says("#models .empty", "the one model that it was started with", 30)


def test_a_job_is_seen_and_cancelled_and_what_it_says_is_text(shown: Page, cluster: Cluster) -> None:
    shown.section("jobs")
    shown.says("#jobs .empty", "No jobs")
    name = cluster.post("/v1/cluster/jobs", {"kind": "count", "arguments": {"to": 9999, "pause": 0.1}}).json()["id"]
    shown.until(lambda: "count: " in shown.text(cell(name, "How far", "job-table")), "it says how far it is")
    shown.click(f"[aria-label='Cancel {name}']")
    shown.confirm(f"Cancel {name}?")
    shown.until(lambda: shown.text(cell(name, "State", "job-table")) == "cancelled", "it has ended")
    evil = {"kind": "count", "arguments": {"end": "fail", "says": EVIL}}
    failed = cluster.post("/v1/cluster/jobs", evil).json()["id"]
    shown.until(lambda: shown.text(cell(failed, "How far", "job-table")) == EVIL, "it is shown as it is")


def test_a_canary_is_set_judged_and_put_back(shown: Page, cluster: Cluster) -> None:
    def of(side: str, label: str) -> str:
        return shown.text(f"#alias-table tr[data-key='canary\\a {side}'] [data-label='{label}']")

    shown.section("aliases")
    shown.says("#aliases .empty", "There are no aliases and no routes")
    shown.click("#set-alias")
    assert "is no name" in shown.refused("Set an alias", name=EVIL, sides="pirate=50")
    shown.click("#set-alias")
    assert EVIL_WORD in shown.refused("Set an alias", name="canary", sides=f"pirate=50,{EVIL_WORD}=50")
    shown.click("#set-alias")
    shown.confirm("Set an alias", name="canary", sides="pirate=50, poet=50")
    shown.until(lambda: of("pirate", "Weight") == "50 (50 %)", "its sides are there")
    shown.says("#counted", "since the balancers were started")
    shown.click("#count-now")
    shown.says("#counted", "Counted since")
    for user in range(20):
        assert cluster.complete("canary", user=f"user-{user}").status_code == 200
    shown.until(lambda: of("pirate", "Requests") == of("poet", "Requests") == "10", "each has its share")
    assert of("poet", "Errors") == "0 (0 %)" and "ms" in of("poet", "First token")
    shown.click("#count-all")
    shown.until(lambda: int(of("pirate", "Requests")) >= 10, "all are counted")

    shown.click("[aria-label='Change canary']")
    shown.confirm("Change canary", sides="pirate=100,poet=0")
    shown.until(lambda: of("poet", "Weight") == "0 (0 %)", "it is changed")
    shown.click("[aria-label='Undo canary']")
    shown.confirm("Put canary back?")
    shown.until(lambda: of("poet", "Weight") == "50 (50 %)", "it is put back")
    shown.click("[aria-label='Change canary']")
    shown.click("#dialog-shadow")
    shown.confirm("Change canary")
    assert cluster.ask("GET", "/v1/cluster/aliases").json()["aliases"]["canary"]["shadow"] is True
    shown.click("[aria-label='Delete canary']")
    shown.confirm("Delete canary?")
    shown.says("#aliases .empty", "There are no aliases and no routes")


def test_figures_are_read_as_prometheus_has_them(shown: Page) -> None:
    name = "clusterctl_model_time_to_first_token_seconds_bucket"
    series = [(r"a\"b\\c\nd", "0.1", 1), (r"a\"b\\c\nd", "0.2", 3), (r"a\"b\\c\nd", "+Inf", 4), ("other", "+Inf", 9)]
    lines = [f'{name}{{model="{model}",le="{le}"}} {value}' for model, le, value in series]
    text = "\n".join(["# TYPE x counter", 'vllm:other{model="a"} 7', *lines, ""])
    found = shown.js(
        "const [text, name, model] = arguments; return import('./figures.js').then((m) => { const r = m.read(text);"
        " return [r.size, m.quantile(r, name, {model}, 0.5), m.quantile(r, name, {model}, 0.99),"
        " m.quantile(m.since(r, r), name, {model}, 0.5), m.sum(r, name, {model: 'other'})]; })",
        text, name, 'a"b\\c\nd',
    )  # fmt: skip
    assert found == [4, pytest.approx(150), 200, None, 9]


def test_a_route_is_set_and_tried(shown: Page, cluster: Cluster) -> None:
    rules = [{"keywords": ["账单", EVIL], "model": "pirate"}, {"pattern": "(?i)ode", "model": "poet"}]
    shown.section("aliases")
    shown.click("#set-route")
    assert "JSON" in shown.refused("Set a route", name="finance", rules="[", default="demo")
    shown.click("#set-route")
    shown.confirm("Set a route", name="finance", rules=json.dumps(rules), default="demo")
    shown.says(cell("finance", "Rules", "route-table"), f"账单, {EVIL} → pirate")
    shown.fill("#try-text", "我的账单")
    shown.keys(Keys.ENTER)
    shown.says("#try-said", "pirate: rule 1, keyword '账单'")
    shown.fill("#try-text", f"say {EVIL}")
    shown.keys(Keys.ENTER)
    shown.says("#try-said", "onerror")
    assert cluster.complete("finance").status_code == 200
    shown.says(cell("finance", "Chosen", "route-table"), "demo 1")
    shown.click("[aria-label='Delete finance']")
    shown.confirm("Delete finance?")
    shown.until(lambda: "finance" not in shown.text("#route-table"), "it is gone")
