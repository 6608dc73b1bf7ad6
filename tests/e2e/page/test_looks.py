"""How the page shows what it has: words, light and dark, small screens, pictures.

`PAGE_SCREENSHOTS=sim` (or `vllm`, for answers that make sense) writes docs/screenshots/, after minutes of load; else
the pictures are made with little in their charts, and thrown away."""

from __future__ import annotations

import os
import threading
import time
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from browser import Page
from config.text import printable
from harness import Cluster, free_port, kill
from uipage import MARKS, chosen, row

pytestmark = MARKS

SCREENSHOTS = os.environ.get("PAGE_SCREENSHOTS", "")
SECTIONS = (
    "overview", "playground", "models", "adapters", "jobs", "aliases", "keys", "usage", "events", "logs", "audit"
)


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


@pytest.mark.timeout(600)
def test_pictures_are_taken(page: Page, tmp_path: Path, demo_adapters: dict[str, str]) -> None:
    cluster, engine = Cluster(tmp_path, free_port()), SCREENSHOTS or "sim"
    folder = Path(__file__).parents[3] / "docs" / "screenshots" if SCREENSHOTS else tmp_path / "screenshots"
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
