"""Fetched from behind a URL."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from certificates import issue
from origins import Origin, adapter_files
from pulling import Pulling
from worker.jobs.job import JobFailed
from worker.sources import parts

SHA = "0" * 64


def packed(kind: str, top: str = "pirate/") -> bytes:
    raw = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as out:
            for name, content in adapter_files().items():
                out.writestr(top + name, content)
        return raw.getvalue()
    with tarfile.open(fileobj=raw, mode=f"w:{kind}") as tar:  # type: ignore[call-overload]
        for name, content in adapter_files().items():
            info = tarfile.TarInfo(top + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


@pytest.mark.parametrize(("ending", "kind"), [(".zip", "zip"), (".tar", ""), (".tar.gz", "gz"), (".tgz", "gz"),
                                              (".tar.bz2", "bz2"), (".tar.xz", "xz")])
@pytest.mark.parametrize("top", ["pirate/", ""])
def test_archives_of_all_kinds_with_and_without_a_folder(
    origin: Origin, pulling: Pulling, ending: str, kind: str, top: str
) -> None:
    origin.files[f"x/pirate{ending}"] = packed(kind, top)
    found = pulling(f"{origin.url}/x/pirate{ending}")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (Path(found.folder) / name).read_bytes() == adapter_files()[name]
    assert len(found.files) == 2 == len(list(Path(found.folder).iterdir()))


def test_weights_alone_bring_the_configuration_beside_them(origin: Origin, pulling: Pulling) -> None:
    found = pulling(f"{origin.url}/org/pirate/adapter_model.safetensors")
    assert set(found.files) == {"adapter_config.json", "adapter_model.safetensors"}
    origin.log.clear()
    assert pulling(f"{origin.url}/org/pirate/adapter_model.safetensors") == found and not origin.log


def test_a_named_checksum_is_held_to(origin: Origin, pulling: Pulling) -> None:
    origin.files["a.zip"] = packed("zip")
    with pytest.raises(JobFailed, match="does not have the checksum that was to be expected") as failed:
        pulling(f"{origin.url}/a.zip#sha256={SHA}")
    assert failed.value.status == 502
    assert not [name for name in pulling.left() if "partial" not in name]


def test_room_is_looked_for_before_anything_is_fetched(
    origin: Origin, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.sources.pull.free_bytes", lambda _: 64 << 20)
    with pytest.raises(JobFailed, match=r"no room for 0\.2 MiB in .*, where nothing of it was left") as failed:
        pulling(f"{origin.url}/org/pirate/adapter_model.safetensors")
    assert failed.value.status == 507 and not pulling.left()
    assert all(headers["range"] == "bytes=0-0" for headers in origin.asked("adapter"))


def test_a_query_is_shown_to_nobody(origin: Origin, pulling: Pulling) -> None:
    origin.files["a.zip"] = packed("zip")
    found = pulling(f"{origin.url}/a.zip?X-Amz-Signature=secret")
    assert "secret" not in found.origin and "?…" in found.origin
    assert not any(b"secret" in path.read_bytes() for path in pulling.store.root.rglob("*.json"))
    with pytest.raises(JobFailed) as failed:
        pulling(f"{origin.url}/gone.zip?X-Amz-Signature=secret")
    assert "secret" not in str(failed.value) and failed.value.status == 404


def test_broken_off_it_goes_on_with_the_part_that_is_missing(
    origin: Origin, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.fetch, "__defaults__", (50_000,))
    origin.break_after = [20_000]
    url = f"{origin.url}/org/pirate/adapter_model.safetensors"
    assert pulling(url).files
    asked = [headers["range"] for headers in origin.asked("safetensors")]
    assert len(asked) == 1 + 4 + 1, f"the look, four parts, one of them again: {asked}"
    assert pulling.slept == [1.0]


def test_without_ranges_it_begins_anew(origin: Origin, pulling: Pulling) -> None:
    origin.ranges, origin.break_after = False, [20_000, 1 << 20]
    origin.break_after = []
    origin.fail = [503]
    assert pulling(f"{origin.url}/org/pirate/adapter_model.safetensors").files
    assert pulling.slept == [0.0]


def test_a_file_that_changes_meanwhile_is_noticed(
    origin: Origin, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = parts.fetch

    def late(target: Path, *given: object) -> None:
        origin.files["org/pirate/adapter_model.safetensors"] = b"x" * 1000
        fetch(target, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(parts, "fetch", late)
    with pytest.raises(JobFailed, match="changed while it was fetched: try again"):
        pulling(f"{origin.url}/org/pirate/adapter_model.safetensors")


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("file:///etc/passwd", "leads elsewhere: file:// is not fetched"),
        ("http://example.com/a.zip", "leads elsewhere: http://example.com: anybody on the way"),
        ("https://user:word@example.com/a.zip", "leads elsewhere: https://…@example.com: a password"),
        ("ftp://example.com/a.zip", "leads elsewhere: ftp:// is not known"),
        ("https://example.com/a.zip", "example.com is none of the hosts that source_hosts allows"),
    ],
)
def test_where_a_redirect_may_not_lead(origin: Origin, pulling: Pulling, target: str, sentence: str) -> None:
    pulling.hosts = ("127.0.0.1", "*.example.org")
    origin.redirect["a.zip"] = target
    with pytest.raises(JobFailed, match=sentence) as failed:
        pulling(f"{origin.url}/a.zip")
    assert failed.value.status == 403


def test_a_redirect_is_followed_but_not_for_ever(origin: Origin, pulling: Pulling) -> None:
    origin.files["b.zip"] = packed("zip")
    origin.redirect = {"a.zip": f"{origin.url}/b.zip", "c.zip": f"{origin.url}/c.zip"}
    assert pulling(f"{origin.url}/a.zip").files
    with pytest.raises(JobFailed, match="more than 5 redirects"):
        pulling(f"{origin.url}/c.zip")


def test_more_than_was_said_is_not_taken(origin: Origin, pulling: Pulling) -> None:
    origin.files["a.zip"] = packed("zip")
    origin.headers = {"content-encoding": "gzip"}
    assert pulling(f"{origin.url}/a.zip").files, "what comes is not decompressed on the way"


def test_a_certificate_that_nobody_trusts_is_refused_and_one_in_ssl_cert_file_is_taken(
    tmp_path: Path, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = issue(tmp_path)
    server = Origin(issued)
    server.files["a.zip"] = packed("zip")
    try:
        with pytest.raises(JobFailed, match="its certificate is not trusted"):
            pulling(f"{server.url}/a.zip")
        monkeypatch.setenv("SSL_CERT_FILE", str(issued.cert))
        assert pulling(f"{server.url}/a.zip").files
    finally:
        server.close()


@pytest.mark.parametrize("name", ["model.bin", "x", "a.exe", "a.rar"])
def test_what_is_neither_an_archive_nor_weights_is_refused(origin: Origin, pulling: Pulling, name: str) -> None:
    with pytest.raises(JobFailed, match="is neither an archive") as failed:
        pulling(f"{origin.url}/{name}")
    assert failed.value.status == 400 and not origin.log
