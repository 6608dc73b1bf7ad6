"""The page, in a real browser: what it shows is so, what it does is done. Real processes, simulated engine.

`PAGE_SCREENSHOTS=sim` (or `vllm`, for answers that make sense) writes docs/screenshots/, after minutes of load; else
the pictures are made with little in their charts, and thrown away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from browser import CHROMIUM, DRIVER, Page, browser
from config.text import printable
from harness import Cluster, clusterctl, free_port, kill, poll

# `make test` installs them where it may; where it all has to run, a browser that is missing is a failure.
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER) and "CI" not in os.environ, reason="needs chromium and chromedriver"
    ),
]

SCREENSHOTS = os.environ.get("PAGE_SCREENSHOTS", "")
SECTIONS = (
    "overview", "playground", "models", "adapters", "jobs", "aliases", "keys", "usage", "events", "logs", "audit"
)
#: Without blanks, for what may have none.
#: A kind of jobs that only tests have.
KINDS = os.pathsep.join(str(Path(__file__).parents[1] / folder) for folder in ("jobkinds", "absent"))
EVIL_WORD = "<img/src=x/onerror=window.hacked='yes'>"
EVIL = "<img src=x onerror=\"window.hacked='yes'\"><script>window.hacked='yes'</script>"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, demo_adapters: dict[str, str]) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("page"), free_port())
    lora = [word for name, path in demo_adapters.items() for word in ("--lora", f"{name}={path}")]
    result = made.up("--engine", "sim", "--instances", "2", "--max-instances", "3", *lora, "--", "--itl-ms", "25",
                     PYTHONPATH=KINDS)  # fmt: skip
    assert result.returncode == 0, result.stderr
    made.wait_ready(2)
    yield made
    made.close()


@pytest.fixture
def shown(page: Page, cluster: Cluster) -> Iterator[Page]:
    """The page of the cluster, live. Afterwards nothing may have been complained of or fetched from elsewhere."""
    page.size(1400, 1000)
    page.open(f"{cluster.url}/ui/")
    page.says("#link", "live")
    yield page
    clean(page, cluster.url)


def clean(page: Page, url: str) -> None:
    assert page.complaints() == []
    elsewhere = {asked for asked in page.requested() if not asked.startswith((f"{url}/", "data:", "about:", "chrome:"))}
    assert elsewhere == set()
    assert page.js("return window.hacked ?? null") is None


def row(name: str, column: str = "") -> str:
    return f"#instances tr[data-key='{name}'] {column}"


def test_a_browser_is_led_to_it_and_sees_every_instance(page: Page, cluster: Cluster) -> None:
    page.requested()
    page.open(f"{cluster.url}/")
    assert page.driver.current_url == f"{cluster.url}/ui/"
    page.says("#health", "2 of 2 ready")
    assert page.text("#what") == "demo"
    for name in ("instance_0", "instance_1"):
        assert page.text(row(name, ".state")).strip() == "ready"
        page.until(lambda name=name: page.text(row(name, ".memory")).endswith("MiB"), "its memory is sampled")  # type: ignore[misc]
    page.says("#latest", "instance_1 ready after")
    clean(page, cluster.url)


def test_scaled_up_the_new_instance_is_seen_to_turn_ready(shown: Page, cluster: Cluster) -> None:
    shown.click("button[data-by='1']")
    shown.click("#scale button[type=submit]")
    shown.confirm("Scale to 3 instances?")
    shown.says(row("instance_2", ".state"), "ready")
    shown.says("#health", "3 of 3 ready")
    assert cluster.wait_ready(3)["running_instances"] == 3


def test_what_the_cluster_refuses_is_said_in_its_words(shown: Page, cluster: Cluster) -> None:
    shown.fill("#scale-to", "99")
    shown.click("#scale button[type=submit]")
    assert "99 instances are outside 1..3" in shown.refused("Scale to 99 instances?")
    assert cluster.status()["total_instances"] == 3
    assert shown.js("return document.getElementById('scale-to').value") == "3"


def test_a_change_that_nobody_waits_for_is_told_beside_the_next_question(shown: Page) -> None:
    shown.js(
        "const real = fetch; window.fetch = (url, options) => options?.method !== 'POST' ? real(url, options)"
        " : new Promise((_, fail) => { window.endChange = fail; });"
    )
    shown.click("#rolling")
    shown.asked("Restart all instances")
    shown.click("#dialog-go")
    shown.until(lambda: shown.js("return Boolean(window.endChange)"), "it is asked for")
    shown.click("#dialog-cancel")
    shown.click(row("instance_0", "[data-do=restart]"))
    shown.asked("Restart instance_0?")
    assert shown.js("return document.getElementById('dialog-go').disabled") is False
    shown.js("window.endChange(new Error('late'))")
    shown.says("#toasts", "the cluster does not answer")
    assert shown.text("#dialog-error") == ""
    shown.click("#dialog-cancel")


def test_the_strategy_is_switched(shown: Page, cluster: Cluster) -> None:
    shown.choose("#strategy", "round_robin")
    shown.asked("Switch the strategy to round_robin?")
    shown.click("#dialog-cancel")
    strategy = "return document.getElementById('strategy').value"
    shown.until(lambda: shown.js(strategy) == "least_connections", "as it was")
    shown.choose("#strategy", "round_robin")
    shown.confirm("Switch the strategy to round_robin?")
    assert cluster.status()["load_balancer_strategy"] == "round_robin"
    shown.says("#latest", "strategy round_robin")


def test_two_adapters_answer_side_by_side(shown: Page, cluster: Cluster) -> None:
    shown.section("playground")
    panes = {"A": "pirate", "B": "poet"}
    for side, name in panes.items():
        shown.until(lambda side=side, name=name: chosen(shown, side) == name, f"{name} in pane {side}")
    shown.fill("#system", "You're terse; \"quotes\" and $HOME.")
    shown.fill("#max-tokens", "40")
    shown.fill("#prompt", "What is clusterctl?")
    shown.keys(Keys.ENTER)
    answers = {}
    for side, name in panes.items():
        numbers = shown.says(f"[data-numbers={side}]", "tokens/s", 30)
        shown.until(lambda: not shown.js("return document.getElementById('send').disabled"), "both are done", 30)
        numbers = shown.text(f"[data-numbers={side}]")
        assert "first token" in numbers and " tokens in " in numbers
        answers[name] = shown.js(f"return document.querySelector('[data-pane={side}] .answer').textContent")
        body = {"model": name, "temperature": 0, "max_tokens": 40, "messages": [
            {"role": "system", "content": "You're terse; \"quotes\" and $HOME."},
            {"role": "user", "content": "What is clusterctl?"}]}  # fmt: skip
        told = cluster.post("/v1/chat/completions", body).json()
        assert answers[name] == told["choices"][0]["message"]["content"]
        assert f"{told['usage']['completion_tokens']} tokens in" in numbers
    assert answers["pirate"] != answers["poet"]
    shown.click("[data-pane=B] .card-head button:nth-of-type(1)")
    shown.says("#code-title", "poet with curl")
    command = ["bash", "-c", shown.text("#code-text") + " -s"]
    streamed = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert joined(streamed.stdout) == answers["poet"], streamed.stderr
    shown.click("#code-close")
    shown.click("[data-pane=A] .card-head button:nth-of-type(2)")
    shown.says("#code-title", "pirate with Python")
    program = shown.text("#code-text")
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert printed.stdout == answers["pirate"] + "\n", printed.stderr
    shown.click("#code-copy")
    shown.says("#code-copy", "Copied")
    shown.click("#code-close")


def chosen(page: Page, side: str) -> str:
    return str(page.js("return document.getElementById(arguments[0]).value", f"model-{side}"))


def joined(stream: str) -> str:
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


def test_an_answer_is_stopped_and_an_error_is_told(shown: Page) -> None:
    shown.section("playground")
    shown.click("#compare")
    shown.until(lambda: chosen(shown, "A") == "pirate", "models are known")
    shown.fill("#prompt", "What is clusterctl?")  # the simulated pirate has 129 tokens to say to that
    shown.click("#send")
    shown.until(lambda: shown.text("[data-pane=A] .answer"), "the first words")
    shown.click("#stop")
    shown.says("[data-numbers=A]", "stopped")
    shown.click("#clear")
    # Cleared while it is answered, a conversation is forgotten: the next one begins without it.
    shown.fill("#prompt", "What is clusterctl?")
    shown.click("#send")
    shown.until(lambda: shown.text("[data-pane=A] .answer"), "the first words")
    shown.click("#clear")
    shown.until(lambda: shown.js("return document.getElementById('stop').disabled"), "it has ended")
    assert shown.text("[data-numbers=A]") == ""
    shown.fill("#prompt", "And now?")
    shown.click("[data-pane=A] .card-head button")  # curl
    assert "And now?" in shown.text("#code-text") and "What is clusterctl?" not in shown.text("#code-text")
    shown.click("#code-close")
    shown.fill("#max-tokens", "999999")
    shown.fill("#prompt", EVIL)
    shown.click("#send")
    assert "max" in shown.says("[data-pane=A] .error", " ")
    assert EVIL in shown.text("[data-pane=A] .talk")


def test_where_models_need_a_key_the_owners_page_gets_one_for_itself(page: Page, cluster: Cluster) -> None:
    assert cluster.run("key", "create", "team").returncode == 0
    try:
        page.size(1400, 1000)
        page.open(f"{cluster.url}/ui/#playground")
        page.until(lambda: chosen(page, "A") == "pirate", "models are known")
        page.fill("#max-tokens", "16")
        page.fill("#prompt", "hello")
        page.click("#send")
        page.says("[data-numbers=A]", "first token")
        assert page.js("return sessionStorage.getItem('clusterctl-admin-key')").startswith("ccs.")
    finally:
        assert cluster.run("key", "revoke", "team").returncode == 0
        page.js("sessionStorage.clear()")
        page.complaints()  # of what was refused at first


def test_a_killed_worker_is_seen_to_come_back(shown: Page, cluster: Cluster) -> None:
    pid = cluster.instance("instance_0")["pid"]
    kill(pid)
    shown.says("#latest", f"instance_0 killed by signal 9 (pid {pid})")
    shown.until(lambda: shown.text(row("instance_0", ".restarts")) == "1", "it was restarted")
    shown.says(row("instance_0", ".state"), "ready")
    assert cluster.instance("instance_0")["pid"] != pid
    shown.section("events")
    shown.fill("#filter", "worker.exited")
    shown.until(lambda: shown.js("return document.querySelectorAll('#event-list li').length") == 1, "the one event")
    assert f"pid {pid}" in shown.text("#event-list")


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


# keys, usage, aliases and the audit


def secret(page: Page) -> str:
    """What is shown once, and copied; gone when it is closed."""
    page.until(lambda: page.js("return document.getElementById('code').open"), "the secret is shown")
    shown = page.text("#code-text")
    page.click("#code-copy")
    page.says("#code-copy", "Copied")
    page.click("#code-close")
    page.until(lambda: page.js("return document.getElementById('code-text').textContent") == "", "it is gone")
    assert shown.startswith("cck_") and shown not in page.js("return document.documentElement.outerHTML")
    return shown


def ask(cluster: Cluster, key: str, model: str = "demo", **fields: Any) -> httpx.Response:
    body = {"model": model, "prompt": "hello", "max_tokens": 4, **fields}
    return cluster.post("/v1/completions", body, headers={"Authorization": f"Bearer {key}"})


def cell(name: str, label: str, table: str = "key-table") -> str:
    return f"#{table} tr[data-key='{name}'] [data-label='{label}']"


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


def test_a_key_is_made_used_changed_rotated_and_revoked(shown: Page, cluster: Cluster) -> None:
    shown.section("keys")
    shown.says("#keys .empty", "There are no keys")
    shown.tab_to("Create a key")
    shown.keys(Keys.ENTER)
    shown.asked("Create a key")
    shown.keys(Keys.ESCAPE)
    shown.until(lambda: not shown.js("return document.getElementById('dialog').open"), "it is closed")
    assert shown.js("return document.activeElement.id") == "create-key"
    shown.keys(Keys.ENTER)
    shown.asked("Create a key")
    assert "every request for models needs one" in shown.text("#dialog-text")
    assert "a letter or a digit" in shown.refused("Create a key", name=EVIL_WORD)
    shown.click("#create-key")
    shown.confirm("Create a key", name="team", models=f"demo, {EVIL_WORD}", rpm="1000", budget="1000000/day")
    first = secret(shown)
    shown.says(cell("team", "Models"), EVIL_WORD)
    assert shown.text(cell("team", "Limits")) == "1,000 requests/min · 0 of 1,000,000 a day"
    assert shown.text(cell("team", "Scope")) == "inference" and "valid" in shown.text(cell("team", "State"))
    assert shown.text(cell("team", "Last used")) == "not in 30 days"
    assert [ask(cluster, first).status_code, ask(cluster, first, "pirate").status_code] == [200, 404]

    shown.click("[aria-label='Change team']")
    assert shown.js("return document.getElementById('dialog-models').value") == f"demo, {EVIL_WORD}"
    assert "rpm" in shown.refused("Change team", rpm="-5")
    shown.click("[aria-label='Change team']")
    shown.confirm("Change team", models="", expires="2099-12-31")
    shown.until(lambda: shown.text(cell("team", "Models")) == "all", "it is bound to nothing")
    assert "until 2099-12-31" in shown.text(cell("team", "State"))
    assert "1,000 requests/min" in shown.text(cell("team", "Limits")), "what was not changed stays"
    assert ask(cluster, first, "pirate").status_code == 200

    shown.click("[aria-label='Rotate team']")
    shown.confirm("Give team another secret?")
    second = secret(shown)
    shown.says(cell("team", "State"), "the secret before holds for")
    assert [ask(cluster, one).status_code for one in (first, second)] == [200, 200] and first != second
    today = time.strftime("%Y-%m-%d", time.gmtime())
    shown.until(lambda: shown.text(cell("team", "Last used")) == today, "its use is seen")
    assert int(shown.text(cell("team", "Tokens today"))) > 0

    shown.click("[aria-label='Revoke team']")
    shown.asked("Revoke team?")
    assert "It is the last one for models" in shown.text("#dialog-text")
    shown.click("#dialog-go")
    shown.says("#keys .empty", "There are no keys")
    assert json.loads(cluster.run("key", "list", "--json").stdout) in ([], {"keys": []})


def test_usage_is_what_the_command_says(shown: Page, cluster: Cluster) -> None:
    made = cluster.run("key", "create", "heavy")
    try:
        for model in ("demo", "demo", "pirate"):
            assert ask(cluster, made.stdout.strip(), model).status_code == 200
        shown.section("usage")
        shown.choose("#usage-by", "key,model")
        row = """#usage-table tr[data-key='["heavy","demo"]'] """
        shown.says(row + "[data-label='Requests']", "2")
        assert "Tokens by day" in shown.text("#usage-chart")
        spoken = shown.js("return document.querySelector('#usage-chart .plot').getAttribute('aria-label')")
        assert "heavy: now" in spoken
        shown.js("document.querySelector('#usage-chart .plot').focus()")
        shown.keys(Keys.ARROW_LEFT)
        assert time.strftime("%Y-%m-%d", time.gmtime()) in shown.text("#usage-chart .tip")
        shown.js(
            "URL.createObjectURL = (blob) => {"
            " blob.text().then((text) => { window.saved = text; }); return '#usage'; };"
        )
        shown.click("#usage-csv")
        saved = str(shown.until(lambda: shown.js("return window.saved"), "it is saved"))
        told = cluster.run("usage", "--by", "key,model", "--csv").stdout
        assert saved.replace("\r\n", "\n") == told and "heavy,demo,2," in told
        shown.choose("#usage-by", "model,day")
        shown.says("#usage-table thead", "Day")
        shown.click("[data-days='7']")
        shown.says("#usage-table tbody", "pirate")
        shown.js(
            "const [from, to] = ['from', 'to'].map((end) => document.getElementById(`usage-${end}`));"
            "from.value = '2020-01-01'; to.value = '2020-01-31'; to.dispatchEvent(new Event('change'));"
        )
        shown.says("#usage .empty", "Nothing was used in these days")
        row = {"requests": -1, "prompt_tokens": 2, "cached_tokens": 0, "completion_tokens": 3}
        script = "return import('./usage.js').then(m => m.csv(['model'], [{model: arguments[0], ...arguments[1]}]))"
        formula = shown.js(script, '=HYPERLINK("x")', row)
        assert formula.splitlines()[1] == "\"'=HYPERLINK(\"\"x\"\")\",-1,2,0,3"
    finally:
        assert cluster.run("key", "revoke", "heavy").returncode == 0


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


