"""`clusterctl lora`, against a small server that answers as the cluster does."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import RenderableType
from rich.live import Live

from cluster.cli import main, pull_display
from cluster.cli.workload.lora import watch
from worker.demo import adapter_path, model_path

#: No test waits longer (s) for what it waits for.
DEADLINE = 20.0

INSTANCES = ("instance_0", "instance_1", "instance_2")


def _adapter(name: str, version: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "lora_name": name, "version": version, "state": "loaded", "description": "", "rank": 8, "size": 12_345,
        "base_model": "demo", "auto_load": True, "requests_total": 0, "last_used": None,
        "instances": {i: {"state": "loaded", "version": version, "reason": ""} for i in INSTANCES}, **changes,
    }  # fmt: skip


def _version(number: int, active: bool) -> dict[str, Any]:
    return {
        "version": number, "hash": f"{number}" * 64, "rank": 8, "target_modules": ["q_proj", "v_proj"],
        "base_model": None, "source": f"/adapters/v{number}", "size": 2_000_000, "created": time.time() - 300,
        "active": active,
    }  # fmt: skip


class Cluster:
    """What the cluster would say. ``refusals``: a route's answer instead of its own. ``asked``: method, route, body."""

    def __init__(self) -> None:
        self.adapters: dict[str, dict[str, Any]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.ready = True
        self.unchecked: list[str] = []
        self.asked: list[tuple[str, str, Any]] = []
        self.during_change: Callable[[str], None] = lambda name: None
        self.hold_tokens = threading.Event()
        self.hold_tokens.set()
        self._looks = threading.Condition()
        self._looked = 0

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append((method, path, body))
        if path in self.refusals:
            status, message = self.refusals[path]
            return status, {"error": {"message": message, "code": status}}
        if method == "POST" and path == "/v1/load_lora_adapter":
            return self._load(body)
        if method == "POST" and path == "/v1/unload_lora_adapter":
            return self._unload(body["lora_name"])
        if path.endswith("/rollback"):
            return self._rollback(path.split("/")[3], body)
        if path == "/v1/lora_adapters":
            return 200, {"adapters": list(self.adapters.values())}
        if path.startswith("/v1/lora_adapters/"):
            return self._one(path.rsplit("/", 1)[1])
        if path == "/v1/models":
            listed = [{"id": "demo", "parent": None}, *({"id": name, "parent": "demo"} for name in self.adapters)]
            return 200, {"object": "list", "data": listed}
        if path == "/v1/chat/completions":
            text = f"{body['model']} says [bold]\x1b[2J{body['messages'][0]['content']}"
            return 200, {"choices": [{"message": {"content": text}}]}
        return 200, {"choices": [{"text": f"{body['model']} completes"}]}

    def wait_for_looks(self, more: int = 2) -> None:
        """Until the adapter was looked at ``more`` times; the first of them may have begun before."""
        with self._looks:
            wanted = self._looked + more
            assert self._looks.wait_for(lambda: self._looked >= wanted, DEADLINE)

    def routes(self) -> list[str]:
        return [path for _, path, _ in self.asked]

    def changes(self) -> list[Any]:
        """The bodies of the requests about adapters that change something."""
        return [body for method, path, body in self.asked if method == "POST" and "lora" in path]

    def _load(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["lora_name"]
        known = self.adapters.get(name)
        version = known["version"] + 1 if known else 1
        self.during_change(name)
        if not self.ready:
            self.adapters[name] = _adapter(name, version, state="registered", instances={})
            return 202, {"lora_name": name, "version": version, "state": "registered", "instances": {}}
        self.adapters[name] = _adapter(name, version)
        return 200, {**self._changed(name), "unchecked": self.unchecked}

    def _unload(self, name: str) -> tuple[int, Any]:
        if self.adapters.pop(name, None) is None:
            return self._unknown(name)
        return 200, {"lora_name": name, "state": "unloaded"}

    def _rollback(self, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        if name not in self.adapters:
            return self._unknown(name)
        self.adapters[name] = _adapter(name, body.get("version") or self.adapters[name]["version"] - 1)
        return 200, self._changed(name)

    def _changed(self, name: str) -> dict[str, Any]:
        found = self.adapters[name]
        instances = {i: seen["state"] for i, seen in found["instances"].items()}
        return {"lora_name": name, "version": found["version"], "state": "loaded", "instances": instances}

    def _one(self, name: str) -> tuple[int, Any]:
        found = self.adapters.get(name)
        with self._looks:
            self._looked += 1
            self._looks.notify_all()
        if found is None:
            return self._unknown(name)
        return 200, {**found, "versions": [_version(n, n == found["version"]) for n in (1, 2)]}

    def _unknown(self, name: str) -> tuple[int, Any]:
        return 404, {"error": {"message": f"no adapter {name!r}"}}


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # a body is written after its head

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, answer = cluster.answer(self.command, self.path, body)
            if status == 200 and body and body.get("stream"):
                cluster.hold_tokens.wait(DEADLINE)
                self._send(status, "text/event-stream", f"data: {json.dumps(answer)}\n\ndata: [DONE]\n\n")
            else:
                self._send(status, "application/json", json.dumps(answer))

        do_POST = do_GET

        def _send(self, status: int, kind: str, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is part of the tests."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    found = Cluster()
    server = Server(("127.0.0.1", 0), _handler(found))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("CLUSTERCTL_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        yield found
    finally:
        found.hold_tokens.set()
        server.shutdown()
        server.server_close()
        thread.join()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `clusterctl lora …` as a shell would; its exit code, output and errors."""
    monkeypatch.setattr(pull_display, "_LOOK_EVERY", 0.02)

    def lora_command(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clusterctl", "lora", *args])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return lora_command


# Changing.


def test_load_sends_an_absolute_path_and_says_what_came_of_it(
    cluster: Cluster, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("load", "sql", "a/b", "--description", "writes SQL")
    assert (code, out) == (0, "sql: version 1 on 3 instances\n")
    assert cluster.changes() == [
        {"lora_name": "sql", "lora_path": str(tmp_path / "a/b"), "description": "writes SQL"}
    ]


def test_update_asks_for_the_next_version(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = _adapter("sql", 2)
    assert run("update", "sql", "/new")[:2] == (0, "sql: version 3 on 3 instances\n")
    assert cluster.changes() == [{"lora_name": "sql", "lora_path": "/new", "load_inplace": True}]


def test_an_update_of_none_that_there_is_changes_nothing(cluster: Cluster, run: Run) -> None:
    code, out, err = run("update", "nope", "/new")
    assert (code, out) == (1, "") and err.startswith("error: no adapter 'nope'")
    assert cluster.changes() == []


@pytest.mark.parametrize("command", ["load", "update"])
def test_one_that_may_do_nothing_is_asked_for_as_such(cluster: Cluster, run: Run, command: str) -> None:
    cluster.adapters["sql"] = _adapter("sql")
    assert run(command, "sql", "/new", "--allow-no-effect")[0] == 0
    (asked,) = cluster.changes()
    assert asked["allow_no_effect"] is True


def test_validate_refuses_what_does_nothing(run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter_path("poet"), tmp_path / "zeros"))
    raw = (folder / "adapter_model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    (folder / "adapter_model.safetensors").write_bytes(raw[:start] + bytes(len(raw) - start))
    code, _, err = run("validate", str(folder))
    assert code == 1 and "has no effect" in err
    assert run("validate", str(folder), "--allow-no-effect")[0] == 0


@pytest.mark.parametrize(("args", "version", "body"), [((), 2, {}), (("--to", "1"), 1, {"version": 1})])
def test_rollback_goes_back(cluster: Cluster, run: Run, args: tuple[str, ...], version: int, body: Any) -> None:
    cluster.adapters["sql"] = _adapter("sql", 3)
    assert run("rollback", "sql", *args)[:2] == (0, f"sql: version {version} on 3 instances\n")
    assert cluster.changes() == [body] and "/v1/lora_adapters/sql/rollback" in cluster.routes()


def test_unload_takes_it_off(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = _adapter("sql")
    assert run("unload", "sql") == (0, "sql: unloaded\n", "")
    assert run("unload", "sql") == (1, "", "error: no adapter 'sql'\n")


def test_without_a_ready_worker_it_is_registered(cluster: Cluster, run: Run) -> None:
    cluster.ready = False
    assert run("load", "sql", "/a")[:2] == (0, "sql: version 1 registered; it is loaded when a worker is ready\n")


def test_what_could_not_be_checked_is_said(cluster: Cluster, run: Run) -> None:
    cluster.unchecked = ["the shapes: the base model cannot be read"]
    code, out, err = run("load", "sql", "/a")
    assert (code, out) == (0, "sql: version 1 on 3 instances\n")
    assert err.splitlines()[-1] == "not checked: the shapes: the base model cannot be read"


@pytest.mark.parametrize(
    ("instances", "line"),
    [
        ({"a": "loaded"}, "on 1 instance"),
        ({"a": "loaded", "b": "lazy"}, "on 1 of 2 instances"),
        ({"a": "lazy", "b": "lazy"}, "on 0 of 2 instances"),
    ],
)
def test_instances_without_it_are_not_counted(
    cluster: Cluster, run: Run, monkeypatch: pytest.MonkeyPatch, instances: dict[str, str], line: str
) -> None:
    answer = {"lora_name": "sql", "version": 4, "state": "loaded", "instances": instances}
    monkeypatch.setattr(cluster, "_load", lambda body: (200, answer))
    assert run("load", "sql", "/a")[:2] == (0, f"sql: version 4 {line}\n")


@pytest.mark.parametrize(("status", "code"), [(400, 2), (404, 1), (409, 1), (500, 1), (503, 1)])
def test_a_refusal_is_one_line_in_the_clusters_words(cluster: Cluster, run: Run, status: int, code: int) -> None:
    cluster.adapters["sql"], words = _adapter("sql"), "instance_1: rank 64 is above 16"
    for args in (("load", "sql", "/a"), ("update", "sql", "/a")):
        cluster.refusals["/v1/load_lora_adapter"] = (status, words)
        assert run(*args) == (code, "", f"error: {words}\n")


@pytest.mark.parametrize(
    "args",
    [
        ("load", "a b", "/a"), ("load", "sql"), ("load", "a/b", "/a"), ("show", ""), ("update", "x" * 129, "/a"),
        ("rollback", "sql", "--to", "0"), ("rollback", "sql", "--to", "x"), ("unload",), ("test", "sql"),
        ("test", "sql", "hi", "--max-tokens", "0"), ("bench", "sql"), ("bench", "--cycles", "0"), ("lst",),
        ("load", "sql", "~nobody-here/a"), ("validate", "/a", "--model", "/absent"),
    ],
)  # fmt: skip
def test_wrong_use_asks_the_cluster_nothing(cluster: Cluster, run: Run, args: tuple[str, ...]) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith("Error: ")
    assert cluster.asked == []


def test_url_names_another_cluster(run: Run) -> None:
    for args in (("list",), ("load", "sql", "/a"), ("test", "sql", "hi"), ("bench",)):
        code, _, err = run(*args, "--url", "http://127.0.0.1:1")
        assert code == 1 and err.startswith("error: no cluster at http://127.0.0.1:1 ")


# Progress.


def _roll(cluster: Cluster) -> Callable[[str], None]:
    """Two instances after each other, each seen before the next is touched."""

    def change(name: str) -> None:
        states = {i: {"state": "loaded", "version": 1, "reason": ""} for i in INSTANCES[:2]}
        cluster.adapters[name] = _adapter(name, instances=dict(states))
        cluster.wait_for_looks()
        for instance in INSTANCES[:2]:
            for step in ({"state": "loading", "version": 2, "reason": "drains"}, {**states[instance], "version": 2}):
                states[instance] = step
                cluster.adapters[name] = _adapter(name, instances=dict(states))
                cluster.wait_for_looks()

    return change


def test_progress_is_a_line_a_change_where_there_is_no_terminal(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = _adapter("sql", instances={i: {"state": "loaded", "version": 1} for i in INSTANCES[:2]})
    cluster.during_change = _roll(cluster)
    code, out, err = run("update", "sql", "/new")
    assert (code, out) == (0, "sql: version 2 on 3 instances\n")
    assert err.splitlines()[:4] == [
        "instance_0: loading version 2 (drains)",
        "instance_0: loaded version 2",
        "instance_1: loading version 2 (drains)",
        "instance_1: loaded version 2",
    ]
    assert len(err.splitlines()) <= 5  # the third instance may be seen before the answer comes


class _DrawnAtOnce(Live):
    """Misses nothing between two of its pictures."""

    def update(self, renderable: RenderableType, *, refresh: bool = False) -> None:
        super().update(renderable, refresh=True)


def test_progress_is_drawn_on_a_terminal(cluster: Cluster, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(watch, "Live", _DrawnAtOnce)
    cluster.during_change = _roll(cluster)
    code, out, err = run("load", "sql", "/new")
    assert (code, out.splitlines()[-1]) == (0, "sql: version 1 on 3 instances")
    assert "\x1b[" in err and "drains" in err and "instance_1" in err


def test_progress_never_fails_a_change(cluster: Cluster, run: Run) -> None:
    cluster.refusals["/v1/lora_adapters/sql"] = (500, "broken")
    assert run("load", "sql", "/a") == (0, "sql: version 1 on 3 instances\n", "")


# Looking.


def test_list_shows_each_adapter_on_each_instance(cluster: Cluster, run: Run) -> None:
    mixed = {
        "instance_0": {"state": "loaded", "version": 2, "reason": ""},
        "instance_1": {"state": "loaded", "version": 1, "reason": ""},
        "instance_9": {"state": "refused", "version": None, "reason": "no"},
    }
    cluster.adapters = {
        "sql": _adapter("sql", 2, instances=mixed, requests_total=41, last_used=time.time() - 240),
        "chat": _adapter("chat", 1, size=3_400_000_000, rank=None),
    }
    code, out, _ = run("list")
    rows = [line.split("  ") for line in out.splitlines()]
    heading, sql, chat = ([cell.strip() for cell in row if cell.strip()] for row in rows)
    assert code == 0
    assert heading == [
        "name", "version", "rank", "size", "state", "instance_0", "instance_1", "instance_9", "instance_2",
        "requests", "last use",
    ]  # fmt: skip
    assert sql == ["sql", "2", "8", "12.3 kB", "loaded", "loaded", "loaded v1", "refused", "-", "41", "4 min ago"]
    assert chat == ["chat", "1", "-", "3.4 GB", "loaded", "loaded", "loaded", "-", "loaded", "0", "-"]


def test_list_without_adapters_says_so(cluster: Cluster, run: Run) -> None:
    assert run("list") == (0, "no adapters\n", "")


def test_json_is_what_the_api_answers(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = _adapter("sql", 2)
    assert json.loads(run("list", "--json")[1]) == {"adapters": [_adapter("sql", 2)]}
    shown = json.loads(run("show", "sql", "--json")[1])
    assert shown["lora_name"] == "sql" and [v["version"] for v in shown["versions"]] == [1, 2]


def test_show_marks_the_active_version_and_says_why_it_is_missing(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = _adapter(
        "sql", 2, description="writes [SQL]", auto_load=False,
        instances={"instance_0": {"state": "refused", "version": None, "reason": "no [slot] left"}},
    )
    code, out, _ = run("show", "sql")
    lines = [line.rstrip() for line in out.splitlines()]
    assert code == 0 and lines[0] == "sql: writes [SQL]" and "loaded on first use" in lines[1]
    (active,) = (line for line in lines if line.startswith("*"))
    assert active.split()[1:4] == ["2", "2" * 12, "8"] and "q_proj, v_proj" in active and "/adapters/v2" in active
    assert any(line.startswith("instance_0") and line.endswith("no [slot] left") for line in lines)


def test_show_of_nobody_is_the_clusters_to_explain(cluster: Cluster, run: Run) -> None:
    assert run("show", "sql") == (1, "", "error: no adapter 'sql'\n")


# Asking.


def test_both_answers_stand_side_by_side(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = _adapter("sql")
    code, out, _ = run("test", "sql", "hello", "--max-tokens", "5")
    assert code == 0 and "\x1b" not in out
    said = out.splitlines()[1]
    assert "demo says [bold]\\x1b[2Jhello" in said and "sql says [bold]\\x1b[2Jhello" in said
    bodies = [body for _, path, body in cluster.asked if path == "/v1/chat/completions"]
    assert [(b["model"], b["max_tokens"], b["temperature"]) for b in bodies] == [("demo", 5, 0), ("sql", 5, 0)]


def test_a_model_that_cannot_chat_completes(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = _adapter("sql")
    cluster.refusals["/v1/chat/completions"] = (400, "no chat template")
    code, out, _ = run("test", "sql", "hello")
    assert code == 0 and "demo completes" in out and "sql completes" in out


@pytest.mark.parametrize("name", ["nobody", "demo"])
def test_what_is_no_adapter_is_not_asked(cluster: Cluster, run: Run, name: str) -> None:
    assert run("test", name, "hello") == (1, "", f"error: no adapter {name!r}\n")
    assert "/v1/chat/completions" not in cluster.routes()


# Checking, without a cluster.


@pytest.mark.parametrize("name", ["pirate", "poet"])
def test_the_demo_adapters_are_valid(run: Run, name: str) -> None:
    for args in ((), ("--model", str(model_path()))):
        code, out, err = run("validate", str(adapter_path(name)), *args)
        assert (code, err) == (0, "") and out.startswith("ok: rank ")


def test_an_adapter_that_would_be_refused_is_told_in_one_line(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(adapter_path("pirate"), broken)
    (broken / "adapter_model.safetensors").unlink()
    for path, args in (
        (tmp_path / "absent", ()), (tmp_path, ()), (broken, ()), (adapter_path("pirate"), ("--max-lora-rank", "1")),
    ):  # fmt: skip
        code, out, err = run("validate", str(path), *args)
        assert (code, out) == (1, "") and err.startswith("error: ") and err.count("\n") == 1


# Measuring.


def test_bench_measures_and_leaves_nothing(cluster: Cluster, run: Run) -> None:
    code, out, _ = run("bench", "--cycles", "3")
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["mean", "ms", "p50", "ms", "p95", "ms"]
    assert [line[: line.index("  ")] for line in lines[1:]] == ["load", "first token", "unload"]
    assert all(float(number) > 0 for line in lines[1:] for number in line.split()[-3:])
    loads = [body for body in cluster.changes() if body and "lora_path" in body]
    assert loads == [{"lora_name": "bench-lora", "lora_path": str(adapter_path("pirate"))}] * 3
    assert cluster.adapters == {} and cluster.routes().count("/v1/unload_lora_adapter") == 3


def test_bench_never_unloads_what_it_did_not_load(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = _adapter("sql")
    code, _, err = run("bench", "sql", "/a")
    assert code == 1 and "bench needs one that it may unload" in err
    assert list(cluster.adapters) == ["sql"] and cluster.routes() == ["/v1/lora_adapters/sql"]


def test_bench_that_fails_leaves_nothing(cluster: Cluster, run: Run) -> None:
    cluster.refusals["/v1/completions"] = (500, "the engine broke")
    assert run("bench", "mine", "/a") == (1, "", "error: the engine broke\n")
    assert cluster.adapters == {}
    cluster.refusals = {"/v1/load_lora_adapter": (400, "no adapter there")}
    assert run("bench", "mine", "/a") == (2, "", "error: no adapter there\n")
    cluster.refusals, cluster.ready = {}, False
    code, _, err = run("bench", "mine", "/a")
    assert code == 1 and "no worker is ready" in err and cluster.adapters == {}


def test_bench_that_cannot_clean_up_says_so(cluster: Cluster, run: Run) -> None:
    cluster.refusals = {"/v1/unload_lora_adapter": (503, "busy"), "/v1/completions": (500, "the engine broke")}
    code, _, err = run("bench", "mine", "/a")
    assert (code, err) == (1, "mine may still be loaded: busy\nerror: the engine broke\n")


@pytest.mark.processes
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_bench_that_is_interrupted_leaves_nothing(cluster: Cluster, number: signal.Signals, code: int) -> None:
    cluster.hold_tokens.clear()
    # A shell that starts tests in the background has them ignore SIGINT, and children inherit that.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from cluster.cli import main; main()"
    )
    process = subprocess.Popen([sys.executable, "-c", program, "lora", "bench"], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + DEADLINE
        while "/v1/completions" not in cluster.routes():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err.strip()) == (code, "") and cluster.adapters == {}

