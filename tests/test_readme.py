"""What the READMEs and the documents say of each other and of the command line is so."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from cluster.cli import cli

CONTEXT = click.Context(cli)
ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "README.zh.md", *(ROOT / "docs").glob("*.md")])


def _blocks(text: str) -> list[str]:
    """The code in it, without comments and spaces around it."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S)
    return ["\n".join(re.sub(r"\s+#.*$", "", line) for line in block.splitlines()) for block in blocks]


def test_the_chinese_readme_has_the_same_commands() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh.md"))
    assert _blocks(english) == _blocks(chinese)
    assert len(_blocks(english)) > 5
    for heading in (r"^## ", r"^\| `(?:GET|POST|PATCH)", r"^\| `[a-z_]+`"):
        assert len(re.findall(heading, english, re.M)) == len(re.findall(heading, chinese, re.M)), heading


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target.replace("\n", "")).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_named_exists(document: Path) -> None:
    commands = set(cli.list_commands(None))  # type: ignore[arg-type]
    named = set(re.findall(r"\bclusterctl ([a-z]+)\b", "\n".join(_code(document.read_text()))))
    named -= {"again"}  # in docs/performance.md: the same program, measured twice
    assert named <= commands


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_takes_the_options_that_are_given_to_it(document: Path) -> None:
    text = re.sub(r"\\\n\s*", "", document.read_text())
    for line in re.findall(r"\bclusterctl [^\n`|)]+", "\n".join([*_code(text), *re.findall(r"^\$ .+", text, re.M)])):
        command, words = cli, re.sub(r"\s#.*| -- .*", "", line).split()[1:]
        while words and isinstance(command, click.Group) and (found := command.get_command(CONTEXT, words[0])):
            command, words = found, words[1:]
        taken = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        assert {word for word in words if re.match(r"-{1,2}[a-z]", word)} <= taken, line


def _code(text: str) -> list[str]:
    """Blocks of shell, and code within lines."""
    blocks = re.findall(r"^```(?:bash|console|sh)\n(.*?)^```", text, re.M | re.S)
    return blocks + re.findall(r"`(clusterctl [^`]+)`", text)
