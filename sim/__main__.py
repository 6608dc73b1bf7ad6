"""`python -m sim compare TRACE…`, `sweep TRACE`, `many`: the tables of `docs/routing.md`, as Markdown."""

from __future__ import annotations

import resource
import time
from dataclasses import replace
from pathlib import Path

import click

import sim
from sim import scenarios
from sim.autoscaling import RULES, DayRun, day
from sim.capacity import Capacity, arrivals, capacities
from sim.comparison import OURS, POLICIES, TPOT, TTFT, Sustained, compare, informed, moving, vary
from sim.scenarios import Workload
from sim.simulation import Setting, run
from sim.traces import read
from worker.sim.engine.costs import PROFILES

_HEAD = """\
| policy | sustained (x the trace's speed) | ours / it | p99 TTFT there (s) | swaps per 1,000 | p99, rarer half / rest |
|---|---|---|---|---|---|"""

_PLAN_HEAD = """\
| slots | GPUs | for them on each GPU (GiB) | adapters in host memory | which is, a worker (GiB) | good | p99 TTFT (s) |
|---|---|---|---|---|---|---|"""

_TRACE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """Routing policies on recorded traffic, with simulated engines."""


@main.command("compare")
@click.argument("traces", nargs=-1, required=True, type=_TRACE)
@click.option("--workers", default=8, show_default=True)
@click.option("--slots", default=8, show_default=True, help="Adapters that an engine computes at a time.")
@click.option("--host", default=32, show_default=True, help="Adapters in a worker's host memory.")
@click.option("--adapters", default=200, show_default=True)
@click.option("--zipf", default=1.0, show_default=True)
@click.option("--profile", default="h100-8b", show_default=True, type=click.Choice(list(PROFILES)))
@click.option("--seed", default=1, show_default=True)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Goodput by load, as an image.")
def compare_(
    traces: tuple[Path, ...], workers: int, slots: int, host: int, adapters: int, zipf: float, profile: str,
    seed: int, plot: Path | None,
) -> None:  # fmt: skip
    """The load at which nine in ten requests are within 2 s to the first token and 50 ms for each other, by policy."""
    setting = Setting(PROFILES[profile], workers=workers, slots=slots, host_adapters=host)
    for path in traces:
        workload = Workload(read(path), count=adapters, zipf=zipf, seed=seed)
        size = f"{adapters} adapters, {workers} workers x {slots} slots"
        click.echo(f"\n{path.name}: {len(workload.rows)} requests, {size}\n")
        click.echo(_HEAD)
        found = dict(compare(workload, setting))
        for name, each in found.items():
            click.echo(_row(name, each, found[OURS].speed, workload))
    if plot is not None:
        draw(traces, setting, adapters, zipf, seed, plot)


def _row(name: str, found: Sustained, ours: float, workload: Workload) -> str:
    if found.result is None:
        return f"| {name} | none | | | | |"
    result, rare = found.result, workload.rare()
    rest = result.percentile(0.99, lambda adapter: adapter not in rare)
    seldom = result.percentile(0.99, lambda adapter: adapter in rare) / rest
    swaps = 1000 * result.swaps / result.requests
    return (
        f"| {name} | {found.speed:.2f} | {ours / found.speed:.2f} | {result.percentile(0.99):.2f} | {swaps:.0f} "
        f"| {seldom:.2f} |"
    )


