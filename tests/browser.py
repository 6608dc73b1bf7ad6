"""A real browser for tests of the page: Debian's Chromium and its driver, nothing fetched."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from harness import free_port, poll

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


class Page:
    """What somebody sees and does. Everything is found by CSS selector; waiting has a deadline, far off: a browser that
    shares its processor with clusters can take ten times as long as one that does not."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def section(self, name: str) -> None:
        """By the navigation, as a reader would."""
        self.click(f"nav a[href='#{name}']")
        self.until(lambda: self.js("return !document.getElementById(arguments[0]).hidden", name), f"{name} is shown")

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, look: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
        def quiet() -> Any:
            with contextlib.suppress(WebDriverException):
                return look()
            return None

        try:
            return poll(quiet, timeout, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the page says: {self.text('body')[:1500]}") from None

    def text(self, selector: str) -> str:
        """What can be read there; empty where there is nothing of the kind."""
        return str(self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def says(self, selector: str, words: str, timeout: float = 60.0) -> str:
        return str(self.until(lambda: words in (t := self.text(selector)) and t, f"{words!r} in {selector}", timeout))

    def click(self, selector: str) -> None:
        self.until(lambda: self.driver.find_element(By.CSS_SELECTOR, selector).click() or True, f"click {selector}")

    def fill(self, selector: str, text: str) -> None:
        field = self.driver.find_element(By.CSS_SELECTOR, selector)
        field.clear()
        field.send_keys(text)

    def choose(self, selector: str, value: str) -> None:
        Select(self.driver.find_element(By.CSS_SELECTOR, selector)).select_by_value(value)

    def keys(self, *keys: str) -> None:
        """Typed at whatever has the focus."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, label: str, most: int = 80) -> None:
        """Tab after Tab, until what is called ``label`` has the focus."""
        for _ in range(most):
            self.keys(Keys.TAB)
            if self.js("const e = document.activeElement; return e.getAttribute('aria-label') ?? e.innerText") == label:
                return
        raise AssertionError(f"{label!r} cannot be reached with the Tab key")

    # dialogs

    def asked(self, words: str) -> None:
        self.until(lambda: self.js("return document.getElementById('dialog').open"), f"it asks about {words!r}")
        assert words in self.text("#dialog-title")

    def confirm(self, words: str, **fields: str) -> None:
        """Fills the dialog that asks about ``words`` and confirms; it closes when the cluster has done it."""
        self.asked(words)
        for name, value in fields.items():
            self.fill(f"#dialog-{name}", value)
        self.click("#dialog-go")
        self.until(lambda: not self.js("return document.getElementById('dialog').open"), f"{words!r} is done")

    def refused(self, words: str, **fields: str) -> str:
        """As `confirm`, where the cluster says no: what it said."""
        self.asked(words)
        for name, value in fields.items():
            self.fill(f"#dialog-{name}", value)
        self.click("#dialog-go")
        said = str(self.until(lambda: self.text("#dialog-error"), "the reason is shown"))
        self.click("#dialog-cancel")
        return said

    # what must not be

    def complaints(self) -> list[dict[str, Any]]:
        """Of the browser's console: exceptions and violations of the policy. Answers other than 200 are no fault of
        the page."""
        entries = self.driver.get_log("browser")
        return [e for e in entries if e["level"] in ("SEVERE", "WARNING") and e["source"] != "network"]

    def requested(self) -> set[str]:
        """Every URL that was asked for since this was last called."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.add(str(message["params"]["request"]["url"]))
        return found

    def size(self, width: int, height: int, mobile: bool = False, scale: float = 1) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def shot(self, path: Path) -> None:
        self.driver.save_screenshot(str(path))


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """One browser; ended with its driver."""
    options = webdriver.ChromeOptions()
    assert CHROMIUM and DRIVER
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--window-size=1400,1000", "--no-first-run", "--disable-background-networking", "--disable-sync",
        "--disable-component-update", "--disable-default-apps", "--disable-extensions", "--no-proxy-server",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service(DRIVER, port=free_port(), log_output=subprocess.DEVNULL)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(60)
        yield Page(driver)
    finally:
        driver.quit()
