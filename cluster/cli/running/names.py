"""`alias` and `route`: names that clients ask for in place of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from cluster.cli.common import client, json_option, url_option
from cluster.cli.render import say, say_json
from cluster.client import ClusterError
from config import model_names
from config.errors import UsageError, nearest

_name = click.argument("name")


@click.group("alias")
def alias_command() -> None:
    """Other names of models, and splits among several: versions of an adapter, or any models."""


@alias_command.command("set")
@_name
@click.argument("sides")
@click.option("--shadow", is_flag=True, help="The other of two gets a copy; its answer is dropped and measured.")
@url_option
def set_alias(name: str, sides: str, shadow: bool, url: str | None) -> int:
    """Let NAME stand for SIDES, such as medical@3=90,medical@4=10; the same user gets the same one."""
    try:
        alias = model_names.alias({"sides": sides, "shadow": shadow})
    except ValueError as error:
        raise UsageError(str(error), exit_code=2) from None
    if shadow and len(alias.sides) != 2:
        raise UsageError("--shadow goes with two models", exit_code=2)
    with client(url) as cluster:
        return _changed(cluster.set_alias(name, dict(alias.sides), shadow=shadow))


@alias_command.command("undo")
@_name
@url_option
def undo(name: str, url: str | None) -> int:
    """Put NAME back to what it stood for before the last change."""
    with client(url) as cluster:
        return _changed(cluster.undo_alias(name))


@alias_command.command("delete")
@_name
@url_option
def delete(name: str, url: str | None) -> int:
    """Let NAME be no alias any more."""
    with client(url) as cluster:
        return _changed(cluster.delete_alias(name))


@alias_command.command("list")
@json_option
@url_option
def list_aliases(as_json: bool, url: str | None) -> int:
    """Show every alias."""
    with client(url) as cluster:
        return _listed({"aliases": cluster.aliases()}, as_json)


@click.group("route")
def route_command() -> None:
    """Names that choose a model by what the last user message says; the setting `routes` has them."""


@route_command.command("list")
@json_option
@url_option
def list_routes(as_json: bool, url: str | None) -> int:
    """Show every route and its rules."""
    with client(url) as cluster:
        return _listed({"routes": cluster.routes()}, as_json)


@route_command.command("test")
@_name
@click.argument("text")
@url_option
def test(name: str, text: str, url: str | None) -> int:
    """Say which model NAME chooses for TEXT, and by which rule."""
    with client(url) as cluster:
        routes = cluster.routes()
    if name == model_names.AUTO and name not in routes and len(routes) == 1:
        name = next(iter(routes))
    if name not in routes:
        raise ClusterError(f"no route {name!r}{nearest(name, routes)}")
    choice = model_names.route(routes[name]).choose(text)
    assert choice is not None  # nobody is bound to models here
    say(f"{choice.model}: {choice.reason}")
    return 0


def _changed(answer: Mapping[str, Any]) -> int:
    name, now = answer["name"], answer["now"]
    say(f"{name}: {_shown(now)}" if now else f"{name} is no alias any more")
    return 0


def _listed(found: dict[str, dict[str, Any]], as_json: bool) -> int:
    if as_json:
        return say_json(found)
    for kind, names in found.items():
        for name, what in names.items():
            say(f"{name}: {_shown(what)}")
        if not names:
            say(f"no {kind}")
    return 0


def _shown(what: Mapping[str, Any]) -> str:
    if "rules" not in what:
        alias = model_names.alias(what)
        sides = ", ".join(f"{model} {weight:g}" for model, weight in alias.sides)
        return sides + (", and a copy to the other" if alias.shadow else "")
    signs = [[*rule.get("keywords", ()), *filter(None, [rule.get("pattern")])] for rule in what["rules"]]
    rules = [f"{', '.join(found)} -> {rule['model']}" for found, rule in zip(signs, what["rules"], strict=True)]
    return "; ".join([*rules, f"else {what['default']}"])
