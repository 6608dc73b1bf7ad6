"""The group `lora`."""

from __future__ import annotations

import click

from cluster.cli.workload.lora.bench import bench
from cluster.cli.workload.lora.change import load, rollback, unload, update
from cluster.cli.workload.lora.jobs.convert import convert
from cluster.cli.workload.lora.jobs.create import create
from cluster.cli.workload.lora.jobs.export import export, quantize
from cluster.cli.workload.lora.jobs.merge import merge
from cluster.cli.workload.lora.jobs.pull import pull
from cluster.cli.workload.lora.jobs.push import push
from cluster.cli.workload.lora.jobs.train import train
from cluster.cli.workload.lora.look import list_adapters, show, test
from cluster.cli.workload.lora.validate import validate


@click.group("lora")
def lora_command() -> None:
    """Train, load, update, look at, merge and publish LoRA adapters."""


for each in (
    load, update, rollback, unload, list_adapters, show, test, validate, convert, bench,
    train, create, merge, quantize, export, pull, push,
):  # fmt: skip
    lora_command.add_command(each)
