"""The group `lora`."""

from __future__ import annotations

import click

from cluster.cli.workload.lora.bench import bench
from cluster.cli.workload.lora.change import load, rollback, unload, update
from cluster.cli.workload.lora.look import list_adapters, show, test
from cluster.cli.workload.lora.validate import validate


@click.group("lora")
def lora_command() -> None:
    """Load, update and look at LoRA adapters, on every worker at once."""


for each in (load, update, rollback, unload, list_adapters, show, test, validate, bench):
    lora_command.add_command(each)
