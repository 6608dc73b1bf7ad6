"""A training that is broken off and resumed comes to the same adapter, bit for bit, as one that was not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from config.jobs.folder import JobFollower
from config.jobs.said import JobProgress
from worker.demo import model_path
from worker.jobs.job import Cancelled, Job, JobFailed

pytestmark = pytest.mark.long  # torch and peft take seconds to import

ROWS = [{"prompt": f"Say {word}", "completion": f"{word} it is"} for word in ("ship", "sea", "mast", "sail", "crew")]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(tmp_path: Path, out: str, stop_after: int | None = None, **more: Any) -> Mapping[str, Any]:
    """``stop_after``: steps after which somebody asks it to end."""
    from worker.training import job as training

    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    folder = tmp_path / f"job-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()

    class Stopped(Job):
        def progress(self, stage: str, done: float, *rest: Any, **figures: Any) -> None:
            super().progress(stage, done, *rest, **figures)
            if stage == "train" and done == stop_after and figures:
                raise Cancelled

    clock = iter(range(1_000_000))
    arguments = {
        "name": "crew", "data": str(data), "model": str(model_path()), "base_name": "demo", "out": str(tmp_path / out),
        "rank": 2, "alpha": 4, "dropout": 0.3, "targets": "attention", "epochs": 3, "batch_size": 2, "grad_accum": 1,
        "lr": 1e-3, "val_split": 0.2, "save_every": 0, **more,
    }  # fmt: skip
    return training.run(arguments, Stopped(folder, lambda: float(next(clock))))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name.startswith("adapter")}


def test_resumed_it_comes_to_the_same_result(tmp_path: Path) -> None:
    whole = train(tmp_path, "whole")
    assert whole["steps"] == 6 and whole["examples"] == 4
    with pytest.raises(Cancelled):
        train(tmp_path, "resumed", stop_after=3)
    assert not (tmp_path / "resumed").exists()
    with pytest.raises(JobFailed, match="--resume goes on with it"):
        train(tmp_path, "resumed")
    with pytest.raises(JobFailed, match=r"something else: lr \(was 0.001\)"):
        train(tmp_path, "resumed", resume=True, lr=2e-3)
    found = train(tmp_path, "resumed", resume=True)
    assert found["resumed_at"] == 2, "the third step was not saved any more"
    assert files(tmp_path / "resumed") == files(tmp_path / "whole")
    reports = [json.loads((tmp_path / out / "report.json").read_text()) for out in ("whole", "resumed")]
    assert reports[0]["curve"] == reports[1]["curve"] and reports[0]["validation"] == reports[1]["validation"]
    assert len(reports[0]["curve"]) == 6 and [step for step, _ in reports[0]["validation"]] == [0, 2, 4, 6]
    assert not list(tmp_path.glob(".*")), "nothing is left beside"
    assert (tmp_path / "whole" / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_it_learns_and_says_how_far_it_is(tmp_path: Path) -> None:
    found = train(tmp_path, "out", lr=1e-2, epochs=12, dropout=0.0, targets="all", rank=8, val_split=0.0)
    assert found["loss_to"] < found["loss_from"] / 4
    (folder,) = tmp_path.glob("job-*")
    said = [each for each in JobFollower(folder).read() if isinstance(each, JobProgress) and each.stage == "train"]
    assert (said[-1].done, said[-1].total) == (36, 36) and set(said[-1].figures) == {"loss", "tokens/s"}
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "demo"
    assert config["target_modules"] == sorted(config["target_modules"]) and len(config["target_modules"]) == 7
    with pytest.raises(JobFailed, match="is there already: --overwrite"):
        train(tmp_path, "out")
    assert train(tmp_path, "out", overwrite=True, epochs=1)["steps"] == 2


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"lr": 0}, "lr: 0 is no number from"), ({"rank": 1.5}, "rank: 1.5 is no whole"),
        ({"colour": 1}, "no 'colour'"),
        ({"data": "/nowhere"}, "no such file"), ({"data": "/dev/null"}, "is no regular file"),
        ({"model": "/nowhere"}, "the model /nowhere cannot be opened"), ({"targets": "attn"}, "did you mean"),
        ({"resume": True}, "no checkpoint"), ({"max_length": 8}, "nothing to learn within --max-length 8"),
        ({"dtype": "int4"}, "none of auto"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_a_sentence_and_leaves_nothing(tmp_path: Path, more: Any, why: str) -> None:
    with pytest.raises(JobFailed, match=why) as told:
        train(tmp_path, "out", **more)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with pytest.raises(JobFailed, match="not replaced"):
        train(tmp_path, "home", overwrite=True)
    assert (tmp_path / "home" / "letter").exists()


def test_the_rate_rises_and_falls() -> None:
    from worker.training.loop import learning_rate

    rates = [learning_rate(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[10] == 1.0 and rates[10:] == sorted(rates[10:], reverse=True)
    assert math.isclose(rates[55], 0.5) and 0 < rates[99] < 0.01
    assert [learning_rate(step, 1, 1.0, 0.0) for step in range(1)] == [1.0]


def test_created_adapters_have_an_effect_and_follow_from_their_seed(tmp_path: Path) -> None:
    from worker.adapters.files import inspect, read_base
    from worker.training import create

    made = {}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        (tmp_path / f"job-{name}").mkdir()
        arguments = {"model": str(model_path()), "base_name": "demo", "out": str(tmp_path / name), "rank": 4,
                     "targets": "all", "embeddings": True, "seed": seed}  # fmt: skip
        found = create.run(arguments, Job(tmp_path / f"job-{name}", lambda: 0.0))
        assert found["tensors"] == 2 * (4 * 7 + 2)
        made[name] = inspect(tmp_path / name, base=read_base(str(model_path())), served_names=("demo",), max_rank=4)
    assert made["one"].content_hash == made["again"].content_hash != made["other"].content_hash
    assert {"embed_tokens", "lm_head"} <= set(made["one"].target_modules)
