"""The page of a cluster with an admin key, and with a server among its own that means no good."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from browser import Page
from harness import Cluster, clusterctl, free_port
from uipage import EVIL, MARKS, chosen, clean

pytestmark = MARKS

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
