"""What of this machine a job that a command starts may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from cluster.cli.common import client
from cluster.client import ClusterError
from config.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def resource_options(function: F) -> F:
    for option in (
        click.option("--background/--no-background", default=None,
                     help="Only where no processor is wanted; default: beside a cluster, without a GPU."),
        click.option("--share-gpus", is_flag=True, help="The GPUs may be some that serve."),
        click.option("--gpus", metavar="0,1|none", help="On these; default: one that nobody serves with, if any."),
    ):  # fmt: skip
        option(function)
    return function


def gpus_for(url: str | None, given: str | None, share: bool) -> tuple[list[int], bool]:
    """The GPUs of a job, none for the processor, and whether a cluster runs here. Raises UsageError for GPUs that
    there are not, or that serve."""
    from worker.gpus import detect

    there = [gpu.index for gpu in detect(os.environ.get("CUDA_VISIBLE_DEVICES"))]
    serving = _serving(url)
    used = serving or set[int]()
    if given is None:
        return [gpu for gpu in there if gpu not in used][:1], serving is not None
    wanted = _numbers(given)
    if missing := [gpu for gpu in wanted if gpu not in there]:
        raise UsageError(f"there is no GPU {missing[0]}; there are: {', '.join(map(str, there)) or 'none'}", 2)
    if not share and (busy := [gpu for gpu in wanted if gpu in used]):
        raise UsageError(f"GPU {busy[0]} serves: --share-gpus shares it", exit_code=2)
    return wanted, serving is not None


def _numbers(given: str) -> list[int]:
    if given.strip() == "none":
        return []
    try:
        return [int(part) for part in given.split(",")]
    except ValueError:
        raise UsageError(f"--gpus {given}: numbers, as in 0,1, or none", exit_code=2) from None


def _serving(url: str | None) -> set[int] | None:
    """Those of the cluster's workers; None where there is no cluster."""
    try:
        with client(url) as cluster:
            instances: Sequence[Any] = list(cluster.status()["instances"].values())
    except ClusterError:
        return None
    return {gpu for each in instances for gpu in each.get("gpus") or ()}