def test_the_audit_is_read_page_by_page_and_verified(shown: Page, cluster: Cluster) -> None:
    def rows() -> int:
        return int(shown.js("return document.querySelectorAll('#audit-table tbody tr').length"))

    def told() -> bool:
        return any(entry.get("path") == path for entry in cluster.ask("GET", "/v1/cluster/audit").json()["entries"])

    path = "/v1/responses/<script>window.hacked='yes'<script>"
    key = cluster.run("key", "create", "auditor").stdout.strip()
    try:
        connection = HTTPConnection("127.0.0.1", cluster.port, timeout=10)
        connection.request("GET", path, headers={"x-api-key": "cck_wrong"})
        assert connection.getresponse().status == 401
        connection.close()
        poll(told, 15, "who was refused is in the audit")
        for number in range(60):
            strategy = ("random", "round_robin")[number % 2]
            assert cluster.post("/v1/cluster/strategy", {"strategy": strategy}).status_code == 200
        shown.section("audit")
        shown.until(lambda: rows() == 50, "one page")
        assert "strategy: random → round_robin" in shown.text("#audit-table tbody")
        shown.click("#audit-older")
        shown.until(lambda: rows() > 60, "the next one")
        said = shown.says("#audit-table tbody", "key auditor: nothing →")
        assert key not in said and f"GET {path}" in said
        shown.js("scrollTo(0, 0)")
        shown.click("#audit-verify")
        shown.says("#audit-verified", "The chain holds")
    finally:
        assert cluster.run("key", "revoke", "auditor").returncode == 0