def draw(traces: tuple[Path, ...], setting: Setting, adapters: int, zipf: float, seed: int, to: Path) -> None:
    """Needs matplotlib (the extra ``plot``)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(traces), figsize=(6 * len(traces), 4.5), squeeze=False)
    for axis, path in zip(axes[0], traces, strict=True):
        workload = Workload(read(path), count=adapters, zipf=zipf, seed=seed)
        mean = workload.rows[-1].at / len(workload.rows)
        speeds = [0.25 * 1.19**k for k in range(24)]
        for name, policy in POLICIES.items():
            shares = [100 * run(workload.at(speed), policy, setting).goodput(TTFT, TPOT) for speed in speeds]
            axis.plot([s / mean for s in speeds], shares, label=name, linewidth=3 if name == OURS else 1)
        axis.set(title=path.name.split(".")[0], xlabel="requests/s", ylabel="good requests (%)", xscale="log")
        axis.axhline(90, color="gray", linewidth=0.5)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(to, dpi=110)


@main.command()
@click.argument("trace", type=_TRACE)
@click.option("--rows", default=6000, show_default=True, help="Of the trace, from its beginning.")
@click.option("--factor", default=1.1, show_default=True, help="Times the load that the best peer just sustains.")
@click.option("--only", default="", help="What is varied has these words.")
def sweep(trace: Path, rows: int, factor: float, only: str) -> None:
    """The share of good requests as slots, ranks, popularity, bursts and knowledge vary."""
    click.echo("| varied | load (x) | adaptive | the best other | |")
    click.echo("|---|---|---|---|---|")
    for row in vary(read(trace)[:rows], factor, only):
        ours, best = row.goodput[OURS], row.goodput[row.best]
        said = "" if ours >= best - 0.005 else "**behind**"
        click.echo(f"| {row.scenario.vary} | {row.speed:.2f} | {ours:.1%} | {best:.1%} ({row.best}) | {said} |")


@main.command()
@click.argument("trace", type=_TRACE)
@click.option("--rows", default=20_000, show_default=True, help="Of the trace, from its beginning.")
@click.option("--past", default=0.0, show_default=True, help="The share of requests that go past the balancer.")
@click.option("--seed", default=1, show_default=True)
def knowledge(trace: Path, rows: int, past: float, seed: int) -> None:
    """What adaptive would win if engines told it at once what it infers."""
    click.echo("| told | sustained (x the trace's speed) | good at what it sustains without |")
    click.echo("|---|---|---|")
    workload, setting = Workload(read(trace)[:rows], seed=seed), Setting(PROFILES["h100-8b"], past=past)
    for name, found, good in informed(workload, setting):
        click.echo(f"| {name} | {found.speed:.2f} | {good:.1%} |")


@main.command()
@click.argument("trace", type=_TRACE)
@click.option("--rows", default=6000, show_default=True, help="Of the trace, from its beginning.")
@click.option("--only", default="", help="What is varied has these words.")
def moves(trace: Path, rows: int, only: str) -> None:
    """Beside adaptive that moves running streams to free slots, where adaptive is at its limit."""
    click.echo("| varied | load (x) | good | moving | p99 TTFT (s) | moving | moved of 1,000 |")
    click.echo("|---|---|---|---|---|---|---|")
    for scenario, speed, stays, goes, moved in moving(read(trace)[:rows], only):
        click.echo(
            f"| {scenario.vary} | {speed:.2f} | {stays.goodput(TTFT, TPOT):.1%} | {goes.goodput(TTFT, TPOT):.1%} "
            f"| {stays.percentile(0.99):.2f} | {goes.percentile(0.99):.2f} | {1000 * moved / goes.requests:.0f} |"
        )


@main.command()
@click.argument("trace", type=_TRACE)
@click.option("--rows", default=4000, show_default=True, help="Of the trace, from its beginning.")
@click.option("--speed", "speeds", multiple=True, default=(8.0, 16.0, 20.0), show_default=True, type=float)
def spare(trace: Path, rows: int, speeds: tuple[float, ...]) -> None:
    """Beside least connections where no adapter waits for a slot."""
    click.echo("| with | load (x) | policy | good | TTFT p50, p99 (ms) | a token p50, p99 (ms) |")
    click.echo("|---|---|---|---|---|---|")
    for scenario in scenarios.spare(read(trace)[:rows]):
        for speed in speeds:
            for name in ("least connections", OURS):
                result = run(scenario.workload.at(speed), POLICIES[name], scenario.setting)
                paces = sorted(result.tpot)
                ttft = ", ".join(f"{1000 * result.percentile(share):.0f}" for share in (0.5, 0.99))
                pace = ", ".join(f"{1000 * paces[int(share * len(paces))]:.1f}" for share in (0.5, 0.99))
                good = result.goodput(TTFT, TPOT)
                click.echo(f"| {scenario.vary} | {speed:g} | {name} | {good:.1%} | {ttft} | {pace} |")


@main.command()
@click.option("--trace", type=_TRACE, help="Requests as they came (Azure or Mooncake files); else --rps.")
@click.option("--rps", type=click.FloatRange(0, 10_000, min_open=True), help="Requests a second, lengths as in chats.")
@click.option("--requests", default=3000, show_default=True, type=click.IntRange(100, 1_000_000), help="Of them.")
@click.option("--adapters", default=200, show_default=True, type=click.IntRange(0, 100_000))
@click.option("--rank", "ranks", multiple=True, default=(16,), show_default=True, type=click.IntRange(1, 512))
@click.option("--zipf", default=1.0, show_default=True, type=click.FloatRange(0, 3))
@click.option("--share", default=0.99, show_default=True, type=click.FloatRange(0, 1), help="Of good requests.")
@click.option("--profile", default="h100-8b", show_default=True, type=click.Choice(list(PROFILES)))
def plan(
    trace: Path | None, rps: float | None, requests: int, adapters: int, ranks: tuple[int, ...], zipf: float,
    share: float, profile: str,
) -> None:  # fmt: skip
    """How many workers it takes, by slots for adapters: each has a GPU of the profile."""
    if (trace is None) == (rps is None):
        raise click.UsageError("either --trace or --rps")
    rows = read(trace)[:requests] if trace is not None else []
    if rps is not None:
        rows = arrivals(read(Path(sim.__path__[0]) / "excerpts" / "azure_2023_conversation.csv"), rps, requests, seed=1)
    workload = Workload(rows, count=adapters, zipf=zipf, ranks=ranks)
    click.echo(
        f"{len(rows)} requests, {len(rows) / max(rows[-1].at, 1e-9):.1f} a second, {adapters} adapters, {profile}; "
        f"{share:.0%} within {TTFT:g} s to the first token and {1000 * TPOT:g} ms for each other\n"
    )
    click.echo(_PLAN_HEAD)
    for each in capacities(workload, Setting(PROFILES[profile]), (4, 8, 16, 32), share):
        click.echo(_plan_row(each))


def _plan_row(each: Capacity) -> str:
    memory = f"{each.gpu_bytes / 2**30:.1f} | {each.held} | {each.host_bytes / 2**30:.1f}"
    if each.result is None:
        return f"| {each.slots} | more than are tried | {memory} | | |"
    good, slowest = each.result.goodput(TTFT, TPOT), each.result.percentile(0.99)
    return f"| {each.slots} | {each.workers} | {memory} | {good:.1%} | {slowest:.2f} |"


@main.command()
@click.argument("trace", type=_TRACE)
@click.option("--requests", default=1_000_000, show_default=True)
@click.option("--workers", default=1000, show_default=True)
@click.option("--adapters", default=1000, show_default=True)
@click.option("--rate", default=5.0, show_default=True, help="Requests a second, of each worker.")
@click.option("--policy", default=OURS, show_default=True, type=click.Choice(list(POLICIES)))
def many(trace: Path, requests: int, workers: int, adapters: int, rate: float, policy: str) -> None:
    """A large cluster: the trace again and again."""
    rows, setting = read(trace), Setting(PROFILES["h100-8b"], workers=workers)
    gap = 1 / (rate * workers)
    drawn = Workload([replace(rows[n % len(rows)], at=n * gap) for n in range(requests)], count=adapters)
    began = time.perf_counter()
    result = run(drawn.at(1.0), POLICIES[policy], setting)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(
        f"{requests} requests, {workers} workers, {adapters} adapters: {time.perf_counter() - began:.0f} s, "
        f"{peak:.0f} MiB; good {result.goodput(TTFT, TPOT):.1%}, p99 TTFT {result.percentile(0.99):.2f} s"
    )


@main.command()
@click.argument("conversations", type=_TRACE)
@click.argument("code", type=_TRACE)
@click.option("--peak", default=2.0, show_default=True, help="Times the speed of both recordings, at their busiest.")
@click.option("--hours", default=24.0, show_default=True)
@click.option("--each", "targets", multiple=True, default=(30.0, 45.0, 70.0, 110.0), show_default=True, type=float,
              help="Requests that a worker is busy enough with.")  # fmt: skip
@click.option("--rule", "rules", multiple=True, default=tuple(RULES), show_default=True, type=click.Choice(list(RULES)))
@click.option("--start", default=60.0, show_default=True, help="Seconds until a worker is ready.")
def autoscale(
    conversations: Path, code: Path, peak: float, hours: float, targets: tuple[float, ...], rules: tuple[str, ...],
    start: float,
) -> None:  # fmt: skip
    """A day of both recordings on as many workers as each rule asks for."""
    chats, others = read(conversations), read(code)
    click.echo("| rule | requests a worker | good | worker-hours | most workers | changes | turns |")
    click.echo("|---|---|---|---|---|---|---|")
    for name in rules:
        for each in targets:
            cluster = DayRun(PROFILES["h100-8b"], RULES[name](each, 64), start, TTFT, TPOT)
            found = cluster.drive(day(chats, others, peak, hours))
            click.echo(
                f"| {name} | {each:g} | {found.goodput:.2%} | {found.worker_hours:.1f} | {found.most} "
                f"| {found.changes} | {found.turns} |"
            )


if __name__ == "__main__":
    main()
