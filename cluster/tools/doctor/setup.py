"""Judges settings, port and state directory, and says what `up` would do. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.deployment.plan import Plan
from cluster.tools.doctor.facts import CertificateFacts, MachineFacts, Port, State
from cluster.tools.doctor.finding import Finding, gib, listed, ok, problem, warning
from config.settings import Settings
from config.values.addresses import is_loopback
from worker.demo import MODEL_NAME
from worker.engines import flags
from worker.spec import Slot

#: What is good for no longer should have been renewed.
_RENEW_DAYS = 14


def findings(facts: MachineFacts) -> Iterator[Finding]:
    yield settings(facts)
    if facts.settings is not None:
        if facts.settings.profile is not None:
            names = facts.settings.served_names or (MODEL_NAME,)
            yield ok("profile", f"{facts.settings.profile} of the model {names[0]} fits this machine, or was asked for",
                     f"clusterctl model profiles {names[0]} says why")  # fmt: skip
        yield from exposure(facts.settings, facts.knows_peers)
    if facts.certificate is not None:
        yield certificate(facts.certificate, facts.clock.now)
    if facts.port is not None:
        yield port(facts, facts.port)
    if facts.state is not None:
        yield from state(facts.state)
    yield from leftovers(facts)
    yield up(facts)


def settings(facts: MachineFacts) -> Finding:
    if facts.config_error is not None:
        return problem("settings", facts.config_error, "clusterctl config show lists all settings and their meaning")
    source = f"{facts.config_file}, environment and flags" if facts.config_file else "environment and flags"
    return ok("settings", f"valid ({source})")


def exposure(found: Settings, knows_peers: bool) -> Iterator[Finding]:
    """Who can manage the cluster, and from where."""
    if found.admin_key is not None:
        yield ok("access", "CLUSTERCTL_ADMIN_KEY is needed to manage the cluster")
        return
    remedy = "set CLUSTERCTL_ADMIN_KEY; without an API key the models are open to who reaches the port (docs/gate.md)"
    if not is_loopback(found.host):
        starts = "" if found.insecure else ", and `up` refuses to start without any API key or --insecure"
        yield warning("access", f"{found.host} is reached from other machines, and no admin key is set: from there "
                                f"only admin.token of the state directory manages it{starts}", remedy)  # fmt: skip
    elif named := [name for name in ("trusted_proxies", "allowed_hosts") if getattr(found, name)]:
        yield warning("access", f"{' and '.join(named)} tell of a proxy in front, and no admin key is set: what comes "
                                "through one that leaves no trace, and runs as root or as you, passes for yours",
                      remedy)  # fmt: skip
    elif not knows_peers:
        yield warning("access", "the system does not say whose a connection is: nobody manages the cluster without a "
                                "token", "the command line reads admin.token of the state directory by itself; for "
                      "others send it as Authorization: Bearer, or set CLUSTERCTL_ADMIN_KEY")  # fmt: skip
    else:
        yield ok("access", "on this machine alone; the user who runs it, and root, manage it without a key")


def certificate(found: CertificateFacts, now: float) -> Finding:
    if found.error is not None:
        return problem("tls", found.error, "until it is right, a cluster that runs serves what was good last")
    days = (found.expires - now) / 86400
    if days <= 0:
        return problem("tls", "the certificate has expired: no client trusts it", "put another one into its files")
    text = f"the certificate is for {listed(list(found.names))}, and good for {days:.0f} days"
    remedy = "put another one into its files: a cluster that runs takes it by itself"
    return ok("tls", text) if days > _RENEW_DAYS else warning("tls", text, remedy)


def port(facts: MachineFacts, found: Port) -> Finding:
    place = f"{found.host}:{found.number}"
    if found.error is None:
        return ok("port", f"{place} is free")
    ours = {pid for pids in facts.state.survivors.values() for pid in pids} if facts.state else set()
    # A balancer that is just being started holds the socket too, and is in no record yet.
    supervisor = facts.state.supervisor if facts.state else None
    if any(pid in ours for pid, _ in found.owners) or supervisor in found.parents:
        return ok("port", f"{place} is served by the cluster of the state directory")
    who = listed([f"pid {pid} ({name})" for pid, name in found.owners]) if found.owners else ""
    text = f"{place}: {found.error}{f' by {who}' if who else ''}"
    if "in use" not in found.error:
        return problem("port", text, "--host with an address of this machine, --port from 1024 on unless as root")
    free = found.number + 1 if found.number < 65535 else 8000
    hint = f"ss -ltnp 'sport = :{found.number}' shows who; " if not found.owners else ""
    return problem("port", text, f"{hint}end it (clusterctl down, if it is a cluster), or another --port {free}")


def state(found: State) -> Iterator[Finding]:
    if found.supervisor is not None:
        yield ok("state", f"{found.folder}: a cluster runs on it (supervisor {found.supervisor}); a second is refused")
        return
    if found.error is not None:
        yield problem("state", found.error, "another --state-dir, or move that one away")
        return
    if found.version is None:
        yield ok("state", f"{found.folder}: none yet, a new cluster")
    elif found.version < found.current:
        yield ok("state", f"{found.folder}: readable, version {found.version}; the next start makes it "
                          f"{found.current} and keeps a copy")  # fmt: skip
    else:
        yield ok("state", f"{found.folder}: readable, version {found.version}; up goes on from there")
    if found.survivors:
        yield warning(
            "leftovers", f"{_processes(found)} of a cluster without supervisor run on it",
            f"clusterctl up takes them over; clusterctl down --state-dir {found.folder} ends them",
        )  # fmt: skip


def leftovers(facts: MachineFacts) -> Iterator[Finding]:
    """What other clusters left behind, and what belongs to none."""
    recorded = {pid for s in (*facts.others, *([facts.state] if facts.state else [])) for pids in s.survivors.values()
                for pid in pids}  # fmt: skip
    lost = [s for s in facts.others if s.supervisor is None and s.survivors]
    for found in lost:
        yield warning("leftovers", f"{_processes(found)} of a cluster without supervisor run on {found.folder}",
                      f"clusterctl down --state-dir {found.folder}")  # fmt: skip
    if orphans := [(pid, name) for pid, name in facts.orphans if pid not in recorded]:
        names = listed([f"{name} ({pid})" for pid, name in orphans])
        yield warning("leftovers", f"{names} outlived the worker that started them and hold its memory",
                      f"kill -9 {' '.join(str(pid) for pid, _ in orphans)}")  # fmt: skip
    elif not lost and not (facts.state and facts.state.survivors and facts.state.supervisor is None):
        yield ok("leftovers", "no workers of a former cluster")


def _processes(found: State) -> str:
    count = sum(map(len, found.survivors.values()))
    return f"{listed(sorted(found.survivors))} ({count} process{'es' * (count != 1)})"


def up(facts: MachineFacts) -> Finding:
    if facts.plan is not None:
        return ok("up", "\n".join(explain(facts.plan, facts)))
    if facts.plan_error is not None:
        return problem("up", f"would start nothing: {facts.plan_error}", "change what it names, then doctor again")
    return problem("up", "would start nothing: the settings are wrong", "see settings, above")


def explain(plan: Plan, facts: MachineFacts) -> list[str]:
    """What `up` would do, and why, line by line."""
    s, spec = plan.settings, plan.spec
    plural = "s" * (s.instances != 1)
    model = f"{spec.served_names[0]} from {spec.model}" if spec.served_names[0] != spec.model else spec.model
    why = "" if s.model or s.lora_config else ", as no --model is given"
    spares = f" and {s.spares} spare{'s' * (s.spares != 1)}" if s.spares and s.instances else ""
    out = [f"start {s.instances} worker{plural}{spares} of {spec.engine} with {model}{why}"]
    if spec.adapters:
        at_once = f"{spec.max_loras} in use at a time on a worker, of rank {spec.max_lora_rank} or less"
        out.append(f"load adapters {listed(sorted(spec.adapters))}; up to {at_once}")
    elif plan.no_lora:
        out.append(f"load no adapter: {plan.no_lora}")
    else:
        out.append(f"load no adapter; room for {spec.max_loras} of rank {spec.max_lora_rank} or less on a worker")
    if spec.dtype:
        out.append(f"serve it in {spec.dtype}, as the demo model needs it on some processors")
    out += _places(plan, facts)
    if facts.plain_starts:
        out.append(f"start each worker by an interpreter of its own: {facts.plain_starts}")
    else:
        out.append("fork workers from a process that has imported the engine once (--zygote off starts them plainly)")
    standby = " and one that waits" if s.lb_standby else ""
    ours = "process" if s.lb_processes == 1 else "processes"
    out.append(f"listen on {s.host}:{s.port} with {s.lb_processes} balancer {ours}{standby}, strategy {s.strategy}")
    out.append("give workers free ports of 127.0.0.1 from 20000 on, below those for outgoing connections")
    out.append(f"scale between {plan.least} and {plan.most} workers: {_most(plan)}")
    if s.backend:
        out.append(f"balance {listed(list(s.backend))} as well")
    if s.backend_discovery:
        out.append(f"balance the servers that {listed(list(s.backend_discovery))} lists as well")
    out.append(f"keep state and logs in {s.state_directory()}")
    return out


def _places(plan: Plan, facts: MachineFacts) -> Iterator[str]:
    placement = plan.placement
    number = placement.planned + placement.spares
    shown = min(number, 8)
    if placement.on_gpu:
        slots = listed([_gpus(placement.slot(n)) for n in range(shown)]) if shown else "none"
        usable = len(placement.machine.gpus)
        yield f"pin them to {slots}{' …' if number > shown else ''}, as there are {usable} usable GPUs"
        why = f"as {placement.per_gpu} share one" if placement.per_gpu > 1 else "vLLM's own default"
        if plan.settings.max_gpu_memory is not None:
            why = f"of the {plan.settings.max_gpu_memory:.0%} that max_gpu_memory allows"
        if flags.has(plan.spec.extra_args, "--gpu-memory-utilization"):
            why = "as --gpu-memory-utilization says"
        yield f"let each take {facts.memory_share:.0%} of its GPU's memory, {why}"
        return
    if not plan.engine.computes:
        yield "use no GPU: the simulated engine has no model"
        return
    reason = "there is none" if not facts.gpus.gpus else "vLLM's CPU build is installed, or none is visible"
    cores = [placement.slot(n).cores for n in range(shown)]
    if all(cores):
        bound = listed(["+".join(_range(rank) for rank in ranks) for ranks in cores])
        yield f"use no GPU ({reason}) and bind them to cores {bound}{' …' if number > shown else ''}"
    else:
        cores_there = len(placement.machine.cores)
        yield f"use no GPU ({reason}), one thread each: {cores_there} cores are too few to bind {number} workers to"
    cache = f", {plan.spec.cpu_kv_gib:g} GiB of it KV cache" if plan.spec.engine == "vllm" else ""
    yield f"take about {gib(placement.memory_each)} of memory each{cache}"


def _gpus(slot: Slot) -> str:
    return f"GPU {'+'.join(map(str, slot.gpus))}"


def _range(cores: tuple[int, ...]) -> str:
    whole = len(cores) > 2 and cores[-1] - cores[0] == len(cores) - 1
    return f"{cores[0]}-{cores[-1]}" if whole else ",".join(map(str, cores))


def _most(plan: Plan) -> str:
    placement = plan.placement
    if plan.settings.max_instances is not None:
        return "--max-instances says so"
    if plan.most > placement.capacity:
        return f"--instances asks for more than the {placement.capacity} that are taken to fit"
    if placement.on_gpu:
        return f"{len(placement.machine.gpus)} GPUs, {placement.ranks} a worker, {placement.per_gpu} workers on one"
    if placement.memory_each:
        return f"90 % of {gib(placement.machine.memory)}, {gib(placement.memory_each)} each, and never more than 16"
    return "never more than 16 without GPUs"
