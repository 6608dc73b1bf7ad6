"""Fetched from a hub, and from ModelScope, by their own libraries."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from origins import COMMIT, Origin, adapter_files
from pulling import Pulling
from worker.jobs.job import JobFailed

BOTH = pytest.mark.parametrize("reference", ["hf://org/pirate", "ms://org/pirate"])
NEEDED = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """ModelScope's library asks again by itself."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("modelscope_hub._download_control._DownloadControl.sleep", lambda *_: None)


@BOTH
def test_what_an_adapter_needs_is_fetched_once_and_nothing_else(hub: Origin, pulling: Pulling, reference: str) -> None:
    found = pulling(reference)
    assert {path.name for path in Path(found.folder).iterdir()} == NEEDED
    for name in NEEDED:
        assert (Path(found.folder) / name).read_bytes() == adapter_files()[name]
    hub.log.clear()
    assert pulling(reference) == found and not hub.log, "a restart asks nobody"
    assert pulling(reference, refresh=True).content == found.content
    assert not hub.asked("safetensors"), "the same revision is not fetched again"


def test_a_branch_is_resolved_to_its_commit(hub: Origin, pulling: Pulling) -> None:
    first = pulling("hf://org/pirate@main")
    assert (first.revision, first.origin) == (COMMIT, "hf://org/pirate@main (aaaaaaaaaaaa)")
    hub.commit = "b" * 40
    hub.put("org/pirate", {"adapter_config.json": b"{}"})
    assert pulling("hf://org/pirate@main") == first, "nobody asked for a newer one"
    second = pulling("hf://org/pirate@main", refresh=True)
    assert second.revision == "b" * 40 and Path(second.folder, "adapter_config.json").read_bytes() == b"{}"
    assert Path(first.folder, "adapter_config.json").read_bytes() != b"{}", "who reads the older one can go on"


def test_a_commit_is_never_asked_for_again(hub: Origin, pulling: Pulling) -> None:
    pulling(f"hf://org/pirate@{COMMIT}")
    hub.log.clear()
    pulling(f"hf://org/pirate@{COMMIT}", refresh=True)
    assert not hub.log


@BOTH
def test_offline_what_is_here_is_used(
    hub: Origin, pulling: Pulling, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pulling(reference)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.log.clear()
    assert pulling(reference, refresh=True) == found and not hub.log


@BOTH
def test_a_download_that_breaks_off_goes_on_where_it_was(
    hub: Origin, pulling: Pulling, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))
    hub.break_after = [10_000]
    found = pulling(reference)
    assert Path(found.folder, "adapter_model.safetensors").read_bytes() == adapter_files()["adapter_model.safetensors"]
    assert any("range" in headers for headers in hub.asked("safetensors")[1:])


def test_another_process_goes_on_with_what_the_first_has_left(hub: Origin, pulling: Pulling) -> None:
    hub.fail = [404]
    partial = None
    with pytest.raises(JobFailed):
        pulling("hf://org/pirate")
    partial = next(pulling.store.root.glob("*/partial-*"))
    whole = adapter_files()["adapter_model.safetensors"]
    (partial / "adapter_model.safetensors").unlink(missing_ok=True)
    (partial / "adapter_model.safetensors.part").write_bytes(whole[:5000])
    hub.log.clear()
    found = pulling("hf://org/pirate")
    assert [headers["range"] for headers in hub.asked("safetensors")] == ["bytes=5000-"]
    assert Path(found.folder, "adapter_model.safetensors").read_bytes() == whole


@BOTH
@pytest.mark.usefixtures("impatient")
def test_a_wrong_checksum_leaves_nothing_in_the_store(hub: Origin, pulling: Pulling, reference: str) -> None:
    hub.corrupt = {"adapter_model.safetensors"}
    with pytest.raises(JobFailed, match=r"checksum|not what") as failed:
        pulling(reference)
    assert failed.value.status == 502
    assert not [name for name in pulling.left() if name.endswith((".safetensors", "current.json", "record.json"))]


def test_a_busy_hub_is_asked_again_later(hub: Origin, pulling: Pulling) -> None:
    hub.fail_listing, hub.fail = [429], [503]
    pulling("hf://org/pirate")
    assert pulling.slept == [1.0, 0.0], "as long as doubles, or as it asks for"
    assert "answers 429; again in 1 s" in pulling.notes()[0]


def test_a_hub_that_stays_busy_is_given_up(hub: Origin, pulling: Pulling) -> None:
    hub.fail_listing = [503] * 6
    with pytest.raises(JobFailed, match=r"127.0.0.1 answers 503; given up after 6 attempts") as failed:
        pulling("hf://org/pirate")
    assert (failed.value.status, pulling.slept) == (502, [1.0, 2.0, 4.0, 8.0, 16.0])


@pytest.mark.usefixtures("impatient")
def test_modelscope_is_asked_again_and_given_up(hub: Origin, pulling: Pulling) -> None:
    hub.fail_listing = [500, 503]
    assert pulling("ms://org/pirate").files
    hub.fail_listing = [503] * 1000
    with pytest.raises(JobFailed, match=r"127.0.0.1 answers 503, and did so again and again") as failed:
        pulling("ms://org/pirate", refresh=True)
    assert failed.value.status == 502


@pytest.mark.parametrize(
    ("reference", "sentence", "status"),
    [
        ("hf://org/nobody", "has nothing there, or not for whoever asks: HF_TOKEN", 404),
        ("hf://org/pirate@v9", "has no such revision", 404),
        ("ms://org/nobody", "has nothing there, or not for whoever asks: MODELSCOPE_API_TOKEN", 404),
    ],
)
def test_what_is_not_there_is_said(
    hub: Origin, pulling: Pulling, reference: str, sentence: str, status: int
) -> None:
    with pytest.raises(JobFailed, match=sentence) as failed:
        pulling(reference)
    assert failed.value.status == status and not pulling.left()


@pytest.mark.parametrize(("reference", "variable"), [("hf://org/pirate", "HF_TOKEN"),
                                                     ("ms://org/pirate", "MODELSCOPE_API_TOKEN")])
def test_a_missing_token_is_named_and_a_given_one_is_not_shown(
    hub: Origin, pulling: Pulling, reference: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    with pytest.raises(JobFailed, match=variable) as failed:
        pulling(reference)
    assert failed.value.status in (403, 404)
    monkeypatch.setenv(variable, "wrong_secret")
    with pytest.raises(JobFailed) as failed:
        pulling(reference)
    assert "wrong_secret" not in str(failed.value)
    if variable == "HF_TOKEN":
        monkeypatch.setenv(variable, "hf_secret")
        assert pulling(reference).files


def test_a_gated_repository_says_where_its_terms_are(hub: Origin, pulling: Pulling) -> None:
    hub.gated = True
    with pytest.raises(JobFailed, match=r"is gated: accept its terms at 127.0.0.1, then HF_TOKEN") as failed:
        pulling("hf://org/pirate")
    assert failed.value.status == 403