def test_what_a_key_may_not_see_is_not_asked_for_and_said(page: Page, cluster: Cluster) -> None:
    assert cluster.ask("PUT", "/v1/cluster/aliases/x", {"sides": {"pirate": 1}}).status_code == 200
    key = cluster.run("key", "create", "looks", "--scope", "read").stdout.strip()
    try:
        page.size(1400, 1000)
        page.open(f"{cluster.url}/ui/")
        page.js("sessionStorage.setItem('clusterctl-admin-key', arguments[0])", key)
        page.driver.refresh()
        page.says("#link", "live")
        page.requested()
        for section in ("keys", "audit"):
            page.section(section)
            page.says(f"#{section} .empty", "for keys of the scope admin; the one that this page has is for: read")
            assert not page.js("return document.querySelector(arguments[0]).checkVisibility()", f"#{section} table")
        for section in ("overview", "adapters"):
            page.section(section)
            page.until(lambda section=section: page.text(f"#{section} tbody"), "it is shown")  # type: ignore[misc]
            buttons = "[...document.querySelectorAll('main [data-needs]')]"
            assert page.js(f"return {buttons}.every(e => !e.checkVisibility())")
        assert page.js("return document.getElementById('strategy').disabled") is True
        page.section("usage")
        page.says("#usage-table", "Requests")
        page.section("aliases")
        page.says("#alias-table", "pirate")
        buttons = "[...document.querySelectorAll('#aliases button:not([id^=count])')]"
        assert page.js(f"return {buttons}.filter(b => b.checkVisibility()).length") == 0
        assert not [url for url in page.requested() if url.endswith("/keys") or "/audit" in url]
    finally:
        page.js("sessionStorage.clear()")
        assert cluster.run("key", "revoke", "looks").returncode == 0
        assert cluster.ask("DELETE", "/v1/cluster/aliases/x", {}).status_code == 200
    clean(page, cluster.url)


