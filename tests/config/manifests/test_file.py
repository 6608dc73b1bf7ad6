"""Manifests in files: the shipped one, and one's own over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.errors import UsageError
from config.manifests import file


def test_the_shipped_one_has_the_demo_and_well_known_families() -> None:
    known = file.entries(None)
    assert known["demo"].path == "demo"
    for name in ("smollm2", "qwen2.5-7b", "qwen2.5-14b", "qwen2.5-72b", "llama-3.1-8b", "llama-3.3-70b"):
        assert known[name].profiles, name
    exaone = [entry for name, entry in known.items() if name.startswith("exaone-3.5")]
    assert len(exaone) == 3
    assert all("--trust-remote-code" in profile.args for entry in exaone for profile in entry.profiles)
    assert not any("--trust-remote-code" in profile.args for name, entry in known.items() for profile in entry.profiles
                   if not name.startswith("exaone")), "nobody else's code runs unless it has to"  # fmt: skip


def test_ones_own_wins_name_by_name_and_its_paths_begin_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    own = tmp_path / "models.yaml"
    own.write_text("models:\n  qwen2.5-7b: {path: weights, profiles: [{name: a, path: ./other}]}\n  mine: org/mine\n")
    known = file.entries(own)
    assert known["qwen2.5-7b"].path == str(tmp_path / "weights")
    assert known["qwen2.5-7b"].profiles[0].path == str(tmp_path / "other")
    assert known["mine"].path == "org/mine" and "demo" in known


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {m: {path: x, profils: []}}", "models.m: unknown key 'profils' (did you mean 'profiles'?)"),
        ("models:\n  a: x\n  a: y\n", ", line 3: 'a' is given twice"), ("- a", "'key: value' lines are needed"),
        ("models: [", "line 1"), ("models: {m: ~nobody-of-that-name/x}", "~nobody-of-that-name"),
    ],
)  # fmt: skip
def test_a_broken_one_is_named_with_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    own = tmp_path / "models.yaml"
    own.write_text(text)
    with pytest.raises(UsageError) as error:
        file.entries(own)
    assert str(error.value).startswith(str(own)) and said in str(error.value)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_one_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    own = tmp_path / "models.yaml"
    own.write_text("#" * (1 << 20) + "#")
    with pytest.raises(UsageError, match="has more than"):
        file.entries(own)
