"""The group `lora`."""

from __future__ import annotations

import click

from cluster.cli.workload.lora.bench import bench
from cluster.cli.workload.lora.change import load, rollback, unload, update
from cluster.cli.workload.lora.create import create
from cluster.cli.workload.lora.look import list_adapters, show, test
from cluster.cli.workload.lora.merge import merge
from cluster.cli.workload.lora.push import push
from cluster.cli.workload.lora.train import train
from cluster.cli.workload.lora.validate import validate


@click.group("lora")
def lora_command() -> None:
    """Load, update and look at LoRA adapters, on every worker at once."""


for each in (load, update, rollback, unload, list_adapters, show, test, validate, bench, train, create, merge, push):
    lora_command.add_command(each)
