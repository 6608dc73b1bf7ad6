"""The command line: parse, call, print. Exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import errno
import sys
from typing import NoReturn

import click

from cluster.cli import streams
from config.errors import UsageError
from config.text import printable

#: Whoever read the output has gone, the terminal has, or what takes it is full.
_OUTPUT_LOST = (errno.EPIPE, errno.EIO, errno.ENOSPC)


class _Commands(click.Group):
    """Imports a command's module only when it is used: completion and ``--help`` stay quick."""

    _modules = {  # noqa: RUF012
        "up": "lifecycle.up", "down": "lifecycle.down", "status": "running.operate", "top": "running.top",
        "scale": "running.operate", "strategy": "running.operate", "restart": "running.operate",
        "drain": "running.planned", "apply": "running.planned", "key": "running.keys", "audit": "running.audit",
        "weight": "running.operate", "usage": "running.usage",
        "logs": "running.operate", "events": "running.events", "why": "running.why", "lora": "workload.lora.command",
        "chat": "workload.chat", "infer": "workload.infer", "eval": "workload.evaluate", "data": "workload.data",
        "bench": "workload.bench", "ui": "running.ui",
        "config": "lifecycle.settings", "doctor": "lifecycle.doctor", "plan": "lifecycle.sizing",
        "state": "lifecycle.state", "alias": "running.names", "route": "running.names", "model": "running.models",
        "jobs": "running.jobs", "balancer": "running.balancers",
    }  # fmt: skip

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        import importlib

        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(f"cluster.cli.{self._modules[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from config.errors import nearest

        if args and not args[0].startswith("-") and args[0] not in self._modules:
            ctx.fail(f"no command {args[0]!r}{nearest(args[0], self._modules)}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="clusterctl")
def cli() -> None:
    """One command, one URL: vLLM multi-LoRA workers, supervised, behind one load balancer."""


def main() -> None:
    """Entry point. One line on standard error for whatever a person can mend, never a traceback."""
    try:
        _main()
    except KeyboardInterrupt:
        sys.exit(130)


def _main() -> None:
    streams.prepare()
    from cluster.client import ClusterError  # httpx takes a moment, and a supervisor of `up --detach` needs none

    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except UsageError as error:
        _fail(error, error.exit_code)
    except ClusterError as error:
        _fail(error, 2 if error.status == 400 else 1)
    except OSError as error:
        if error.errno not in _OUTPUT_LOST:
            raise
        if error.errno == errno.ENOSPC:
            click.echo(f"error: the output is cut off: {error.strerror}", err=True)
        streams.silence()
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: Exception, code: int) -> NoReturn:
    click.echo(f"error: {printable(str(error))}", err=True)
    sys.exit(code)
