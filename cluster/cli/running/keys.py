"""`key`: who may ask a running cluster for what."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from cluster.cli.common import Finite, client, json_option, url_option
from cluster.cli.render import ago, cell, console, duration, plain_table, say, say_json
from config.errors import UsageError
from config.identity.api_keys import SCOPES, Priority

_name = click.argument("name")

#: What a limit is given as to take it away.
_NONE = "none"

_F = Callable[..., int]


class _Limit(click.ParamType[Any]):
    """A whole number, or that there is none."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == _NONE else click.IntRange(min=1).convert(value, param, ctx)


class _Text(click.ParamType[Any]):
    """A text, or that there is none."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == _NONE else value


class _Models(_Text):
    """Words with commas between them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == _NONE else [name.strip() for name in value.split(",") if name.strip()]


_FIELDS: tuple[tuple[str, click.ParamType[Any], str, str], ...] = (
    ("--scope", click.Choice([str(s) for s in SCOPES]), "", "inference: models; read: to look; admin: to change."),
    ("--models", _Models(), "A,B", "The only models it may ask for."),
    ("--rpm", _Limit(), "N", "Requests a minute."),
    ("--tpm", _Limit(), "N", "Tokens a minute, of prompts and answers."),
    ("--max-concurrent", _Limit(), "N", "Requests at the same time."),
    ("--priority", click.Choice([str(priority) for priority in Priority]), "", "Which class its requests wait in."),
    ("--weight", Finite(0.001, 1000), "W", "Its share of the slots within its class (1)."),
    ("--expires", _Text(), "30d", "From now: 12h, 30d, 2w."),
    ("--budget-tokens", _Text(), "N/day|month", "Tokens in each day or month."),
)


def _fields(function: _F) -> _F:
    for flag, kind, metavar, words in reversed(_FIELDS):
        click.option(flag, type=kind, metavar=metavar or None, default=None, help=words)(function)
    return function


@click.group("key")
def key_command() -> None:
    """API keys: who may ask for what. From the first one for models on, every request needs one."""


@key_command.command("create")
@_name
@_fields
@json_option
@url_option
def create(name: str, as_json: bool, url: str | None, **options: Any) -> int:
    """Make a key and show its secret, this once."""
    given = _given(options)
    with client(url) as cluster:
        key = cluster.create_key(name, **given)
        _print_secret(key, as_json)
        keys = cluster.keys()
        if key["scope"] == "inference" and [other["scope"] for other in keys].count("inference") == 1:
            say("it is the first one for models: from now on every request for a model needs a key", err=True)
    return 0


@key_command.command("list")
@json_option
@url_option
def list_keys(as_json: bool, url: str | None) -> int:
    """Show every key, without its secret."""
    with client(url) as cluster:
        keys = cluster.keys()
    if as_json:
        return say_json(keys)
    columns = ("key", "scope", "models", ">rpm", ">tpm", ">concurrent", "priority", ">weight", "budget", "expires")
    table = plain_table(*columns)
    for key in keys:
        table.add_row(
            cell(key["name"]), cell(key["scope"]), cell(_models(key)), cell(key["rpm"]), cell(key["tpm"]),
            cell(key["max_concurrent"]), cell(key["priority"]), cell(f"{key['weight']:g}"), cell(key["budget"]),
            cell(_expiry(key), "red" if key["expired"] else ""),
        )  # fmt: skip
    console().print(table)
    return 0


@key_command.command("show")
@_name
@json_option
@url_option
def show(name: str, as_json: bool, url: str | None) -> int:
    """Show one key, without its secret."""
    with client(url) as cluster:
        key = cluster.key(name)
    _print_key(key, as_json)
    return 0


@key_command.command("update")
@_name
@_fields
@json_option
@url_option
def update(name: str, as_json: bool, url: str | None, **options: Any) -> int:
    """Change what a key may; `none` takes a limit away. At once, without a restart."""
    given = _given(options)
    if not given:
        raise UsageError("nothing to change: see --help", exit_code=2)
    with client(url) as cluster:
        _print_key(cluster.update_key(name, **given), as_json)
    return 0


@key_command.command("revoke")
@_name
@url_option
def revoke(name: str, url: str | None) -> int:
    """Let a key in no more, at once."""
    with client(url) as cluster:
        cluster.revoke_key(name)
    say(f"{name} is revoked")
    return 0


@key_command.command("rotate")
@_name
@click.option("--grace", metavar="24h", help="For how long the secret before holds: 0s, 24h, 7d (24h).")
@json_option
@url_option
def rotate(name: str, grace: str | None, as_json: bool, url: str | None) -> int:
    """Give a key a new secret and show it, this once."""
    with client(url) as cluster:
        _print_secret(cluster.rotate_key(name, grace), as_json)
    return 0


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were named on the command line, as the API calls them."""
    named = click.get_current_context().get_parameter_source
    given = {name: value for name, value in options.items() if named(name) is click.core.ParameterSource.COMMANDLINE}
    if "budget_tokens" in given:
        given["budget"] = given.pop("budget_tokens")
    return given


def _print_secret(key: Mapping[str, Any], as_json: bool) -> None:
    """The secret alone on standard output: it can be piped to where it is kept."""
    if as_json:
        say_json(key)
        return
    say(f"{key['name']}: this is shown once; the cluster keeps a hash of it", err=True)
    click.echo(key["secret"])


def _print_key(key: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(key)
        return
    rows = {
        **key, "models": _models(key), "expires": _expiry(key), "created": ago(key["created"]),
        "secrets": ", ".join(_until(one["until"]) for one in key["secrets"]) or "none holds",
    }  # fmt: skip
    for name, value in rows.items():
        if name != "expired":
            say(f"{name:<15} {'-' if value is None else value}")


def _models(key: Mapping[str, Any]) -> str:
    return "any" if key["models"] is None else ", ".join(key["models"])


def _expiry(key: Mapping[str, Any]) -> str:
    if key["expires"] is None:
        return "never"
    return "expired" if key["expired"] else f"in {duration(key['expires'] - time.time())}"


def _until(instant: float | None) -> str:
    return "holds" if instant is None else f"holds for {duration(max(0.0, instant - time.time()))} more"
