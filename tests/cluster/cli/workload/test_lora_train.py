"""`clusterctl lora train` and `merge`: what is asked of a job and of the cluster. No job is run here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.cli.progress import JobPlace
from cluster.cli.workload.lora.command import lora_command
from cluster.cli.workload.lora.jobs import export, merge, origins, push, release, resources, train
from cluster.client import ClusterError
from config.errors import UsageError
from config.jobs.folder import JobSpec
from origins import Origin, adapter_files
from worker.demo import adapter_path, gguf_path, model_path

_RESULT: dict[str, Any] = {
    "steps": 4, "seconds": 2.0, "loss_from": 3.0, "loss_to": 0.5, "samples_per_second": 8.0,
    "tokens_per_second": 64.0, "files": ["report.json"], "rows": 8,
}  # fmt: skip


class Cluster:
    """As much of a client as these commands use. ``refusal``: of a load."""

    def __init__(self) -> None:
        self.root = str(model_path())
        self.gone: ClusterError | None = None
        self.versions: dict[str, int] = {}
        self.named: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.gpus: tuple[int, ...] = ()
        self.refusal: ClusterError | None = None
        self.same = False

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def models(self) -> list[dict[str, Any]]:
        adapters = [{"id": name, "parent": "demo", "root": str(adapter_path("pirate"))} for name in self.versions]
        return [{"id": "demo", "parent": None, "root": self.root}, *adapters]

    def status(self) -> dict[str, Any]:
        return {"instances": {"instance_0": {"gpus": list(self.gpus)}}}

    def adapters(self) -> list[dict[str, Any]]:
        if self.gone is not None:
            raise self.gone
        return []

    def adapter(self, name: str) -> dict[str, Any]:
        if name not in self.versions:
            raise ClusterError("no adapter", status=404)
        return {"version": self.versions[name], "instances": {}}

    def load_adapter(self, name: str, path: Path, *, replace: bool = False, model: str | None = None) -> dict[str, Any]:
        self.asked.append(("load", name, path, replace, model))
        if self.refusal is not None:
            raise self.refusal
        self.versions[name] = self.versions.get(name, 0) + (not self.same)
        return {"version": self.versions[name], "state": "loaded", "instances": {"instance_0": "loaded"}}

    def aliases(self) -> dict[str, Any]:
        return self.named

    def set_alias(self, name: str, sides: Mapping[str, float]) -> None:
        self.asked.append(("alias", name, dict(sides)))
        self.named[name] = {"sides": dict(sides)}

    def delete_alias(self, name: str) -> None:
        self.asked.append(("delete", name))
        del self.named[name]


Run = Callable[..., Result]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    for module, name in ((origins, "asking_client"), (release, "client"), (resources, "client")):
        monkeypatch.setattr(module, name, lambda url: found)
    return found


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[JobSpec, Any]]:
    """What was run, on which GPUs. A data set called bad.jsonl cannot be trained on."""
    ran: list[tuple[JobSpec, Any]] = []

    def run_job(spec: JobSpec, place: JobPlace) -> Mapping[str, Any]:
        ran.append((spec, place))
        if spec.arguments.get("data", "").endswith("bad.jsonl"):
            raise UsageError("bad.jsonl: line 3: no JSON")
        return {**_RESULT, "name": spec.arguments.get("name"), "path": spec.arguments.get("out"), "changed": 28,
                "tensors": 30, "bytes": 1000, "rounded": 28, "bytes_before": 2000, "destination": "d"}  # fmt: skip

    for module in (train, merge, export, push):
        monkeypatch.setattr(module, "run_job", run_job)
    return ran


def run(*args: str) -> Result:
    return CliRunner().invoke(lora_command, list(args), standalone_mode=False)


def test_what_was_said_reaches_the_job_and_nothing_else(
    cluster: Cluster, jobs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("train", "med", "--data", "d.jsonl", "--rank", "8", "--targets", "q_proj,v_proj", "--resume")
    assert done.return_value == 0 and "loss 3 -> 0.5, 8 samples/s" in done.output, done
    ((spec, place),) = jobs
    assert spec.arguments == {
        "name": "med", "data": str(tmp_path / "d.jsonl"), "out": str(tmp_path / "med"), "model": str(model_path()),
        "base_name": "demo", "rank": 8, "targets": ["q_proj", "v_proj"], "resume": True,
    }  # fmt: skip
    assert place == JobPlace()
    assert not cluster.asked


def test_a_model_that_is_served_in_rounded_weights_is_trained_by_the_folder_it_was_made_of(
    cluster: Cluster, jobs: list[Any], tmp_path: Path
) -> None:
    given = ("train", "med", "--data", "d.jsonl", "--out", str(tmp_path / "med"))
    cluster.root = str(gguf_path())
    assert run(*given).return_value == 0
    assert jobs[0][0].arguments["model"] == str(model_path())
    cluster.root = "/models/other.gguf"
    assert "demo is served from a GGUF file" in str(run(*given).exception)


@pytest.mark.processes
def test_what_a_reference_means_is_fetched_once_and_named_as_there(
    cluster: Cluster, jobs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(Origin()) as hub:
        hub.put("org/base", {path.name: path.read_bytes() for path in model_path().iterdir()})
        hub.put("org/pirate", adapter_files())
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("CLUSTERCTL_STATE_DIR", str(tmp_path / "state"))
        base = ("--model", "hf://org/base")
        assert run("train", "med", "--data", "d.jsonl", *base).return_value == 0
        assert run("merge", "hf://org/pirate", "--out", str(tmp_path / "merged"), *base).return_value == 0
        asked = len(hub.log)
        assert run("push", "hf://org/pirate", str(tmp_path / "copy")).return_value == 0
        assert len(hub.log) == asked
        assert "has nothing there" in str(run("train", "med", "--data", "d.jsonl", "--model", "hf://org/no").exception)
    trained, merged, pushed = (spec.arguments for spec, _ in jobs)
    assert trained["base_name"] == "org/base" and (trained["model"], pushed["name"]) == (merged["model"], "pirate")
    for path, name in ((trained["model"], "config.json"), (pushed["folder"], "adapter_model.safetensors")):
        assert (Path(path) / name).is_file() and Path(path).is_relative_to(tmp_path / "state")


def test_it_becomes_the_first_version_and_the_next(cluster: Cluster, jobs: list[Any], tmp_path: Path) -> None:
    given = ("train", "med", "--data", "d.jsonl", "--out", str(tmp_path / "med"), "--load")
    assert run(*given).return_value == run(*given).return_value == 0
    place = tmp_path / "med"
    assert cluster.asked == [("load", "med", place, False, "demo"), ("load", "med", place, True, None)]


def test_nothing_is_trained_for_a_cluster_that_is_not_there(cluster: Cluster, jobs: list[Any], tmp_path: Path) -> None:
    cluster.gone = ClusterError("no cluster")
    done = run("train", "med", "--data", "d.jsonl", "--out", str(tmp_path / "med"), "--load")
    assert done.exception is cluster.gone and not jobs


def test_a_canary_keeps_who_asks_on_the_version_of_before_until_it_is_split(
    cluster: Cluster, jobs: list[Any], tmp_path: Path
) -> None:
    cluster.versions["med"] = 3
    given = ("train", "med", "--data", "d.jsonl", "--out", str(tmp_path / "med"), "--load", "--canary", "10%")
    done = run(*given)
    assert done.return_value == 0 and "med@3 90 %, med@4 10 %" in done.output
    load = ("load", "med", tmp_path / "med", True, None)
    assert cluster.asked == [
        ("alias", "med", {"med@3": 100}), load, ("alias", "med", {"med@3": 90.0, "med@4": 10.0})
    ]  # fmt: skip
    cluster.asked.clear()
    assert run(*given).return_value == 0
    assert cluster.asked == [load, ("alias", "med", {"med@3": 90.0, "med@5": 10.0})], "the stable one stays"


def test_a_canary_that_cannot_be_loaded_leaves_all_as_it_was(
    cluster: Cluster, jobs: list[Any], tmp_path: Path
) -> None:
    cluster.versions["med"] = 3
    given = ("train", "med", "--data", "d.jsonl", "--out", str(tmp_path / "med"), "--load", "--canary", "10")
    cluster.refusal = ClusterError("no room")
    assert run(*given).exception is cluster.refusal and cluster.named == {}
    cluster.refusal, cluster.same = None, True
    assert "the same as med@3" in str(run(*given).exception) and cluster.named == {}


def test_a_first_version_has_nobody_to_share_with(cluster: Cluster, jobs: list[Any], tmp_path: Path) -> None:
    done = run("train", "med", "--data", "d", "--out", str(tmp_path / "med"), "--load", "--canary", "5%")
    assert done.return_value == 0 and "no other to share with" in done.output
    assert cluster.asked == [("load", "med", tmp_path / "med", False, "demo")]


def test_a_folder_of_data_sets_is_trained_one_after_the_other_and_one_that_fails_stops_none(
    cluster: Cluster, jobs: list[Any], tmp_path: Path
) -> None:
    for name in ("law.jsonl", "bad.jsonl", "med.json", "notes.txt"):
        (tmp_path / name).write_text("")
    done = run("train", "--all", str(tmp_path), "--out", str(tmp_path / "made"), "--load")
    assert done.return_value == 1
    assert [spec.arguments["name"] for spec, _ in jobs] == ["bad", "law", "med"]
    assert [asked[1:3] for asked in cluster.asked] == [(name, tmp_path / "made" / name) for name in ("law", "med")]
    lines = [line.split() for line in done.output.splitlines()]
    assert ["law", "8", "4", "3", "->", "0.5", "2", "s", "8", str(tmp_path / "made" / "law")] in lines
    assert any(line[:1] == ["bad"] and line[-2:] == ["no", "JSON"] for line in lines)
    cluster.refusal = ClusterError("no room")
    done = run("train", "--all", str(tmp_path), "--out", str(tmp_path / "made"), "--load")
    assert done.return_value == 1 and "law: no room" in done.output and "med: no room" in done.output


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("train",), "NAME and --data are needed"), (("train", "a"), "NAME and --data"),
        (("train", "a", "--all", "."), "names its adapters"), (("train", "--all", "/nowhere"), "No such file"),
        (("train", "a", "--data", "d", "--canary", "10%"), "goes with --load"),
        (("train", "a", "--data", "d", "--load", "--canary", "100%"), "no share such as 10%"),
        (("train", "a", "--data", "d", "--load", "--canary", "nan"), "no share such as 10%"),
        (("train", "a", "--data", "d", "--gpus", "x"), "numbers of GPUs such as 0,1"),
        (("train", "a", "--data", "d", "--load", "--detach"), "leave --detach away"),
        (("export", "a", "--out", "o", "--quant", "int8", "--detach"), "leave --detach away"),
        (("train", "a/b", "--data", "d"), "no adapter name"),
        (("merge", "nobody", "--out", "o"), "no adapter 'nobody'"),
        (("merge", "a", "--out", "o", "--", "--x"), "go with --serve-as"),
    ],
)
def test_what_is_asked_wrongly_is_a_sentence_and_runs_nothing(
    cluster: Cluster, jobs: list[Any], args: tuple[str, ...], why: str
) -> None:
    found = run(*args)
    assert why in getattr(found.exception, "message", str(found.exception))
    assert not jobs and not cluster.asked


def test_gpus_that_serve_are_left_alone_by_a_job_of_the_command_itself(
    cluster: Cluster, jobs: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from worker import gpus

    there = [gpus.Gpu(index, "", "", 0, 0) for index in range(3)]
    monkeypatch.setattr(gpus, "detect", lambda visible: there)
    cluster.gpus = (0,)
    given = ("train", "a", "--data", "d", "--out", str(tmp_path / "a"))
    for more in ((), ("--here",), ("--here", "--gpus", "0"), ("--gpus", "none", "--no-background")):
        assert run(*given, *more).return_value == 0
    cluster.gpus = (0, 1, 2)
    assert run(*given, "--here").return_value == 0
    assert [(place.gpus and list(place.gpus), place.background) for _, place in jobs] == [
        (None, None), ([1], None), ([0], None), ((), False), ([], None)
    ]  # fmt: skip


def test_the_adapter_that_the_cluster_serves_is_merged_into_its_own_model(
    cluster: Cluster, jobs: list[Any], tmp_path: Path
) -> None:
    cluster.versions["med"] = 2
    assert run("merge", "med", "--out", str(tmp_path / "m"), "--dtype", "bf16").return_value == 0
    assert run("merge", str(tmp_path), "--model", str(tmp_path), "--out", str(tmp_path / "m")).return_value == 0
    (first, _), (second, _) = jobs
    assert (first.arguments["adapter"], first.arguments["model"]) == (str(adapter_path("pirate")), str(model_path()))
    assert (second.arguments["adapter"], second.arguments["model"]) == (str(tmp_path), str(tmp_path))


def test_an_export_merges_beside_and_makes_that_smaller(cluster: Cluster, jobs: list[Any], tmp_path: Path) -> None:
    cluster.versions["med"] = 2
    assert run("export", "med", "--out", str(tmp_path / "m"), "--quant", "int8").return_value == 0
    (first, _), (second, _) = jobs
    assert (first.kind, second.kind) == ("merge", "quantize")
    assert first.arguments["out"] == second.arguments["model"] == str(tmp_path / ".m.merged")
    assert second.arguments["out"] == str(tmp_path / "m")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("quantize", "/models/a b", "--out", "/out", "--scheme", "w4a16"), "oneshot(model='\"'\"'/models/a b'"),
        (("quantize", "/models/a b", "--out", "/out", "--scheme", "q4_k_m"), "/out.bf16.gguf /out.gguf Q4_K_M"),
        (("export", "med", "--out", "/out", "--quant", "q8_0"), "clusterctl lora merge med --out /out-merged"),
    ],
)  # fmt: skip
def test_what_others_do_is_said_as_commands(jobs: list[Any], args: tuple[str, ...], words: str) -> None:
    done = run(*args)
    assert isinstance(done.exception, UsageError) and done.exception.exit_code == 2
    assert words.replace(chr(92), "") in done.output, done.output
    assert not jobs


def test_a_push_sends_what_the_cluster_serves_and_makes_paths_absolute(
    cluster: Cluster, jobs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cluster.versions["med"] = 2
    assert run("push", "med", "hf://org/med", "--base-model", "org/base").return_value == 0
    assert run("push", "med", "out", "--public").return_value == 0
    sent = [(spec.arguments["folder"], spec.arguments["name"], spec.arguments["destination"]) for spec, _ in jobs]
    assert sent == [(str(adapter_path("pirate")), "med", place) for place in ("hf://org/med", str(tmp_path / "out"))]
