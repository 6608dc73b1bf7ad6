"""The token of a cluster on this machine: when it is sent, and to whom never."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from cluster.client import AsyncClusterClient, ClusterClient, ClusterError, token
from cluster.tools.chat.openai_client import OpenAIClient
from config.identity import admin_token

#: What each request said of itself.
Heard = list[str | None]


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CLUSTERCTL_STATE_DIR", str(tmp_path))
    admin_token.ensure(tmp_path / "admin.token")
    return admin_token.read(tmp_path / "admin.token") or ""


@pytest.fixture
def cluster(secret: str) -> Iterator[tuple[str, Heard]]:
    """One that wants the token: its URL, and what it was asked with."""
    heard: Heard = []

    class Answer(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True  # a body is written after its head

        def do_GET(self) -> None:
            heard.append(given := self.headers.get("Authorization"))
            body = b"{}"
            self.send_response(200 if given == f"Bearer {secret}" else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody wants it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", heard
        server.shutdown()
        thread.join()


async def test_who_is_refused_asks_again_with_the_token(cluster: tuple[str, Heard], secret: str) -> None:
    url, heard = cluster
    with ClusterClient(url) as client:
        assert client.status() == {}
    async with AsyncClusterClient(url) as other:
        assert await other.status() == {}
    with OpenAIClient(url) as asks:
        assert asks.metrics() == "{}"
    assert heard == [None, f"Bearer {secret}"] * 3


def test_a_key_that_is_given_is_the_only_one(cluster: tuple[str, Heard]) -> None:
    url, heard = cluster
    with ClusterClient(url, "key") as client, pytest.raises(ClusterError):
        client.status()
    assert heard == ["Bearer key"]


@pytest.mark.parametrize("key", ["key\n", " key", "\ufeffkey \r\n"])
def test_a_key_as_it_stands_in_a_file_is_sent_without_what_is_around_it(cluster: tuple[str, Heard], key: str) -> None:
    url, heard = cluster
    with ClusterClient(url, key) as client, OpenAIClient(url, key) as asks:
        for ask in (client.status, asks.metrics):
            with pytest.raises(ClusterError):
                ask()
    assert heard == ["Bearer key"] * 2


@pytest.mark.parametrize("key", ["s3cret\nX-Evil: 1", "s3cret\0", "  ", "s3cret\udcff"])
def test_a_key_that_cannot_be_sent_is_neither_sent_nor_shown(cluster: tuple[str, Heard], key: str) -> None:
    url, heard = cluster
    for make in (ClusterClient, AsyncClusterClient, OpenAIClient):
        with pytest.raises(ClusterError, match="key cannot be sent") as refused:
            make(url, key)
        assert "s3cret" not in str(refused.value)
    assert heard == []


@pytest.mark.parametrize("change", [
    lambda m: m.delenv("CLUSTERCTL_STATE_DIR"),
    lambda m: m.setattr(token, "uid_of_listener", lambda _: os.geteuid() + 1),
    lambda m: m.setattr(token, "is_of_this_machine", lambda _: False),
])  # fmt: skip
def test_it_is_not_sent_where_it_could_be_anothers(
    cluster: tuple[str, Heard], monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Another cluster's state directory, another user's port, another machine."""
    url, heard = cluster
    change(monkeypatch)
    with ClusterClient(url) as client, pytest.raises(ClusterError):
        client.status()
    assert heard == [None]


@pytest.mark.parametrize(("host", "here"), [
    ("127.0.0.1", True), ("::1", True), ("localhost", True), ("192.0.2.1", False), ("2001:db8::1", False),
    ("no.such.host.invalid", False), ("", False),
])  # fmt: skip
def test_which_addresses_are_this_machines(host: str, here: bool) -> None:
    assert token.is_of_this_machine(host) == here


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("hides", [False, True])
def test_another_user_who_took_the_port_does_not_get_it(secret: str, hides: bool) -> None:
    """``hides``: nothing listens any more when the client looks who does, and the connection is kept."""
    program = f"""
import encodings.idna, os, socket
os.setgid(65534); os.setuid(65534)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
client, _ = listener.accept()
if {hides}:
    listener.close()
while asked := client.recv(65536):
    print("token" if b"uthorization" in asked else "no token", flush=True)
    client.sendall(b"HTTP/1.1 403 Forbidden\\r\\nContent-Length: 2\\r\\n\\r\\n{{}}")
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as thief:
        try:
            assert thief.stdout is not None
            url = f"http://127.0.0.1:{int(thief.stdout.readline())}"
            with ClusterClient(url) as client, pytest.raises(ClusterError):
                client.status()
            assert thief.stdout.read() == "no token\n"
        finally:
            thief.kill()


def test_who_sends_many_requests_asks_once_for_the_key_of_all(cluster: tuple[str, Heard], secret: str) -> None:
    url, heard = cluster
    assert token.key_for(url, "given") == "given" and heard == []
    assert token.key_for(url, None) == secret
    assert heard == [None, f"Bearer {secret}"]
    assert token.key_for("http://127.0.0.1:1", None) is None
