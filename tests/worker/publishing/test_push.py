"""What is pushed arrives, whole, by the real clients: at a hub, at ModelScope, in a bucket, in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.jobs.folder import JobFollower
from config.jobs.said import JobProgress
from takinghub import TakingHub
from worker.demo import adapter_path, model_path
from worker.jobs.job import Job, JobFailed
from worker.publishing import job as publishing
from worker.publishing.card import card

pytestmark = pytest.mark.long  # the clients take seconds to import

TOKEN = "hf_" + "t" * 34


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TakingHub]:
    found = TakingHub(TOKEN)
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, found.url)
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # read from the environment at import
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("MODELSCOPE_HOME", "MODELSCOPE_CACHE", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    yield found
    found.close()


def push(tmp_path: Path, destination: str, folder: Path | None = None, **more: Any) -> Mapping[str, Any]:
    (tmp_path / "job").mkdir(exist_ok=True)
    arguments = {"folder": str(folder or adapter_path("pirate")), "destination": destination, "name": "pirate", **more}
    return publishing.run(arguments, Job(tmp_path / "job", lambda: 0.0))


WEIGHTS = (adapter_path("pirate") / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(("scheme", "public"), [("hf", False), ("hf", True), ("ms", False), ("ms", True)])
def test_a_hub_gets_it_with_a_card(hub: TakingHub, tmp_path: Path, scheme: str, public: bool) -> None:
    found = push(tmp_path, f"{scheme}://org/pirate", public=public, base="org/base")
    got = hub.files["org/pirate"]
    assert set(got) == set(found["files"]) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert got["adapter_model.safetensors"] == WEIGHTS
    assert json.loads(got["adapter_config.json"])["base_model_name_or_path"] == "org/base"
    head = yaml.safe_load(got["README.md"].decode().split("---")[1])
    assert head["base_model"] == "org/base" and head["library_name"] == "peft"
    assert hub.private == {"org/pirate": not public}
    said = [each for each in JobFollower(tmp_path / "job").read() if isinstance(each, JobProgress)]
    assert said[-1].done == said[-1].total == found["bytes"]


@pytest.mark.parametrize("scheme", ["hf", "ms"])
def test_with_the_wrong_token_it_says_how_to_show_another_and_shows_none(
    hub: TakingHub, tmp_path: Path, scheme: str
) -> None:
    hub.token = "of-somebody-else"
    with pytest.raises(JobFailed, match="says who asks") as told:
        push(tmp_path, f"{scheme}://org/pirate")
    assert told.value.status == 403 and TOKEN not in str(told.value)
    assert hub.files == {}


def test_a_hub_that_is_busy_is_asked_again(
    hub: TakingHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing.time, "sleep", lambda seconds: None)
    hub.fail = [503]
    assert push(tmp_path, "hf://org/pirate")["files"] and hub.files["org/pirate"]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_CONFIG_FILE": "/dev/null",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    yield client
    server.stop()


def test_a_bucket_gets_it_below_its_prefix(bucket: Any, tmp_path: Path) -> None:
    found = push(tmp_path, "s3://models/lora/pirate")
    assert found["destination"] == "s3://models/lora/pirate"
    stored = {each["Key"]: each for each in bucket.list_objects_v2(Bucket="models")["Contents"]}
    assert set(stored) == {f"lora/pirate/{name}" for name in found["files"]}
    body = bucket.get_object(Bucket="models", Key="lora/pirate/adapter_model.safetensors")["Body"].read()
    assert body == WEIGHTS
    with pytest.raises(JobFailed, match=r"s3://nowhere-at-all/x.*nothing there"):
        push(tmp_path, "s3://nowhere-at-all/x")


def test_a_folder_gets_an_adapter_or_a_model_and_replaces_neither_unasked(tmp_path: Path) -> None:
    out = tmp_path / "published"
    assert push(tmp_path, str(out))["destination"] == str(out)
    assert (out / "adapter_model.safetensors").read_bytes() == WEIGHTS and not (out / "README.md").is_symlink()
    with pytest.raises(JobFailed, match="--overwrite"):
        push(tmp_path, str(out))
    push(tmp_path, str(out), overwrite=True)
    push(tmp_path, str(tmp_path / "model"), model_path())
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "README.md", *(path.name for path in model_path().iterdir())
    }


@pytest.mark.parametrize(
    ("destination", "why"),
    [("https://example.org/x", "nothing can be sent to"), ("hf://one", "is no hf://"), ("ftp://a/b", "not known")],
)
def test_where_nothing_can_be_sent(tmp_path: Path, destination: str, why: str) -> None:
    with pytest.raises(JobFailed, match=why):
        push(tmp_path, destination)
    with pytest.raises(JobFailed, match="neither an adapter's folder"):
        push(tmp_path, str(tmp_path / "out"), tmp_path)


def test_no_path_of_this_machine_is_published(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "/home/me/models/Base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    report = {"rows": 8, "loss_from": 3.0, "loss_to": 0.25, "settings": {"lr": 1e-4, "model": "/home/me/models/Base"}}
    (folder / "report.json").write_text(json.dumps(report))
    push(tmp_path, str(tmp_path / "out"), folder)
    texts = [file.read_bytes() for file in (tmp_path / "out").iterdir()]
    assert len(texts) == 3 and not [text for text in texts if b"/home/me" in text]
    assert b"| loss at last | 0.25 |" in (tmp_path / "out" / "README.md").read_bytes()


def test_a_card_says_nothing_that_it_was_not_to() -> None:
    made = card("a\nb", "org/base\nlicense: mit", {"r": 4, "target_modules": ["q"]}, {"rows": "<b>", "settings": 7})
    head = yaml.safe_load(made.split("---\n")[1])
    assert "license" not in head and head["base_model"] == "org/base\nlicense: mit"
    assert "<b>" not in made


