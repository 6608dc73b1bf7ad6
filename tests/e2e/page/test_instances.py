"""The page, in a real browser: instances and what happens to them, seen and done. Real processes, simulated engine."""

from __future__ import annotations

import httpx
from selenium.webdriver.common.keys import Keys

from browser import Page
from harness import Cluster, kill, poll
from uipage import EVIL, MARKS, clean, row

pytestmark = MARKS

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
    shown.until(lambda: shown.js(strategy) == "auto", "as it was")
    shown.choose("#strategy", "round_robin")
    shown.confirm("Switch the strategy to round_robin?")
    assert cluster.status()["load_balancer_strategy"] == "round_robin"
    shown.says("#latest", "strategy round_robin")
    shown.choose("#strategy", "auto")
    shown.confirm("Switch the strategy to auto?")
    label = "return document.getElementById('strategy').selectedOptions[0].text"
    shown.until(lambda: shown.js(label) == "auto (least_connections)", "which one that is")


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


def _tokens(cluster: Cluster) -> float:
    samples = httpx.get(f"{cluster.url}/v1/cluster/history").json()["samples"]
    return sum(tokens for sample in samples for tokens in sample["instances"].values())


def _told(cluster: Cluster) -> bool:
    instances = cluster.status()["instances"].values()
    return all((i["tokens_total"] or 0) > 0 and i["kv_cache_percent"] is not None for i in instances)


def test_the_last_hour_outlives_page_and_balancer(shown: Page, cluster: Cluster) -> None:
    def lines() -> int:
        paths = "[...document.querySelectorAll('#charts path.line')]"
        return int(shown.js(f"return {paths}.filter(p => p.getAttribute('d')).length"))

    for _ in range(3):
        assert cluster.complete().status_code == 200
    shown.until(lambda: "3" in shown.text("#tiles") and lines() >= 5, "the charts have lines")
    poll(lambda: _tokens(cluster) > 0 and _told(cluster), 15, "the engines tell their tokens")
    before = httpx.get(f"{cluster.url}/v1/cluster/history").json()["samples"]
    kill(cluster.status()["load_balancer"]["pid"])
    shown.says("#link", "reconnecting")
    shown.says("#link", "live")
    after = httpx.get(f"{cluster.url}/v1/cluster/history").json()["samples"]
    assert [s["at"] for s in after][: len(before) - 1] == [s["at"] for s in before][:-1]
    assert sum(s["requests_per_s"] for s in after) >= 0.1
    assert _tokens(cluster) > 0
    poll(lambda: _told(cluster), 15, "and again")
    shown.driver.refresh()
    shown.until(lambda: lines() >= 5, "the lines are there")