def test_by_keyboard_alone_an_instance_is_drained_and_taken_back(shown: Page, cluster: Cluster) -> None:
    shown.tab_to("Skip to the content")
    shown.tab_to("Drain instance_1")
    shown.keys(Keys.ENTER)
    shown.asked("Drain instance_1?")
    shown.keys(Keys.ESCAPE)
    shown.until(lambda: not shown.js("return document.getElementById('dialog').open"), "it is closed")
    assert shown.js("return document.activeElement.getAttribute('aria-label')") == "Drain instance_1"
    shown.keys(Keys.ENTER)
    shown.asked("Drain instance_1?")
    shown.keys("5", Keys.ENTER)
    shown.says(row("instance_1", ".state"), "drained")
    assert cluster.instance("instance_1")["state"] == "drained"
    shown.until(lambda: not shown.js("return document.getElementById('dialog').open"), "it is closed")
    assert shown.js("return document.activeElement.getAttribute('aria-label')") == "Undrain instance_1"
    shown.keys(Keys.ENTER)
    shown.asked("Take instance_1 back into rotation?")
    shown.keys(Keys.ENTER)
    shown.says(row("instance_1", ".state"), "ready")
    wanted = cluster.status()["total_instances"]
    shown.says("#health", f"{wanted} of {wanted} ready")
    shown.js("document.querySelector('.plot').focus()")
    shown.keys(Keys.ARROW_LEFT)
    assert "requests" in shown.text(".chart .tip")


