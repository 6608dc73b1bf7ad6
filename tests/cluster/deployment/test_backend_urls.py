"""`--backend` and `--backend-key-file`."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.deployment.backend_urls import parse
from config.errors import UsageError
from config.topology import BackendSpec


def _one(url: str = "http://h:1") -> BackendSpec:
    (found,) = parse((url,), None, epoch=5)
    return found


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://10.0.0.7:8000", "http://10.0.0.7:8000"),
        ("http://10.0.0.7", "http://10.0.0.7:80"),
        ("https://gpu.example/", "https://gpu.example:443"),
        ("http://h:1/v1", "http://h:1"),
        ("http://h:1/v1/", "http://h:1"),
        ("http://h:1/models/a/", "http://h:1/models/a"),
        ("http://h:1/models/a/v1", "http://h:1/models/a"),
        ("http://[::1]:9", "http://[::1]:9"),
    ],
)
def test_a_url_is_understood_with_or_without_the_apis_path(url: str, address: str) -> None:
    assert _one(url).address == address


def test_backends_are_numbered_and_belong_to_this_epoch() -> None:
    found = parse(("http://a", "http://b"), None, epoch=5)
    assert [a.id for a in found] == ["backend_0", "backend_1"]
    assert {(a.incarnation, a.managed, a.state) for a in found} == {(5, False, "starting")}


@pytest.mark.parametrize(
    "url",
    ["", "h:80", "10.0.0.7", "ftp://h", "http://", "http://h:x", "http://h:99999", "http://h:0", "http://[::1",
     "http://u:p@h", "http://h?x=1", "http://h#x"],
)  # fmt: skip
def test_what_is_no_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(UsageError) as error:
        _one(url)
    assert str(error.value).startswith(f"--backend {url}: ") and error.value.exit_code == 2


def test_the_key_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" secret\n")
    (found,) = parse(("http://a",), tmp_path / "key", 1)
    assert found.api_key == "secret" and _one().api_key is None


@pytest.mark.parametrize("name", ["none", ".", "binary", "~no_such_user/key"])
def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    path = Path(name) if name[0] == "~" else tmp_path / name
    with pytest.raises(UsageError, match=r"^--backend-key-file ") as error:
        parse(("http://a",), path, 1)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("content", [b"s3cret", b"s3cret\n", b" s3cret \r\n", b"\xef\xbb\xbfs3cret\r\n"])
def test_the_key_is_what_stands_in_its_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    (found,) = parse(("http://h:1",), tmp_path / "key", epoch=1)
    assert found.api_key == "s3cret"


@pytest.mark.parametrize("content", [b"", b" \n", b"s3cret\nmore", b"s3cret\0", b"s3cret\xff", b"s3cret\x1b[0m"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match=r"^--backend-key-file ") as error:
        parse(("http://h:1",), tmp_path / "key", epoch=1)
    assert "s3cret" not in str(error.value) and "xff" not in str(error.value)
