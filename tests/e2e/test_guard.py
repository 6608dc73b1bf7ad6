"""Who may manage a running cluster: every route of the API, as other users and through a real nginx."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from config.identity import admin_token
from harness import Cluster, clusterctl, free_port, poll
from lb.admin.openapi import PATHS

NOBODY = 65534
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

#: What needs no credential on this machine.
OPEN = {"/health", "/v1/models", "/metrics", "/v1/cluster/ui/session"}

#: Everything else that the balancer answers itself: a test holds these paths to its table of routes. Reading below
#: ``/v1/models/`` is asking which models there are, like `OPEN`; changing there is not.
_ROUTES = [(method, path.replace("{name}", "instance_0")) for path in PATHS if path not in OPEN for method in METHODS]
CARDS = [(method, path) for method, path in _ROUTES if path.startswith("/v1/models/") and method in ("GET", "HEAD")]
MANAGEMENT = [route for route in _ROUTES if route not in CARDS]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")

#: Run as root, as the interpreter may lie where only root gets, and then as the user that is named.
_ASK = """
import encodings.idna, http.client, json, os, sys
port, uid, headers, asked = json.load(sys.stdin)
os.setgroups([]); os.setgid(65534); os.setuid(uid)
answers = []
for method, path, body in asked:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    kind = {} if body is None else {"Content-Type": "application/json"}
    connection.request(method, path, body, {**kind, **headers})
    answer = connection.getresponse()
    streams = answer.getheader("Content-Length") is None and method != "HEAD"
    answers.append([answer.status, "" if streams else answer.read().decode()])
    connection.close()
json.dump(answers, sys.stdout)
"""

_GONE = """
import encodings.idna, os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for _ in range(20):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as client:
        client.sendall(sys.argv[2].encode())
"""


def ask(
    port: int, asked: list[tuple[str, str]], uid: int = NOBODY, *, body: Any = None, **headers: str
) -> list[tuple[int, str]]:
    """Status and text of each answer, asked as the user ``uid``."""
    content = None if body is None else json.dumps(body)
    questions = [(method, path, content if method not in ("GET", "HEAD") else None) for method, path in asked]
    result = subprocess.run(
        [sys.executable, "-c", _ASK], input=json.dumps([port, uid, headers, questions]), capture_output=True, text=True,
        timeout=90, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [(status, text) for status, text in json.loads(result.stdout)]


def bearer(token: str | None) -> dict[str, str]:
    assert token
    return {"Authorization": f"Bearer {token}"}


@contextmanager
def nginx(user: str, to: int, more: str = "") -> Iterator[int]:
    """One that passes everything on to the port ``to``, as its manual begins; its workers run as ``user``."""
    program, port = shutil.which("nginx"), free_port()
    assert program, "nginx is missing: tests/system-packages.sh installs it"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        paths = "".join(f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi",
                                                                         "scgi"))  # fmt: skip
        (place / "conf").write_text(
            f"user {user}; worker_processes 1; pid {place}/pid; error_log {place}/errors; daemon off;"
            f"events {{}} http {{ access_log off; {paths} server {{ listen 127.0.0.1:{port};"
            f"location / {{ proxy_pass http://127.0.0.1:{to}; {more} }} }} }}\n"
        )
        with subprocess.Popen([program, "-c", str(place / "conf")], stderr=subprocess.DEVNULL) as process:
            try:
                poll(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 10, "nginx listens")
                yield port
            finally:
                process.terminate()


def test_another_user_gets_nowhere_and_is_told_why(shared_sim: Cluster) -> None:
    answers = ask(shared_sim.port, MANAGEMENT, body={})
    assert {(asked, status) for asked, (status, _) in zip(MANAGEMENT, answers, strict=True) if status != 403} == set()
    message = json.loads(answers[0][1])["error"]["message"]
    assert "user 65534 does not own this cluster" in message and "admin.token" in message
    everybody = [("GET", "/health"), ("GET", "/v1/models"), ("GET", "/ui/"), ("GET", "/ui/app.js"), ("GET", "/metrics")]
    assert [status for status, _ in ask(shared_sim.port, everybody)] == [200] * len(everybody)
    assert {status for status, _ in ask(shared_sim.port, CARDS)} == {404, 405}, "no model is called so"


#: As nginx's manual begins; and with what makes its requests look like anybody's, where its own user is what tells.
_PROXIES = [("root", ""), ("www-data", ""), ("www-data", 'proxy_http_version 1.1; proxy_set_header Connection "";')]


@pytest.mark.parametrize(("user", "more"), _PROXIES)
def test_nobody_gets_anywhere_through_a_proxy(shared_sim: Cluster, user: str, more: str) -> None:
    with nginx(user, shared_sim.port, more) as port:
        answers = ask(port, MANAGEMENT, 0, body={})
        assert {(a, status) for a, (status, _) in zip(MANAGEMENT, answers, strict=True) if status != 403} == set()
        assert [status for status, _ in ask(port, [("GET", "/health"), ("GET", "/v1/models")])] == [200, 200]
        token = admin_token.read(shared_sim.state_dir / "admin.token")
        assert ask(port, [("GET", "/v1/cluster/status")], **bearer(token))[0][0] == 200
        # The command line knows the token of a cluster whose state directory it knows.
        place = {"CLUSTERCTL_URL": f"http://127.0.0.1:{port}", "CLUSTERCTL_STATE_DIR": str(shared_sim.state_dir)}
        assert clusterctl("status", "--json", **place).returncode == 0
        assert "proxy" in (without := clusterctl("status", CLUSTERCTL_URL=place["CLUSTERCTL_URL"])).stderr or more
        assert without.returncode == 1 and "admin.token" in without.stderr
        if not more:
            assert ask(port, [("GET", "/metrics")])[0][0] == 403


def test_the_owner_is_refused_nowhere(shared_sim: Cluster) -> None:
    """The API's own refusals come after: nothing here is a change that can be made."""
    there = [(method.upper(), path) for path, methods in PATHS.items() for method in methods if path not in OPEN]
    asked = [(method, path.replace("{name}", "instance_0")) for method, path in there]
    answers = ask(shared_sim.port, asked, 0, body={"no such field": 1})
    assert {(a, status) for a, (status, _) in zip(asked, answers, strict=True) if status in (401, 403)} == set()


