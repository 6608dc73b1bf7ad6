"""The table of settings in the documentation, and the published schemas, are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.cli.lifecycle.settings import config_command
from cluster.tools.reference import GROUPS, markdown
from config.settings import Settings

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_document_is_up_to_date() -> None:
    made = CliRunner().invoke(config_command, ["reference"])
    assert made.exit_code == 0
    assert DOCUMENT.read_text() == made.output, "run: clusterctl config reference > docs/configuration.md"


@pytest.mark.parametrize("name", ["cluster", "models"])
def test_the_published_schemas_are_up_to_date(name: str) -> None:
    made = CliRunner().invoke(config_command, ["schema", name]).output
    path = DOCUMENT.parent / "schemas" / f"{name}.schema.json"
    assert path.read_text() == made, f"run: clusterctl config schema {name} > docs/schemas/{name}.schema.json"


def test_every_setting_is_in_it_once_and_has_a_meaning() -> None:
    text = markdown(lambda _: None)
    for name, field in Settings.model_fields.items():
        assert text.count(f"\n| `{name}` |") == 1, name
        assert field.description, name
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped)) and set(grouped) <= set(Settings.model_fields)


def test_a_row_says_default_limits_choices_and_effect() -> None:
    text = markdown({"port": "--port"}.get)
    assert (
        "\n| `port` | `8000` | port to listen on (at least 1, at most 65535) | `--port` | `CLUSTERCTL_PORT`, `PORT` "
        "| not on a running cluster |\n"
    ) in text
    assert "`power_of_two`" in text and "| `resume` | yes |" in text
