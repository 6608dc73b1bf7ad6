"""Who asks, as a whole balancer sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from config.identity import admin_token
from config.identity.principal import Principal
from config.link import bind_unix
from config.paths import StateDir
from fakes import soon
from lbfakes import Balanced, Worker, read_message

STATUS = "/v1/cluster/status"

Start = Callable[..., Awaitable[Any]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """What the kernel was asked; it says that everybody is somebody else."""
    found: list[tuple[Any, Any]] = []

    def uid_of_peer(peer: Any, local: Any) -> int:
        found.append((peer, local))
        return 4711

    monkeypatch.setattr("lb.downstream.peer.uid_of_peer", uid_of_peer)
    return found


async def test_another_users_connection_is_refused_and_the_kernel_asked_once(
    balancer: Balanced, asked: list[tuple[Any, Any]]
) -> None:
    for _ in range(3):  # on one connection
        status, answer = await balancer.answer("GET", STATUS)
        assert status == 403 and "user 4711" in answer["error"]["message"]
        assert answer["error"]["type"] == "PermissionDeniedError"
    assert len(asked) == 1 and asked[0][1] == ("127.0.0.1", balancer.port)


async def test_the_kernel_is_not_asked_for_what_is_open_or_shows_itself(
    balancer: Balanced, start_worker: Start, asked: list[tuple[Any, Any]]
) -> None:
    worker: Worker = await start_worker()
    balancer.push(worker.spec())
    admin_token.ensure(balancer.state_dir / "admin.token")
    token = {"Authorization": f"Bearer {admin_token.read(balancer.state_dir / 'admin.token')}"}
    assert (await balancer.ask())[0] == 200
    assert (await balancer.answer("GET", "/v1/models"))[0] == 200
    async with balancer.request("GET", "/metrics") as response:
        assert response.status == 200
    assert (await balancer.answer("GET", STATUS, headers=token))[0] == 200
    assert (await balancer.answer("GET", STATUS, headers={"Via": "1.1 x"}))[0] == 403
    assert asked == []


async def test_a_kernel_that_did_not_tell_is_asked_again(balancer: Balanced, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [None, 0]
    monkeypatch.setattr("lb.downstream.peer.uid_of_peer", lambda *_: answers.pop(0))
    assert [(await balancer.answer("GET", STATUS))[0] for _ in range(3)] == [403, 200, 200]


@pytest.mark.parametrize("line", ["Via: 1.1 proxy", "X-Real-IP: 127.0.0.1", "CF-Ray: 1", "X-Forwarded-Proto: http",
                                  "Connection: x-real-ip, close"])  # fmt: skip
async def test_through_a_proxy_nobody_is_the_owner(balancer: Balanced, line: str) -> None:
    for path in (STATUS, "/metrics"):
        head = f"GET {path} HTTP/1.1\r\nHost: localhost:{balancer.port}\r\n{line}\r\nConnection: close\r\n\r\n"
        answer = await balancer.raw(head.encode())
        assert answer.startswith(b"HTTP/1.1 403") and b"came through a proxy" in answer


async def test_as_nginx_asks_nobody_is_the_owner(balancer: Balanced) -> None:
    answer = await balancer.raw(
        f"GET {STATUS} HTTP/1.0\r\nHost: 127.0.0.1:{balancer.port}\r\nConnection: close\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 403") and b"HTTP/1.0" in answer


async def test_metrics_are_protected_where_that_is_set(start_balancer: Start) -> None:
    balancer: Balanced = await start_balancer(protect_metrics=True, admin_key="key")
    for given, expected in (({}, 401), ({"Authorization": "Bearer key"}, 200)):
        async with balancer.request("GET", "/metrics", headers=given) as response:
            assert response.status == expected


@pytest.mark.parametrize("claimed", ["", "X-Cluster-Principal: root;owner\r\nX-Cluster-Peer: 192.0.2.1\r\n"])
async def test_the_supervisor_is_told_who_asks_whatever_the_client_claims(
    start_balancer: Start, monkeypatch: pytest.MonkeyPatch, claimed: str
) -> None:
    balancer: Balanced = await start_balancer(admin_key="key")
    heads: list[bytes] = []

    async def supervisor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_message(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_unix_server(supervisor, sock=bind_unix(balancer.state_dir / "control.sock"))
    async with server:
        for scopes in ("admin", "owner"):  # also where what comes is the same byte for byte
            who = Principal.from_line(f"somebody;{scopes}")
            monkeypatch.setattr("lb.admission.access.credentials.Credentials.principal", lambda *_, who=who: who)
            await balancer.raw(
                f"POST /v1/cluster/scale HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n{claimed}"
                "Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}".encode()
            )
    lines = [[line for line in head.split(b"\r\n") if b"rincipal" in line] for head in heads]
    assert lines == [[b"X-Cluster-Principal: somebody;admin"], [b"X-Cluster-Principal: somebody;owner"]]
    peers = [[line for line in head.split(b"\r\n") if line.lower().startswith(b"x-cluster-peer")] for head in heads]
    assert peers == [[b"X-Cluster-Peer: 127.0.0.1"]] * 2


async def test_a_key_is_in_no_answer_and_no_log(
    start_balancer: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    log = StateDir(tmp_path).log("access")
    log.parent.mkdir()
    balancer: Balanced = await start_balancer(admin_key="s3cret", access_log="on")
    answers = []
    for given in ("s3cret", "s3cret2", "s3cre"):
        async with balancer.request("GET", STATUS, headers={"Authorization": f"Bearer {given}"}) as response:
            answers.append((response.status, await response.text()))
    assert [status for status, _ in answers] == [200, 401, 401]
    await soon(lambda: log.exists() and log.read_text().count("\n") >= 2, "both refusals are logged")
    everything = "".join(text for _, text in answers) + log.read_text() + caplog.text + "".join(capfd.readouterr())
    assert "s3cre" not in everything


@pytest.mark.parametrize("target", [
    "/ui/../v1/cluster/status", "/ui/%2e%2e/v1/cluster/status", "/ui/..%2fv1/cluster/status", "/ui//v1/cluster/status",
    "//v1/cluster/status", "/v1/%63luster/status", "/%76%31/cluster/status", "/V1/cluster/status",
    "/health/../v1/cluster/status", "/v1/models/../cluster/status", "/metrics/../v1/cluster/status",
    "/v1/cluster/ui/session/../../status", "/v1/cluster/status;x", "/v1/cluster/status%3f", "/v1/cluster/status/",
    "/v1/cluster//status", "http://localhost/v1/cluster/status", "/?/v1/cluster/status", "/ui/?x=/v1/cluster/status",
    "/v1/cluster/./status", "/./v1/cluster/status", "/ui;/../v1/cluster/status", "\\v1/cluster/status",
])  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_other_spelling_of_a_route_gets_round_the_guard(
    balancer: Balanced, asked: list[tuple[Any, Any]], method: str, target: str
) -> None:
    answer = await balancer.raw(
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 2\r\nConnection: close\r\n\r\n{}".encode()
    )
    harmless = target.startswith(("/ui/?", "/?"))  # the page
    assert answer.split(b" ")[1] in ((b"200", b"404", b"405") if harmless else (b"400", b"403", b"404", b"405"))
    assert harmless or b"supervisor" not in answer


@pytest.mark.parametrize(("who", "status"), [
    ("owner;owner", 200), ("token;owner", 200), ("session;owner", 403), ("key;admin", 403), ("key;read", 403),
])  # fmt: skip
async def test_a_link_is_made_by_the_owner_and_not_by_a_session(
    start_balancer: Start, monkeypatch: pytest.MonkeyPatch, who: str, status: int
) -> None:
    """What it leads to may everything: nobody gets more by it, and no session makes itself longer."""
    balancer: Balanced = await start_balancer(admin_key="key")
    admin_token.ensure(balancer.state_dir / "admin.token")
    principal = Principal.from_line(who)
    monkeypatch.setattr("lb.admission.access.credentials.Credentials.principal", lambda *_: principal)
    made = await balancer.answer("POST", "/v1/cluster/ui/link", json={}, headers={"Authorization": "Bearer t"})
    assert made[0] == status
    assert list((balancer.state_dir / "links").glob("*")) == [] or status == 200


async def test_a_code_over_http_works_once_in_whichever_process(start_balancer: Start) -> None:
    balancer: Balanced = await start_balancer(admin_key="key")
    admin_token.ensure(balancer.state_dir / "admin.token")
    key = {"Authorization": "Bearer key"}
    _, link = await balancer.answer("POST", "/v1/cluster/ui/link", json={}, headers=key)
    exchanges = [await balancer.answer("POST", "/v1/cluster/ui/session", json={"code": link["code"]}) for _ in "12"]
    assert [status for status, _ in exchanges] == [200, 401]
    session = {"Authorization": f"Bearer {exchanges[0][1]['token']}"}
    assert (await balancer.answer("GET", STATUS, headers=session))[0] == 200
    assert (await balancer.answer("GET", STATUS))[0] == 401
