"""How the workers of engines that are not vLLM are started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from config.errors import UsageError
from worker.demo import model_path
from worker.engines import base, flags
from worker.engines.base import Command
from worker.engines.foreign.rules import Serving, adapt
from worker.engines.mlx import MlxEngine
from worker.engines.openvino import OpenVinoEngine
from worker.engines.sglang import SglangEngine
from worker.engines.transformers import TransformersEngine
from worker.engines.trtllm import TrtllmEngine
from worker.spec import EngineSpec, Slot, WorkerEndpoint

ENGINES = [TransformersEngine(), MlxEngine(), TrtllmEngine(), SglangEngine(), OpenVinoEngine()]


def _command(engine: Any, *args: str, slot: Slot | None = None, **fields: Any) -> Command:
    spec = EngineSpec(engine.name, fields.pop("model", str(model_path())), ("demo", "alias"), extra_args=args, **fields)
    return base.load(engine.name).command(spec, WorkerEndpoint(20_001), "key", slot or Slot(), {})


def _serving(command: Command) -> Serving:
    return Serving.from_json(json.loads(command.argv[3]))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: str(engine.name))
def test_a_worker_knows_its_names_its_cores_and_how_long_its_model_is(engine: Any) -> None:
    command = _command(engine, slot=Slot(cores=((2, 3), (4,))))
    serving = _serving(command)
    assert (serving.names, serving.cores, serving.context) == (("demo", "alias"), (2, 3, 4), 2048)
    assert serving.engine == engine.name and "key" not in " ".join(command.argv)
    assert command.env["HF_HUB_OFFLINE"] == "1"
    elsewhere = _command(engine, model="org/of-a-hub")
    assert "HF_HUB_OFFLINE" not in elsewhere.env and _serving(elsewhere).context is None


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: str(engine.name))
def test_names_are_not_the_engines_business(engine: Any) -> None:
    command = _command(engine, "--served-model-name", "demo", "alias", "--own", "x")
    assert command.argv[-2:] == ("--own", "x") and command.argv[4:].count("alias") == 0


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: str(engine.name))
def test_it_says_what_it_cannot(engine: Any) -> None:
    able = engine.capabilities
    assert not (able.lora or able.token_ids or able.detokenize or able.progress or able.embeddings)
    weights = (model_path() / "model.safetensors").stat().st_size
    small = engine.memory_estimate(EngineSpec(engine.name, "org/of-a-hub", ("m",)))
    assert engine.memory_estimate(EngineSpec(engine.name, str(model_path()), ("m",))) == small + weights


def test_transformers_computes_one_request_at_a_time_on_the_cores_or_gpus_it_has() -> None:
    command = _command(TransformersEngine(), slot=Slot(cores=((2, 3),)), dtype="float32")
    assert _serving(command).seats == 1 and command.env["OMP_NUM_THREADS"] == "2"
    assert flags.values(command.argv, "--device") == ["cpu"] and flags.values(command.argv, "--dtype") == ["float32"]
    assert _command(TransformersEngine()).env["OMP_NUM_THREADS"] == "1"
    on_gpu = _command(TransformersEngine(), slot=Slot(gpus=(1,)))
    assert flags.values(on_gpu.argv, "--device") == ["auto"] and on_gpu.env["CUDA_VISIBLE_DEVICES"] == "1"
    assert "OMP_NUM_THREADS" not in on_gpu.env


@pytest.mark.parametrize(("fields", "sampled"), [({}, True), ({"temperature": 0.5}, True), ({"temperature": 0}, False)])
def test_transformers_is_told_to_sample_where_others_would(fields: dict[str, Any], sampled: bool) -> None:
    asked = json.dumps({"prompt": "Hi", "logit_bias": {"2": -1}, **fields}).encode()
    body = adapt(asked, False, TransformersEngine.rules, Serving("transformers", ("m",), 1)).body
    assert json.loads(body.get("generation_config", "{}")).get("do_sample", False) is sampled
    assert isinstance(body["logit_bias"]["2"], float)


def test_mlx_computes_as_many_as_it_is_told_to() -> None:
    assert _serving(_command(MlxEngine())).seats == 8
    command = _command(MlxEngine(), "--decode-concurrency", "3", "--temp", "0.2")
    assert _serving(command).seats == 3
    assert command.argv.count("--decode-concurrency") == command.argv.count("--temp") == 1


@pytest.mark.parametrize(("engine", "extra"), [(TransformersEngine(), "transformers"), (MlxEngine(), "mlx")])
def test_what_is_missing_is_named_with_what_brings_it(
    engine: Any, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.check()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"pip install 'clusterctl\[{extra}\]'"):
        engine.check()


@pytest.mark.parametrize(("version", "finds"), [("2.13.0+cpu", False), ("2.13.0", True), ("2.13.0+cu128", True)])
def test_transformers_finds_gpus_where_its_torch_is_built_for_them(
    version: str, finds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    assert TransformersEngine().finds_gpus is finds


@pytest.mark.parametrize("config", ["[]", "{", '{"n_positions": "x"}', "5"])
def test_a_model_whose_config_is_odd_has_a_length_that_is_not_known(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    assert _serving(_command(MlxEngine(), model=str(tmp_path))).context is None


def test_those_for_gpus_are_told_their_share_and_how_many_they_span() -> None:
    two = Slot(gpus=(2, 3), share=2)
    trtllm = _command(TrtllmEngine(), slot=two, tensor_parallel_size=2, model="org/m")
    assert trtllm.argv[4:7] == ("trtllm-serve", "serve", "org/m") and trtllm.env["CUDA_VISIBLE_DEVICES"] == "2,3"
    told = {flag: flags.values(trtllm.argv, flag) for flag in ("--tp-size", "--max-batch-size")}
    assert told == {"--tp-size": ["2"], "--max-batch-size": ["128"]}
    assert flags.values(trtllm.argv, "--kv-cache-free-gpu-memory-fraction") == ["0.45"]
    assert _serving(trtllm).answers_as == "org/m"
    assert _serving(_command(TrtllmEngine())).answers_as == model_path().name
    own = _command(TrtllmEngine(), "--max_batch_size", "7")
    assert own.argv.count("--max_batch_size") == 1 and _serving(own).seats == 7
    sglang = _command(SglangEngine(), slot=two, tensor_parallel_size=2, dtype="float16")
    assert sglang.argv[4:6] == ("-m", "sglang.launch_server")
    for flag, value in {"--tp-size": "2", "--mem-fraction-static": "0.45", "--dtype": "float16"}.items():
        assert flags.values(sglang.argv, flag) == [value]
    assert not flags.has(sglang.argv, "--device") and not flags.has(sglang.argv, "--api-key")
    alone = _command(SglangEngine(), slot=Slot(gpus=(0,)))
    assert not flags.has(alone.argv, "--mem-fraction-static")
    assert flags.values(_command(SglangEngine()).argv, "--device") == ["cpu"]


def test_openvino_serves_a_folder_or_fetches_what_it_serves() -> None:
    command = _command(OpenVinoEngine())
    assert flags.values(command.argv, "--model-path") == [str(model_path())] and not flags.has(command.argv, "--task")
    assert command.argv[4:7] == ("127.0.0.1", "20001", "ovms")
    assert flags.values(command.argv, "--rest-bind-address") == ["127.0.0.1"]
    fetched = _command(OpenVinoEngine(), "--max_num_seqs", "9", model="OpenVINO/x")
    assert flags.values(fetched.argv, "--source-model") == ["OpenVINO/x"] and flags.has(fetched.argv, "--task")
    assert _serving(fetched).seats == 9 and not flags.has(fetched.argv, "--model-path")


@pytest.mark.parametrize("engine", [TrtllmEngine(), SglangEngine(), OpenVinoEngine()], ids=lambda e: str(e.name))
def test_those_that_are_not_part_of_any_extra_are_said_to_be_missing(engine: Any) -> None:
    with pytest.raises(UsageError, match=r"is not installed: docs/engines\.md says how"):
        engine.check()


def test_openvino_needs_a_server_in_front_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    OpenVinoEngine().check()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'clusterctl\[openvino\]'"):
        OpenVinoEngine().check()