def test_a_log_goes_on_and_is_only_text(shown: Page, cluster: Cluster) -> None:
    shown.click(row("instance_2", "a.button"))
    shown.says("#log", "Starting simulated vLLM server")
    with (cluster.state_dir / "logs" / "instance_2.log").open("a") as file:
        file.write(f"{EVIL}\n")
    shown.says("#log", EVIL)
    shown.choose("#log-of", "balancer")
    shown.until(lambda: EVIL not in shown.text("#log"), "another log")


def test_the_last_hour_outlives_page_and_balancer(shown: Page, cluster: Cluster) -> None:
    def lines() -> int:
        paths = "[...document.querySelectorAll('#charts path.line')]"
        return int(shown.js(f"return {paths}.filter(p => p.getAttribute('d')).length"))

    for _ in range(3):
        assert cluster.complete().status_code == 200
    shown.until(lambda: "3" in shown.text("#tiles") and lines() >= 5, "the charts have lines")
    before = httpx.get(f"{cluster.url}/v1/cluster/history").json()["samples"]
    kill(cluster.status()["load_balancer"]["pid"])
    shown.says("#link", "reconnecting")
    shown.says("#link", "live")
    after = httpx.get(f"{cluster.url}/v1/cluster/history").json()["samples"]
    assert [s["at"] for s in after][: len(before) - 1] == [s["at"] for s in before][:-1]
    assert sum(s["requests_per_s"] for s in after) >= 0.1
    assert sum(tokens for s in after for tokens in s["instances"].values()) > 0, "the engines tell their tokens"
    assert all(i["tokens_total"] > 0 and i["kv_cache_percent"] >= 0 for i in cluster.status()["instances"].values())
    shown.driver.refresh()
    shown.until(lambda: lines() >= 5, "the lines are there")


