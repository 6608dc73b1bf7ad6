"""`state`: look at a state directory, take what matters of it to another machine, bring it in there."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import click

from cluster.cli.common import state_dir_option, url_option
from cluster.cli.lifecycle.down import find
from cluster.cli.render import say, say_json
from cluster.storage import schema, transfer
from cluster.storage import snapshot_file as state_file
from cluster.storage.lock import Held, lock
from cluster.storage.store import NotSaved, Store
from cluster.storage.transfer import Contents, Incoming
from cluster.supervisor import adoption
from config.disk.files import replacing
from config.errors import UsageError
from config.identity import admin_token
from config.paths import StateDir
from config.sources.commands import cluster_port, own_state_dir
from worker.drivers import available


@click.group("state")
def state_command() -> None:
    """Look at the durable state, export and import it."""


def _existing(state_dir: Path | None, url: str | None) -> StateDir:
    """Raises UsageError where there is no state."""
    root = state_dir or find(url)
    if root is None:
        raise UsageError("the cluster's state directory is on another machine: export it there")
    state = StateDir(root.absolute())
    if not state.database.exists():
        raise UsageError(f"{state.root} is no state directory of a cluster")
    return state


@contextlib.contextmanager
def _reading(state: StateDir) -> Iterator[tuple[sqlite3.Connection, bool]]:
    """The state as of one moment, and whether a supervisor writes to it. Never changes it."""
    try:
        held = lock(state)
    except Held:
        held = None
    if held is not None:
        with held:
            copy = state_file.copy(state.database)
        with contextlib.closing(copy):
            yield copy, False
        return
    with contextlib.closing(sqlite3.connect(f"{state.database.as_uri()}?mode=ro", uri=True)) as db:
        try:
            db.execute("BEGIN")
            version = db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise UsageError(f"{state.database}: not a readable state file ({error})") from None
        if version != schema.SCHEMA:
            raise UsageError(f"{state.database}: state of version {version}, this clusterctl has {schema.SCHEMA}")
        yield db, True


@state_command.command("check")
@state_dir_option
@url_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def check_command(state_dir: Path | None, url: str | None, as_json: bool) -> int:
    """Say whether the state can be read, of which version it is and what is in it. Changes nothing."""
    state = _existing(state_dir, url)
    with _reading(state) as (db, running):
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        found = transfer.contents(db)
    wrong = transfer.damaged(found)
    if as_json:
        say_json(_to_json(state, version, running, found, wrong))
        return 1 if wrong else 0
    older = "" if version == schema.SCHEMA else f" (the next start makes it {schema.SCHEMA} and keeps a copy)"
    say(f"{state.database}: readable, version {version}{older}{', in use' if running else ''}")
    for line in transfer.words(found):
        say(line)
    for line in wrong:
        say(line, err=True)
    return 1 if wrong else 0


def _to_json(state: StateDir, version: int, running: bool, found: Contents, wrong: list[str]) -> dict[str, Any]:
    adapters = {a.name: {"active": a.active, "versions": [v.number for v in a.versions]} for a in found.adapters}
    return {
        "state_dir": str(state.root), "version": version, "in_use": running, "instances": found.instances,
        "strategy": found.strategy, "weights": found.weights, "adapters": adapters, "damaged": wrong,
        "keys": sorted(key.name for key in found.keys), "names": found.changed_names,
        "models": list(found.models),
    }  # fmt: skip


@state_command.command("export")
@click.argument("file")
@state_dir_option
@url_option
def export_command(file: str, state_dir: Path | None, url: str | None) -> int:
    """Write instance count, weights, strategy, adapters, hashes of API keys, and routes and aliases that were changed
    at run time to FILE, a tar (- is standard output).

    The cluster may run meanwhile. With --driver ray keep FILE to yourself: the key of the agents is in it."""
    state = _existing(state_dir, url)
    with _reading(state) as (db, _):
        found = replace(transfer.contents(db), agent_key=admin_token.read(state.agent_key))
    try:
        if file == "-":
            transfer.write(found, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            with replacing(Path(file).absolute()) as out:
                transfer.write(found, out)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    if file != "-":
        say(f"{file}: {len(found.adapters)} adapters, {found.instances or 0} instances")
    if found.models:
        say(f"not in it, load them again there: {', '.join(found.models)} (models are of a machine)", err=True)
    return 0


@state_command.command("import")
@click.argument("file")
@state_dir_option
@click.option("--force", is_flag=True, help="Replace a state that is there and says something else.")
def import_command(file: str, state_dir: Path | None, force: bool) -> int:
    """Bring in what `export` wrote to FILE (- is standard input). No cluster may run on the state directory.

    The next `up` starts with its instance count and strategy, unless it is told others."""
    state = StateDir((state_dir or own_state_dir(cluster_port())).absolute())
    if file == "-":
        return asyncio.run(_import(sys.stdin.buffer, state, force))
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}") from None
        return asyncio.run(_import(source, state, force))


async def _import(source: IO[bytes], state: StateDir, force: bool) -> int:
    with lock(state):
        store = await Store.open(state.database)
        try:
            if await adoption.anything_alive(store, available(), state.runs):
                raise UsageError(f"a cluster without a supervisor runs on {state.root}: `up` it or `down` it first")
            with contextlib.closing(state_file.copy(state.database)) as db:
                there = transfer.contents(db)
            with contextlib.closing(Incoming(source, state)) as incoming:
                new = incoming.contents
                if not (force or there.empty or there.means() == new.means()):
                    raise UsageError(f"{state.root} has another state already; --force replaces it")
                incoming.take_in()
                if new.agent_key is not None:
                    admin_token.keep(state.agent_key, new.agent_key)
                await transfer.bring_in(store, new)
        except (NotSaved, OSError) as error:
            raise UsageError(f"not imported: {error}") from None
        finally:
            await store.close()
    say(f"{state.root}: {len(new.adapters)} adapters, {new.instances or 0} instances")
    return 0
