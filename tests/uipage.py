"""What tests of the page share: when they can run, where things are on it, and markup that must stay text."""

from __future__ import annotations

import json
import os

import pytest

from browser import CHROMIUM, DRIVER, Page

# `make test` installs them where it may; where it all has to run, a browser that is missing is a failure.
MARKS = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER) and "CI" not in os.environ, reason="needs chromium and chromedriver"
    ),
]

#: Without blanks, for what may have none.
EVIL_WORD = "<img/src=x/onerror=window.hacked='yes'>"
EVIL = "<img src=x onerror=\"window.hacked='yes'\"><script>window.hacked='yes'</script>"


def clean(page: Page, url: str) -> None:
    assert page.complaints() == []
    elsewhere = {asked for asked in page.requested() if not asked.startswith((f"{url}/", "data:", "about:", "chrome:"))}
    assert elsewhere == set()
    assert page.js("return window.hacked ?? null") is None


def row(name: str, column: str = "") -> str:
    return f"#instances tr[data-key='{name}'] {column}"


def cell(name: str, label: str, table: str = "key-table") -> str:
    return f"#{table} tr[data-key='{name}'] [data-label='{label}']"


def chosen(page: Page, side: str) -> str:
    return str(page.js("return document.getElementById(arguments[0]).value", f"model-{side}"))


def joined(stream: str) -> str:
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
