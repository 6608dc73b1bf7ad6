"""Fetched from S3 by boto3, whose other end is moto's server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from harness import free_port
from origins import adapter_files
from pulling import Pulling
from worker.jobs.job import JobFailed
from worker.sources import parts
from worker.sources.remote import Transient

BUCKET = "adapters"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    port = free_port()
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client; the adapter lies at ``team/pirate``."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    for name, content in adapter_files().items():
        client.put_object(Bucket=BUCKET, Key=f"team/pirate/{name}", Body=content)
    yield client
    boto3.resource("s3", region_name="us-east-1").Bucket(BUCKET).objects.all().delete()
    client.delete_bucket(Bucket=BUCKET)


def test_an_adapter_is_fetched_and_a_change_seen(s3: Any, pulling: Pulling) -> None:
    first = pulling("s3://adapters/team/pirate")
    assert {p.name for p in Path(first.folder).iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert pulling("s3://adapters/team/pirate/", refresh=True).content == first.content
    s3.put_object(Bucket=BUCKET, Key="team/pirate/adapter_config.json", Body=b"{}")
    assert pulling("s3://adapters/team/pirate") == first
    second = pulling("s3://adapters/team/pirate", refresh=True)
    assert second.revision != first.revision and Path(second.folder, "adapter_config.json").read_bytes() == b"{}"


def test_parts_come_several_at_a_time_and_those_that_are_there_are_not_fetched_again(
    s3: Any, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, asked = parts.fetch, []

    def small(target: Path, size: int, tag: str, read: Any) -> None:
        def counted(first: int, last: int) -> Any:
            asked.append(first)
            if len(asked) == 4:
                raise Transient("the line is dead")
            return read(first, last)

        fetch(target, size, tag, counted, part=20_000)

    monkeypatch.setattr(parts, "fetch", small)
    found = pulling("s3://adapters/team/pirate")
    assert Path(found.folder, "adapter_model.safetensors").read_bytes() == adapter_files()["adapter_model.safetensors"]
    assert len(asked) < 2 * len(set(asked)), "not all of them twice"
    assert pulling.slept == [1.0]


def test_an_object_that_changes_meanwhile_is_noticed(
    s3: Any, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = parts.fetch

    def late(target: Path, *given: Any) -> None:
        s3.put_object(Bucket=BUCKET, Key=f"team/pirate/{target.name}", Body=b"other")
        fetch(target, *given)

    monkeypatch.setattr(parts, "fetch", late)
    with pytest.raises(JobFailed, match="changed while it was fetched: try again") as failed:
        pulling("s3://adapters/team/pirate")
    assert failed.value.status == 409


def test_a_wrong_checksum_leaves_nothing_in_the_store(
    s3: Any, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = parts.fetch

    def damaged(target: Path, *given: Any) -> None:
        fetch(target, *given)
        target.write_bytes(bytes(target.stat().st_size))

    monkeypatch.setattr(parts, "fetch", damaged)
    with pytest.raises(JobFailed, match="does not have the checksum that it was stored with"):
        pulling("s3://adapters/team/pirate")
    assert not [name for name in pulling.left() if name.endswith((".safetensors", "current.json", "record.json"))]


@pytest.mark.parametrize(
    ("reference", "sentence", "status"),
    [("s3://adapters/nothing", "there is nothing below it", 404), ("s3://nobodys-bucket/x", "has nothing there", 404)],
)
def test_what_is_not_there_is_said(s3: Any, pulling: Pulling, reference: str, sentence: str, status: int) -> None:
    with pytest.raises(JobFailed, match=sentence) as failed:
        pulling(reference)
    assert failed.value.status == status


def test_missing_keys_are_named(
    s3: Any, pulling: Pulling, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(JobFailed, match=r"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws") as failed:
        pulling("s3://adapters/team/pirate")
    assert failed.value.status == 403
