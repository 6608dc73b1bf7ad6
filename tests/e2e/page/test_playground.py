"""The playground of the page: what models and adapters say to somebody who asks there."""

from __future__ import annotations

import subprocess
import sys

from selenium.webdriver.common.keys import Keys

from browser import Page
from harness import Cluster
from uipage import EVIL, MARKS, chosen, joined

pytestmark = MARKS

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