def test_who_asks_and_goes_is_not_taken_for_root(shared_sim: Cluster) -> None:
    body = json.dumps({"strategy": "random"})
    request = (
        f"POST /v1/cluster/strategy HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    before, strategy = refused(shared_sim), shared_sim.status()["load_balancer_strategy"]
    subprocess.run([sys.executable, "-c", _GONE, str(shared_sim.port), request], check=True, timeout=60)
    poll(lambda: refused(shared_sim) >= before + 20, 20, "all of them are refused")
    assert shared_sim.status()["load_balancer_strategy"] == strategy != "random"


def refused(cluster: Cluster) -> float:
    families = text_string_to_metric_families(httpx.get(f"{cluster.url}/metrics", timeout=10).text)
    samples = [s for family in families for s in family.samples if s.name == "clusterctl_refused_total"]
    return sum(sample.value for sample in samples if sample.labels["code"] == "403")


def test_the_token_in_the_state_directory_is_the_owners(shared_sim: Cluster) -> None:
    path = shared_sim.state_dir / "admin.token"
    assert oct(path.stat().st_mode)[-4:] == "0600"
    status = [("GET", "/v1/cluster/status"), ("DELETE", "/v1/cluster/instances/instance_0/drain")]
    assert [s for s, _ in ask(shared_sim.port, status, body={}, **bearer(admin_token.read(path)))] == [200, 200]
    ((answer, text), _) = ask(shared_sim.port, status, body={}, **bearer("x" * 43))
    assert answer == 401 and "wrong or has expired" in text


def test_a_link_opens_the_page_once(shared_sim: Cluster) -> None:
    link = shared_sim.run("ui")
    assert link.returncode == 0, link.stderr
    found = re.fullmatch(rf"{re.escape(shared_sim.url)}/ui/#code=([\w-]{{43}})\n", link.stdout)
    assert found, link.stdout
    exchange = [("POST", "/v1/cluster/ui/session")]
    ((status, text),) = ask(shared_sim.port, exchange, body={"code": found[1]})
    assert status == 200, text
    assert ask(shared_sim.port, [("GET", "/v1/cluster/status")], **bearer(json.loads(text)["token"]))[0][0] == 200
    ((status, text),) = ask(shared_sim.port, exchange, body={"code": found[1]})
    assert status == 401 and "used before" in text
    for wrong in ({"code": "x" * 43}, {"code": ""}):
        assert ask(shared_sim.port, exchange, body=wrong)[0][0] == 401
    for wrong in ({}, {"code": 1}, {"code": "x", "more": 1}, [], {"code": "x" * 2000}):
        assert ask(shared_sim.port, exchange, body=wrong)[0][0] in (400, 413)


def test_a_link_does_not_work_for_long(shared_sim: Cluster) -> None:
    code = shared_sim.run("ui").stdout.strip().partition("#code=")[2]
    for file in (shared_sim.state_dir / "links").iterdir():
        os.utime(file, (file.stat().st_mtime - 61,) * 2)
    assert ask(shared_sim.port, [("POST", "/v1/cluster/ui/session")], body={"code": code})[0][0] == 401


def test_the_token_outlives_the_balancer(shared_sim: Cluster) -> None:
    before = admin_token.read(shared_sim.state_dir / "admin.token")
    assert shared_sim.run("restart", "lb").returncode == 0
    assert ask(shared_sim.port, [("GET", "/v1/cluster/status")], **bearer(before))[0][0] == 200
