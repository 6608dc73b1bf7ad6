"""Where each setting comes from: every source above those below it, and shown by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster.cli.lifecycle.settings import config_command
from config.errors import UsageError
from config.settings import load, load_with_sources
from config.sources.names import variables
from fakes import clean_environment


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    clean_environment(monkeypatch)
    for name in (*variables("strategy"), *variables("port"), "CLUSTERCTL_PROT", "CLUSTERCTL_ADMIN_KEY", "HF_TOKEN_X"):
        monkeypatch.setenv(name, "")  # what a file adds to the environment goes away with the test
    return monkeypatch


def test_a_file_of_variables_lies_between_the_environment_and_the_configuration(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "my.env").write_text("PORT=2002\nLOAD_BALANCE_STRATEGY=random\n")
    config = tmp_path / "c.yaml"
    config.write_text("port: 1001\nstrategy: weighted\nqueue_timeout: 7\nenv_file: my.env\n")
    settings, given = load_with_sources({}, config)
    assert (settings.port, settings.strategy, settings.queue_timeout) == (2002, "random", 7.0)
    assert settings.env_file == tmp_path / "my.env", "it begins in the folder of the configuration"
    assert given.source("port") == f"{tmp_path / 'my.env'}: PORT"
    assert given.source("queue_timeout") == f"{config}: queue_timeout"
    assert given.source("host") is None
    environment.setenv("PORT", "3003")
    settings, given = load_with_sources({"strategy": "weighted"}, config)
    assert (settings.port, settings.strategy) == (3003, "weighted")
    assert (given.source("port"), given.source("strategy")) == ("environment PORT", "--strategy")


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_it_is_named_by_flag_or_variable_too_and_else_not_read(
    environment: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    (tmp_path / ".env").write_text("PORT=2002\n")
    environment.chdir(tmp_path)
    assert load({}).port == 8000
    environment.setenv("CLUSTERCTL_ENV_FILE", ".env" if how == "variable" else "")
    flags = {"env_file": ".env"} if how == "flag" else {}
    assert load(flags).port == 2002
    assert load(flags).env_file == tmp_path / ".env"


def test_what_is_wrong_in_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "my.env"
    for text, said in (("PORT=x", "PORT: "), ("CLUSTERCTL_PROT=1", "unknown setting CLUSTERCTL_PROT")):
        file.write_text(text)
        with pytest.raises(UsageError) as error:
            load({"env_file": str(file)})
        assert str(error.value).startswith(f"{file}: {said}")


def test_config_show_says_where_each_value_comes_from_and_shows_no_secret(tmp_path: Path) -> None:
    (tmp_path / "my.env").write_text("CLUSTERCTL_ADMIN_KEY=s3cret-s3cret\nHF_TOKEN_X=s3cret\n")
    (tmp_path / "c.yaml").write_text("port: 1001\n")

    def run(*more: str) -> Result:
        given = ["--config", str(tmp_path / "c.yaml"), "--env-file", str(tmp_path / "my.env"), "--instances", "2"]
        return CliRunner().invoke(config_command, ["show", *given, *more], catch_exceptions=False)

    shown = run().output
    assert f"port: 1001  # {tmp_path / 'c.yaml'}: port; port to listen on\n" in shown
    assert "instances: 2  # --instances; workers to keep running\n" in shown
    assert "health_failures: 3  # default; " in shown
    assert f'admin_key: "(set)"  # {tmp_path / "my.env"}: CLUSTERCTL_ADMIN_KEY; ' in shown
    found = json.loads(run("--json", "--", "--max-loras", "2").output)
    assert found["instances"] == {"value": 2, "source": "--instances"}
    assert found["engine_args"]["value"] == ["--max-loras", "2"]
    assert "s3cret" not in shown + json.dumps(found)
