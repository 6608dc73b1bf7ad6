"""`bench`: how quickly a URL answers, under a load of one's choice."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cluster.cli.arguments import make_folder
from cluster.cli.common import Finite, given_ca, url_option, verification
from cluster.cli.render import console, say, say_json
from cluster.client import ClusterClient, ClusterError, Model
from cluster.client.core import root_of
from config.errors import UsageError

_PATH, _POSITIVE, _ABOVE = click.Path(path_type=Path), click.IntRange(1), Finite(0, min_open=True)

#: What is done where nobody says how much, or how much at a time.
_REQUESTS, _CONCURRENCY, _MADE_UP = 100, 8, 1000

#: Only one of each row counts; a flag goes before what the file says.
_EITHER = (("concurrency", "rate"), ("prompts_file", "num_prompts", "prompts"))


class _MixType(click.ParamType[Any]):
    name = "mix"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from cluster.tools.bench.mix import parse_mix

        try:
            return parse_mix(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _load_file(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """What the file says becomes the defaults of the options, checked as they are."""
    if value is None:
        return None
    from cluster.tools.bench import file

    found = file.read(value)
    options = {option.name: option for option in context.command.params}
    defaults: dict[str, Any] = {"prompts": found.prompts} if found.prompts is not None else {}
    for name, (key, given) in found.given.items():
        option = options[name]
        kind = option.type
        wrong = isinstance(given, bool) != isinstance(kind, click.types.BoolParamType)
        if wrong or (isinstance(given, float) and isinstance(kind, click.IntRange)):
            raise UsageError(f"{value}: {key}: {kind.name} is needed, not {json.dumps(given)}", exit_code=2)
        try:
            defaults[name] = option.type_cast_value(context, given if isinstance(given, bool) else str(given))
        except click.BadParameter as error:
            raise UsageError(f"{value}: {key}: {error.message}", exit_code=2) from None
    context.default_map = defaults
    return value


def _drop_what_gives_way(context: click.Context, options: dict[str, Any]) -> None:
    """Of two that exclude each other the flag is left. Raises click.UsageError for two flags, UsageError for two
    keys."""
    for row in _EITHER:
        given = [name for name in row if options.get(name) is not None]
        flags = [name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if len(flags) > 1:
            raise click.UsageError(" and ".join(f"--{n.replace('_', '-')}" for n in flags) + " exclude each other")
        if len(given) > 1 and not flags:
            raise UsageError(f"{options['config']}: {' and '.join(given)} exclude each other", exit_code=2)
        for name in given:
            if flags and name not in flags:
                options[name] = None


@click.command("bench")
@url_option
@click.option("--model", help="A model of the server, or `all`: one after the other. Default its first.")
@click.option("--endpoint", type=click.Choice(["chat", "completions"]), default="chat", show_default=True)
@click.option("--requests", type=_POSITIVE, help=f"How many. Default one for each prompt, or {_REQUESTS}.")
@click.option("--duration", type=_ABOVE, help="Begin none after so many seconds.")
@click.option("--concurrency", type=_POSITIVE, help=f"So many at a time. Default {_CONCURRENCY}.")
@click.option("--rate", type=_ABOVE, help="So many begin a second, at random, whatever became of others.")
@click.option("--prompts-file", type=_PATH, help="A prompt a line; .jsonl, .json: objects.")
@click.option("--num-prompts", type=_POSITIVE, help="Make up so many. Default one a request.")
@click.option("--prompt-words", type=_POSITIVE, default=64, show_default=True, help="Words of each of those.")
@click.option("--max-tokens", type=_POSITIVE, help="Longest answer. Default what the prompt says, or 128.")
@click.option("--temperature", type=Finite(0), help="Default the server's.")
@click.option("--ignore-eos", is_flag=True, help="Every answer as long as it may be.")
@click.option("--stream/--no-stream", default=True, help="Without: no times of single tokens.")
@click.option("--adapters", type=_MixType(), metavar="zipf[:1.0]|uniform", help="Over all adapters, so spread.")
@click.option("--warmup", type=click.IntRange(0), default=1, show_default=True, help="A model, uncounted.")
@click.option("--timeout", type=_ABOVE, default=600.0, show_default=True, help="Seconds for an answer.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of arrivals, prompts and the spread.")
@click.option("--config", type=_PATH, is_eager=True, callback=_load_file, help="YAML file; flags go before it.")
@click.option("--out", type=_PATH, help="Folder for the result (JSON) and its picture.")
@click.option("--plot", type=click.Choice(["png", "svg", "none"]), default="png", show_default=True)
@click.option("--save-requests/--no-save-requests", default=True, help="Every request in the JSON, or not.")
@click.option("--table/--no-table", default=True, help="Show the result, or do not.")
@click.option("--json", "as_json", is_flag=True, help="Show it as JSON.")
@click.option("--compare", type=(_PATH, _PATH), metavar="A.json B.json", help="Show two results side by side.")
@click.pass_context
def bench_command(context: click.Context, /, **options: Any) -> int:
    """Measure a server: time to first token, per output token, between tokens, end to end, throughput.

    It defines them as `vllm bench serve` does. Ctrl-C shows the results so far."""
    if options["compare"]:
        return _compare(*options["compare"])
    options["prompts"] = (context.default_map or {}).get("prompts")
    _drop_what_gives_way(context, options)
    plans = _plans(options)
    if options["out"]:
        make_folder(options["out"])
    result, code = _measure(plans, options)
    shown = result.to_json(requests=False)
    if options["as_json"]:
        say_json(shown)
    elif options["table"]:
        from cluster.cli.workload.bench_tables import show

        show(console(), shown)
    if options["out"]:
        _save(result, options)
    return code


def _plans(options: dict[str, Any]) -> list[Any]:
    """One a run. Raises UsageError and ClusterError."""
    from random import Random

    from cluster.client.token import key_for
    from cluster.tools.bench import prompts, targets
    from cluster.tools.bench.run import BenchPlan
    from cluster.tools.bench.send import Form
    from config.sources.commands import cluster_url, own_api_key

    url = root_of(options["url"] or cluster_url())
    verify = verification(url)
    key = key_for(url, own_api_key(), verify)
    models = targets.runs(_listed(url, key, options["model"]), options["model"], options["adapters"])
    requests, duration = options["requests"], options["duration"]
    asked = prompts.read_prompts(options["prompts_file"]) if options["prompts_file"] else options["prompts"]
    if requests is None and duration is None:
        requests = len(asked) if asked else options["num_prompts"] or _REQUESTS
    if asked is None:
        count = options["num_prompts"] or min(requests or _MADE_UP, _MADE_UP)
        asked = prompts.made_up(count, options["prompt_words"], Random(f"prompts {options['seed']}"))
    form = Form(
        url, endpoint=options["endpoint"], stream=options["stream"], max_tokens=options["max_tokens"],
        temperature=options["temperature"], ignore_eos=options["ignore_eos"], timeout=options["timeout"],
        api_key=key, verify=verify,
    )
    for prompt in asked:
        prompt.body(form.endpoint == "chat")
    concurrency = None if options["rate"] else options["concurrency"] or _CONCURRENCY
    plan = functools.partial(
        BenchPlan, form, prompts=tuple(asked), mix=options["adapters"], concurrency=concurrency, rate=options["rate"],
        requests=requests, duration=duration, warmup=options["warmup"], seed=options["seed"],
    )
    return [plan(models=names) for names in models]


def _listed(url: str, key: str | None, model: str | None) -> list[Model]:
    """The server's models; none where it does not list any and a model is named."""
    from config.sources.commands import own_certificate

    try:
        with ClusterClient(url, key, verify=given_ca(), cert=own_certificate()) as server:
            return server.models()
    except ClusterError as error:
        if error.status == 404 and model:
            return []
        raise