def test_gpus_are_told_with_what_they_do(shown: Page) -> None:
    gpu = {"index": 1, "uuid": "GPU-x", "memory_total": 80 * 2**30, "memory_used": 61 * 2**30, "utilisation": 0.934}
    seen = {"pid": 1, "gpus": [0, 1], "cpu_percent": 3.0}
    said = shown.js("return import('./overview.js').then(m => m.place(arguments[0], [arguments[1]]))", seen, gpu)
    assert said == "GPU 0, GPU 1 · 61 GiB of 80 GiB · 93 %"
    assert shown.text(row("instance_0", ".place")).startswith("CPU · ")


def test_what_is_old_says_so(shown: Page) -> None:
    aged = "return import('./overview.js').then(m => m.aged(arguments[0]))"
    assert [shown.js(aged, {"age_s": age}) for age in (None, 0.9, 5, 42)] == ["", "", "", "as of 42 s ago"]
    assert "as of" not in shown.text("#supervisor")


def test_names_of_others_are_shown_as_text(shown: Page) -> None:
    evil = "a\x1b\u202e\u2028\n\U000e0041\x9b\u65e5\xa0\u200d"
    told = shown.js(
        "return import('./dom.js').then(m => [m.h('td', {}, arguments[0]).textContent, m.printable(arguments[0])])",
        evil,
    )
    assert told == [printable(evil, lines=True)] * 2


