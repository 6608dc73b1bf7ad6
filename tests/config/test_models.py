"""How models are written."""

from __future__ import annotations

import pytest

from config.models import MOST_MODELS, definition, definitions


def test_a_path_alone_is_a_model() -> None:
    assert definition("/models/a").path == "/models/a"
    assert definition({"path": "a", "idle_timeout": "15m"}).idle_timeout == 900
    assert definition({"path": "a", "idle-timeout": "7.5"}).idle_timeout == 7.5
    assert definition({"path": "a", "idle-timeout": 5, "args": "--max-loras 2"}).args == ("--max-loras", "2")


def test_what_is_written_is_read_again() -> None:
    made = definitions({"a": {"path": "x", "gpus": "0,1", "adapters": {"l": "/l"}, "pinned": True}, "b": "y"})
    assert definitions({name: one.to_json() for name, one in made.items()}) == made


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["a"], "name: path"),
        ({"a/b": "x"}, "'a/b' is no name of a model"),
        ({"..": "x"}, "is no name of a model"),
        ({1: "x"}, "is no name of a model"),
        ({"default": "x"}, "'default' is no name of a model"),
        ({"a": "x", "b": {"path": "y", "served_names": "a"}}, "b: 'a' is a name of a already"),
        ({"a": {"path": "x", "adapters": {"b": "/l"}}, "b": "y"}, "b: 'b' is a name of a already"),
        ({"a": 3}, "a: a path, or keys and values, are needed"),
        ({"a": {"path": ""}}, "a: path: it is empty"),
        ({"a": {}}, "a: path: Field required"),
        ({"a": {"path": "x", "instnces": 2}}, "a: unknown key 'instnces' (did you mean 'instances'?)"),
        ({"a": {"path": "x", "instances": 0}}, "a: instances: Input should be greater than or equal to 1"),
        ({"a": {"path": "x", "min": 2}}, "a: min 2 is above instances 1"),
        ({"a": {"path": "x", "instances": 3, "max": 2}}, "a: max 2 is below instances 3"),
        ({"a": {"path": "x", "args": "--port 3"}}, "--port is set by the cluster itself"),
        ({"a": {"path": "x", "idle_timeout": float("nan")}}, "a: idle_timeout"),
        ({"a": {"path": "x", "idle_timeout": "15 minutes"}}, "a: idle_timeout: a time such as"),
        ({"a": {"path": "x", "idle_timeout": ""}}, "a: idle_timeout: a time such as"),
        ({str(n): "x" for n in range(MOST_MODELS + 1)}, "are more than"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(given: object, says: str) -> None:
    with pytest.raises(ValueError) as error:
        definitions(given)
    assert says in str(error.value) and "\n" not in str(error.value)
