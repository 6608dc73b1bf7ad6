"""The page, of who may do what: keys, what they used, the audit, and what a key may not see."""

from __future__ import annotations

import json
import time
from http.client import HTTPConnection
from typing import Any

import httpx
from selenium.webdriver.common.keys import Keys

from browser import Page
from harness import Cluster, poll
from uipage import EVIL_WORD, MARKS, cell, clean

pytestmark = MARKS

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