def _measure(plans: list[Any], options: dict[str, Any]) -> tuple[Any, int]:
    """The result, and the exit code."""
    from cluster.cli.workload.bench_run import measure
    from cluster.tools.bench.result import Result, all_failed

    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    outcomes, signalled = measure(plans)
    result = Result(_settings(plans, options), at, signalled is not None, tuple(outcomes))
    code = 1 if all_failed(result.samples) else 0
    return result, code if signalled is None else 128 + signalled


def _settings(plans: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """What the run was, for its file."""
    first = plans[0]
    mix = first.mix and (f"zipf:{first.mix.exponent:g}" if first.mix.exponent else "uniform")
    return {
        "url": first.form.url, "model": options["model"] or first.models[0], "endpoint": first.form.endpoint,
        "requests": first.requests, "duration": first.duration, "concurrency": first.concurrency, "rate": first.rate,
        "prompts": len(first.prompts), "max_tokens": first.form.max_tokens, "temperature": first.form.temperature,
        "ignore_eos": first.form.ignore_eos, "stream": first.form.stream, "adapters": mix, "warmup": first.warmup,
        "timeout": first.form.timeout, "seed": first.seed,
    }  # fmt: skip


def _save(result: Any, options: dict[str, Any]) -> None:
    """The JSON first: it is the result, the picture is not."""
    from cluster.tools.bench import plot

    stem = f"bench-{result.at.replace(':', '').replace('-', '')}"
    file = options["out"] / f"{stem}.json"
    number = 1
    while file.exists():
        number += 1
        file = options["out"] / f"{stem}-{number}.json"
    try:
        file.write_text(json.dumps(result.to_json(options["save_requests"])) + "\n", encoding="utf-8")
        say(f"written to {file}", err=True)
        if options["plot"] != "none":
            picture = file.with_suffix(f".{options['plot']}")
            plot.draw(result, picture)
            say(f"written to {picture}", err=True)
    except OSError as error:
        raise UsageError(f"{error.filename or file}: {error.strerror}") from None
    except UsageError as error:
        say(str(error), err=True)


def _compare(first: Path, second: Path) -> int:
    from cluster.cli.workload.bench_tables import show_comparison
    from cluster.tools.bench.compare import read_result

    names = [first.name, second.name] if first.name != second.name else [str(first), str(second)]
    show_comparison(console(), names, read_result(first), read_result(second))
    return 0