def test_light_and_dark(shown: Page) -> None:
    def background() -> str:
        return str(shown.js("return getComputedStyle(document.body).backgroundColor"))

    def prefers(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    prefers("light")
    light = background()
    prefers("dark")
    dark = background()
    assert light != dark
    shown.click("#theme")
    assert background() == light
    shown.driver.refresh()
    shown.says("#link", "live")
    assert background() == light, "the choice is remembered"
    shown.click("#theme")
    assert background() == dark
    prefers("light")
    assert background() == light, "and given up when it is the system's own"


@pytest.mark.parametrize("width", [360, 768])
def test_on_a_small_screen_nothing_is_wider_than_it(shown: Page, width: int) -> None:
    shown.size(width, 800, mobile=True)
    for section in SECTIONS:
        shown.section(section)
        wide = shown.js("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1], section
    shown.section("overview")
    shown.click("[aria-label='Restart instance_1']")
    shown.asked("Restart instance_1?")
    box = shown.js("const b = document.getElementById('dialog').getBoundingClientRect(); return [b.left, b.right]")
    assert box[0] >= 0 and box[1] <= width
    shown.click("#dialog-cancel")


# with a key, and with a server that means no good


class Evil(BaseHTTPRequestHandler):
    """A server with a model whose name is markup."""

    def do_GET(self) -> None:
        self._say({"object": "list", "data": [{"id": EVIL, "object": "model", "root": EVIL, "parent": None}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        choice = {"index": 0, "text": EVIL, "message": {"role": "assistant", "content": EVIL}, "finish_reason": "stop"}
        self._say({"id": "x", "object": "text_completion", "created": 0, "model": EVIL, "choices": [choice]})

    def _say(self, words: dict[str, Any]) -> None:
        body = json.dumps(words).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def evil() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_admin_key_is_asked_for_refused_and_kept_in_the_tab_only(page: Page, tmp_path: Path) -> None:
    cluster, key = Cluster(tmp_path, free_port()), "s3cret-schlüssel"
    place = ("--port", str(cluster.port), "--state-dir", str(cluster.state_dir), "--detach")
    with evil() as url:
        try:
            made = clusterctl(
                "up", *place, "--engine", "sim", "--instances", "1", "--backend", url, CLUSTERCTL_ADMIN_KEY=key
            )  # fmt: skip
            assert made.returncode == 0, made.stderr
            _with_key(page, cluster, key)
        finally:
            cluster.close()


def _with_key(page: Page, cluster: Cluster, key: str) -> None:
    page.size(1400, 1000)
    page.requested()
    page.open(f"{cluster.url}/ui/#playground")
    page.asked("Admin key")
    page.click("#dialog-cancel")
    page.says("#banner", "The cluster is not shown")
    # Who may not manage it may use it.
    page.until(lambda: chosen(page, "A") == "pirate" and chosen(page, "B") == "poet", "the adapters are offered")
    page.says("#model-A", EVIL)
    page.fill("#prompt", "hello")
    page.click("#send")
    page.says("[data-numbers=B]", "first token")
    # Given to another question, the key is that of the whole page.
    page.js("location.hash = '#logs/balancer'")
    page.asked("Admin key")
    page.fill("#dialog-key", key)
    page.click("#dialog-go")
    page.says("#link", "live")
    page.click("#key")
    page.says("#banner", "The cluster is not shown")
    # A wrong key, a right one.
    page.section("overview")
    page.click("#key")
    page.asked("Admin key")
    page.fill("#dialog-key", "wrong")
    page.click("#dialog-go")
    page.says("#dialog-text", "That key was refused")
    page.asked("Admin key")
    page.fill("#dialog-key", key)
    page.click("#dialog-go")
    page.says("#link", "live")
    page.says("#health", "2 of 2 ready")
    stored = page.js("return [JSON.stringify({...sessionStorage}), JSON.stringify({...localStorage}), document.cookie]")
    assert key in stored[0] and key not in stored[1] + stored[2]
    page.driver.refresh()
    page.says("#link", "live")
    page.choose("#strategy", "random")
    page.confirm("Switch the strategy to random?")
    page.says("#latest", "strategy random")
    page.section("aliases")
    page.click("#set-alias")
    page.confirm("Set an alias", name="evil", sides=f"{EVIL}=1")
    side = "return document.querySelector('[data-label=Side]')?.textContent"
    page.until(lambda: page.js(side) == EVIL, "it is shown as text")
    page.section("overview")
    assert page.complaints() == []
    page.click("#key")
    page.says("#banner", "The cluster is not shown")
    assert page.js("return sessionStorage.length") == 0
    page.section("aliases")
    page.says("#aliases .empty", "This is not shown")
    page.section("overview")
    clean(page, cluster.url)
    # A link from the owner needs no key: in a tab that shows the page already, and in one that does not; once.
    first, second = (_link(cluster, key) for _ in range(2))
    page.open(first)
    page.says("#link", "live")
    assert page.js("return location.hash") == "" and key not in page.js("return JSON.stringify({...sessionStorage})")
    page.click("#key")
    page.open("about:blank")
    page.open(second)
    page.says("#link", "live")
    page.choose("#strategy", "round_robin")
    page.confirm("Switch the strategy to round_robin?")
    page.click("#key")
    page.open("about:blank")
    page.open(second)
    page.says("#toasts", "used before")
    page.asked("Admin key")
    page.click("#dialog-cancel")
    page.says("#banner", "The cluster is not shown")
    clean(page, cluster.url)


def _link(cluster: Cluster, key: str) -> str:
    made = clusterctl("ui", CLUSTERCTL_URL=cluster.url, CLUSTERCTL_ADMIN_KEY=key)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


# pictures


@pytest.mark.timeout(600)
def test_pictures_are_taken(page: Page, tmp_path: Path, demo_adapters: dict[str, str]) -> None:
    cluster, engine = Cluster(tmp_path, free_port()), SCREENSHOTS or "sim"
    folder = Path(__file__).parents[2] / "docs" / "screenshots" if SCREENSHOTS else tmp_path / "screenshots"
    folder.mkdir(exist_ok=True)
    before, after = (100, 60) if SCREENSHOTS else (0, 0)  # s of load that the charts show, around a loss
    lora = [word for name, path in demo_adapters.items() for word in ("--lora", f"{name}={path}")]
    sim = ("--", "--itl-ms", "8") if engine == "sim" else ()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=cluster.url, timeout=60) as client:
            for model in cycle(("demo", "pirate", "poet", "pirate")):
                if stop.is_set():
                    return
                # What the load is like changes, so that the charts have something to show.
                stop.wait(0.1 + 0.5 * (time.time() % 40 < 15))
                messages = [{"role": "user", "content": "Tell me more."}]
                body = {"model": model, "max_tokens": 48, "messages": messages, "stream": True}
                client.post("/v1/chat/completions", json=body)

    askers = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    try:
        made = cluster.up("--engine", engine, "--instances", "3", *lora, *sim, timeout=400)
        assert made.returncode == 0, made.stderr
        cluster.wait_ready(3, 300)
        for asker in askers:
            asker.start()
        page.size(1400, 1000)
        page.open(f"{cluster.url}/ui/")
        page.says("#link", "live")
        time.sleep(before)
        kill(cluster.instance("instance_1")["pid"])
        cluster.wait_ready(3, 300)
        time.sleep(after)
        _pictures(page, folder, stop, askers)
    finally:
        stop.set()
        cluster.close()
    pictures = {path.name: path.stat().st_size for path in folder.glob("*.png")}
    assert set(pictures) == {"dashboard.png", "dashboard-dark.png", "playground.png", "phone.png"}
    assert all(20_000 < size < 300_000 for size in pictures.values()), pictures


def _pictures(page: Page, folder: Path, stop: threading.Event, askers: list[threading.Thread]) -> None:
    def prefers(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        time.sleep(0.5)

    prefers("light")
    page.js("localStorage.clear()")
    page.size(1400, 900)
    time.sleep(2)
    page.shot(folder / "dashboard.png")
    prefers("dark")
    page.shot(folder / "dashboard-dark.png")
    page.size(390, 844, mobile=True, scale=1.5)
    time.sleep(1)
    page.shot(folder / "phone.png")
    prefers("light")
    stop.set()
    for asker in askers:
        asker.join(60)
    page.size(1400, 640)
    page.section("playground")
    page.until(lambda: chosen(page, "B") == "poet", "the adapters are offered")
    page.fill("#prompt", "What is clusterctl?")
    page.click("#send")
    page.says("[data-numbers=B]", "tokens/s", 60)
    page.until(lambda: not page.js("return document.getElementById('send').disabled"), "both are done", 60)
    page.shot(folder / "playground.png")
