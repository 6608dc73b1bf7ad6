"""`jobs`: what a cluster has done besides serving."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import click

from cluster.cli.common import client, json_option, url_option
from cluster.cli.job_display import sentence
from cluster.cli.progress import follow_job
from cluster.cli.render import cell, console, duration, plain_table, say, say_json
from cluster.cli.running.operate import print_log
from config.jobs.said import JobProgress

_STYLES = {"running": "yellow", "done": "green", "failed": "bold red", "cancelled": "dim", "queued": "dim"}

_id = click.argument("id")


@click.group("jobs")
def jobs_command() -> None:
    """Look at the jobs of a cluster (downloads, trainings …), follow and cancel them."""


@jobs_command.command("list")
@json_option
@url_option
def list_jobs(as_json: bool, url: str | None) -> int:
    """Show every job that is remembered, the newest first."""
    with client(url) as cluster:
        found = cluster.jobs()
    if as_json:
        return say_json({"jobs": found})
    if not found:
        say("no jobs")
        return 0
    table = plain_table("job", "state", ">began", ">took", "gpus", "by", "")
    for job in found:
        state = "cancelling" if job["cancelling"] and job["state"] == "running" else job["state"]
        table.add_row(
            cell(job["id"]), cell(state, _STYLES.get(state, "")), _ago(job["started_at"]), _took(job),
            cell(",".join(map(str, job["gpus"])) or None), cell(job["by"] or None), cell(_note(job), "dim"),
        )
    console().print(table)
    return 0


@jobs_command.command("show")
@_id
@json_option
@url_option
def show_job(id: str, as_json: bool, url: str | None) -> int:
    """Show all that is known of the job ID."""
    with client(url) as cluster:
        job = cluster.job(id)
    if as_json:
        return say_json(job)
    for key in ("id", "kind", "state", "by", "background", "gpus", "pid", "error"):
        if (value := job[key]) not in (None, "", []):
            say(f"{key}: {json.dumps(value) if isinstance(value, list | bool) else value}")
    say(f"began: {_ago(job['started_at'])} ago, took: {_took(job)}" if job["started_at"] else "has not begun")
    if note := _note(job):
        say(f"progress: {note}")
    for name in ("arguments", "result"):
        for key, value in (job[name] or {}).items():
            say(f"{name}.{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return 0


@jobs_command.command("wait")
@_id
@url_option
def wait_for_job(id: str, url: str | None) -> int:
    """Follow the job ID until it has ended; exit code 1 if it comes to no result."""
    with client(url) as cluster:
        follow_job(cluster, id)
    say(f"{id} is done")
    return 0


@jobs_command.command("logs")
@_id
@click.option("-f", "--follow", is_flag=True, help="Go on as it is written, until Ctrl-C.")
@click.option("-n", "--lines", default=100, show_default=True, type=click.IntRange(0, 100_000))
@url_option
def job_logs(id: str, follow: bool, lines: int, url: str | None) -> int:
    """Show what the job ID and its libraries wrote."""
    with client(url) as cluster:
        cluster.job(id)  # says so where there is none
        print_log(cluster, id, lines, follow)
    return 0


@jobs_command.command("cancel")
@_id
@url_option
def cancel_job(id: str, url: str | None) -> int:
    """Ask the job ID to end; it has some seconds to clear up."""
    with client(url) as cluster:
        job = cluster.cancel_job(id)
    say(f"{id}: {'is asked to end' if job['state'] == 'running' else job['state']}")
    return 0


def _note(job: Mapping[str, Any]) -> str:
    """How far it is, or why it came to nothing."""
    if job["error"]:
        return str(job["error"])
    return sentence(JobProgress(**job["progress"])) if job["progress"] and job["state"] == "running" else ""


def _ago(at: float | None) -> str:
    return "-" if at is None else duration(max(0.0, time.time() - at))


def _took(job: Mapping[str, Any]) -> str:
    if job["started_at"] is None:
        return "-"
    return duration(max(0.0, (job["ended_at"] or time.time()) - job["started_at"]))
