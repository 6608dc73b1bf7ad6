"""A cluster whose every text is chosen by somebody who wants to take the terminal of whoever looks: all commands show
it as text, and each of its lines as one."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.cli import cli, main
from cluster.client import ClusterError

EVIL = "\x1b]0;owned\x07\x1b[2J\u202egnp\u2028[red]x[/red]\r\n:smile:\x9b31m\u200b"

_INSTANCE = {
    "managed": True, "state": EVIL, "spare": False, "is_running": True, "degraded": False, "reason": EVIL,
    "phase": EVIL, "port": 1, "weight": 1, "pid": 2, "gpus": [], "cores": [], "restarts": 0, "uptime_s": 1.0,
    "state_for_s": 1.0,
    "cpu_percent": 0.0, "memory_mb": 1.0, "models": [EVIL], "last_exit": {"expected": False, "reason": EVIL},
    "in_flight": 0, "requests_total": 1, "errors_total": 0,
}  # fmt: skip
_BALANCER = {
    "pid": 3, "processes": [{"pid": 3, "restarts": 0, "in_flight": 0}], "draining": [], "failure": "", "in_flight": 0,
    "restarts": 0,
}  # fmt: skip
STATUS: dict[str, Any] = {
    "is_running": True, "total_instances": 1, "running_instances": 1, "load_balancer_strategy": EVIL, "model": EVIL,
    "supervisor": {"pid": 4, "settled": True, "rolling": {}, "state_dir": "/nowhere"}, "load_balancer": _BALANCER,
    "instances": {f"i{EVIL}": _INSTANCE},
}  # fmt: skip
ADAPTER: dict[str, Any] = {
    "lora_name": EVIL, "version": 1, "state": EVIL, "description": EVIL, "rank": 8, "size": 10, "base_model": EVIL,
    "auto_load": True, "instances": {EVIL: {"state": EVIL, "version": 1, "reason": EVIL}}, "requests_total": 1,
    "last_used": 1.0,
    "versions": [{
        "version": 1, "hash": EVIL, "rank": 8, "target_modules": [EVIL], "base_model": EVIL, "source": EVIL, "size": 1,
        "created": 1.0, "active": True,
    }],
}  # fmt: skip
DECISION = {
    "request_id": EVIL, "at": EVIL, "model": EVIL, "route": EVIL, "balancer": 1,
    "attempts": [{
        "instance": EVIL, "incarnation": 1, "began_s": 0.1, "ended_s": 0.2, "strategy": EVIL, "reason": EVIL,
        "scored_by": EVIL, "failed": EVIL, "candidates": [{"instance": EVIL, "score": 1}],
    }],
    "outcome": {"status": 200, "error": EVIL, "duration_s": 1.0, "completion_tokens": 1},
}  # fmt: skip
CHANGE = {"setting": EVIL, "old": EVIL, "new": [EVIL], "effect": EVIL}
ANSWERS: dict[str, Any] = {
    "/v1/cluster/status": STATUS, "/v1/lora_adapters": {"adapters": [ADAPTER]}, "/v1/lora_adapters/x": ADAPTER,
    "/v1/models": {"data": [{"id": EVIL, "parent": None}, {"id": "x", "parent": EVIL}]},
    "/v1/cluster/events": {"events": [{"id": 1, "at": 1.0, "subject": EVIL, "kind": EVIL, "text": EVIL, "data": {}}]},
    "/v1/cluster/why": {"decisions": [DECISION]},
    "/v1/load_lora_adapter": {
        "version": EVIL, "state": "loaded", "instances": {EVIL: "loaded"}, "unchecked": [EVIL],
    },
    "/v1/cluster/scale": {"current": EVIL, "desired": EVIL}, "/v1/cluster/strategy": {"strategy": EVIL},
    "/v1/cluster/restart": {"restarting": [EVIL], "spare": EVIL},
    "/v1/cluster/apply": {"changes": [CHANGE], "refused": EVIL, "dry_run": True, "restarting": [EVIL], "spare": EVIL},
    "/v1/chat/completions": {"choices": [{"message": {"content": EVIL}, "finish_reason": "stop"}]},
}  # fmt: skip
LOG = f"one {EVIL}\ntwo\n\x1b[0;36mcolour\x1b[0m 1 %\r2 %\r\n"


class _Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # a body is written after its head

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if path.endswith("/logs"):
            body, kind, status = LOG, "text/plain; charset=utf-8", 200
        else:
            found = ANSWERS.get(path, {"error": {"message": EVIL, "type": EVIL, "param": None, "code": 418}})
            body, kind, status = json.dumps(found), "application/json", 200 if path in ANSWERS else 418
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _answer

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _run(url: str, *args: str) -> Result:
    return CliRunner().invoke(cli, [*args, "--url", url])


#: Everything but text, spaces and line ends (tabs come in logs).
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2066-\u2069]")

COMMANDS: dict[str, int] = {
    "status": 3, "lora list": 2, "lora show x": 8, "events": 1, "why": 1, "why x": 4, "top --once --interval 0.1": 0,
    "lora load x /x": 0, "lora update x /x": 0, "lora test x hello": 0, "scale 1 --no-wait": 1,
    "strategy random": 1, "restart i --no-wait": 1, "apply --dry-run --drain-timeout 1": 0, "drain i": 0, "logs i": 0,
    "logs": 0, "lora unload x": 0, "lora rollback x": 0, "weight i 1": 0, "bench": 0,
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_no_text_of_others_reaches_the_terminal_as_anything_else(url: str, command: str) -> None:
    result = _run(url, *command.split())
    said = result.output + (str(result.exception) if result.exception else "")
    if isinstance(result.exception, ClusterError):
        said = result.output  # `main` shows it, see below
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert not _UNSAFE.search(said), said
    assert "\r" not in said
    assert "😄" not in said, "rich's emoji codes are text too"
    if isinstance(result.exception, ClusterError):
        return
    assert "[red]x[/red]" in said and "\\x1b" in said, "shown, and as it is"
    if COMMANDS[command]:
        assert len(result.stdout.strip("\n").split("\n")) == COMMANDS[command], "no line of its own"


@pytest.mark.parametrize("command", ["status", "lora list", "lora show x", "events", "why"])
def test_json_stays_json(url: str, command: str) -> None:
    result = _run(url, *command.split(), "--json")
    assert not _UNSAFE.search(result.stdout)
    json.loads(result.stdout)
    assert json.dumps(EVIL)[1:-1] in result.stdout


def test_a_refusal_is_one_line_of_text(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["clusterctl", "weight", "i", "1", "--url", url])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and not _UNSAFE.search(said) and "\\u202e" in said


def test_a_log_is_shown_in_its_lines_without_colours(url: str) -> None:
    assert _run(url, "logs", "i").stdout.endswith("\ntwo\ncolour 1 %\n2 %\n")


def test_names_that_were_stored_before_they_were_checked_are_shown_too(tmp_path: Path) -> None:
    """No cluster runs: the texts come from files."""
    result = CliRunner().invoke(cli, ["lora", "validate", str(tmp_path / EVIL)])
    assert not _UNSAFE.search(result.output)
