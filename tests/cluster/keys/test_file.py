"""Keys in a file: what is taken from it, and what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.keys import file
from config.errors import UsageError
from config.identity.api_keys import ApiKey, Digest
from config.identity.principal import Scope

SHA, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_names_and_hashes(path: Path) -> None:
    path.write_text(
        f"plain: {SHA}\ntwo: [{SHA}, {OTHER}]\n"
        f"full: {{sha256: {OTHER}, scope: read, models: [a, b], rpm: 5, weight: 2, expires: 2027-01-31, "
        "budget: 5/day, priority: low}\n"
        f"later: {{sha256: {OTHER}, expires: 2027-01-31T12:00:00Z}}\n"
    )
    found = file.read(path)
    assert found["plain"] == ApiKey("plain", digests=(Digest(SHA),))
    assert found["two"].digests == (Digest(SHA), Digest(OTHER))
    assert found["full"].scope is Scope.READ and found["full"].models == ("a", "b")
    assert found["full"].expires == 1801353600.0 and found["later"].expires == 1801353600.0 + 43_200


def test_an_empty_one_has_none(path: Path) -> None:
    path.write_text("# none yet\n")
    assert file.read(path) == {}


@pytest.mark.parametrize(
    "text",
    [
        "- a", "a: cck_secret", f"owner: {SHA}", f"a: {{sha256: {SHA}, more: 1}}", f"a: {{sha256: {SHA}, rpm: 0}}",
        "a:",
        f"a: {{sha256: {SHA}, name: b}}", f"a: {{digests: [{{sha256: {SHA}}}]}}", f"a: {SHA}\na: {OTHER}", "a: [",
        f"a: [{', '.join([SHA] * 9)}]", "a: {rpm: 5}", f"a b: {SHA}", f"1: {SHA}", "x: &x [*x]", "a: {sha256: }",
        f"a: {{sha256: {SHA}, created: 5}}", f"a: {{sha256: {SHA}, expires: never}}",
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_refused_in_one_sentence(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        file.read(path)
    said = str(refused.value)
    assert said.startswith(f"{path}") and "\n" not in said
    assert "cck_secret" not in said and SHA not in said and OTHER not in said


def test_one_that_others_could_change_is_refused(path: Path) -> None:
    path.write_text(f"a: {SHA}")
    path.chmod(0o666)
    with pytest.raises(UsageError, match="everybody may write"):
        file.read(path)
    path.chmod(0o644)
    link = path.with_name("link.yaml")
    link.symlink_to(path)
    assert set(file.read(link)) == {"a"}, "as ConfigMaps are mounted"
    path.parent.chmod(0o777)
    with pytest.raises(UsageError, match="everybody may write"):
        file.read(link)
    path.parent.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_one_of_somebody_else_is_refused(path: Path) -> None:
    path.write_text(f"a: {SHA}")
    os.chown(path, 12345, 12345)
    with pytest.raises(UsageError, match="belongs to"):
        file.read(path)


def test_one_that_is_not_there(path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        file.read(path)
