"""A machine that has joined: balancer processes as on the supervisor's machine, told and heard over the uplink.

They outlive this process as they do a supervisor, and the next one adopts them. While the supervisor is away all goes
on with what was known last, which is kept in the state: also a start without it serves.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NoReturn

from cluster.balancers import set_changes
from cluster.balancers.config import is_outdated, share_for_bodies
from cluster.balancers.drain import GRACE_S, drain, end_adopted
from cluster.balancers.feed import Feed
from cluster.balancers.group import BalancerGroup
from cluster.deployment import extras
from cluster.joining.control import RemoteControl
from cluster.joining.machine_reports import MachineReports
from cluster.joining.options import JoinOptions
from cluster.joining.roster import JoinToken
from cluster.joining.uplink import JoinAddress, Uplink
from cluster.storage.store import NotSaved, Store
from config.aio import Tasks
from config.disk.files import replacing
from config.disk.strategy_file import StrategyWriter
from config.errors import UsageError
from config.link import Phase
from config.topology import BalancerConfig
from config.values.addresses import is_loopback
from worker.drivers.local import LocalDriver
from worker.logfile import rotate_all

log = logging.getLogger(__name__)

#: Seconds between two looks whether what is known has to be kept.
_KEEP_EVERY_S = 2.0

#: By which name its log goes where it has no terminal.
LOG = "joined"

#: By which name it is kept who this machine is, and what it was told.
MEMBER, TOLD = "member", "told"

#: What of a supervisor's word are its settings, see `cluster.joining.protocol`.
_TERMS = ("config", "drain_timeout", "standby")

#: How long (s) requests may finish under a supervisor that does not say it.
_DRAIN_S = 30.0


class JoinAgent:
    """``member`` and ``told``: what was kept, if anything. What the supervisor says comes in here."""

    def __init__(
        self, options: JoinOptions, store: Store, member: Mapping[str, Any] | None, told: Mapping[str, Any] | None
    ) -> None:
        self._options, self._store, self._state = options, store, options.state
        self._member = _member(options, member)
        self._told: dict[str, Any] = dict(told or {})
        self._kept = self._worth_keeping()
        self._group: BalancerGroup | None = None
        self._switch = StrategyWriter(self._state.strategy)
        self._tasks = Tasks()
        self._ready, self._ending, self._hurry = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._uplink = Uplink(
            JoinAddress(*options.supervisor, self._member["fingerprint"]), self._hello, self._hear, self._parted,
            known="name" in self._member,
        )
        self._control, self._reports = RemoteControl(self._uplink, self), MachineReports(self._uplink.say)

    async def run(self) -> None:
        """Until it is asked to end."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self.shut_down, False)
        await self._control.start(self._state.control)
        work = [
            self._tasks.start(self._ending.wait(), "wait for the end"),
            self._tasks.start(self._talk(), "talk to the supervisor"),
            self._tasks.start(self._serve(), "balancers"),
        ]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            if self._group is not None and self._ending.is_set():
                await drain(self._group, self._group.drain_timeout, self._hurry)
            elif refusals := [refusal for task in done if isinstance(refusal := task.result(), UsageError)]:
                raise refusals[0]
        finally:
            await self._uplink.close()
            await self._control.close()
            await self._tasks.close()
            if self._group is not None:
                await self._group.stop(GRACE_S)
            elif self._ending.is_set() or self._hurry.is_set():  # it had not taken over yet what was left
                timeout = drain_timeout(self._told)
                await end_adopted(self._state, self._store, self._reports, emit, timeout, self._hurry)
            self._state.control.unlink(missing_ok=True)

    # what is asked of this machine

    def shut_down(self, now: bool) -> None:
        """Lets requests finish; not with ``now``, nor when it is asked again."""
        if now or self._ending.is_set():
            self._hurry.set()
        self._ending.set()

    def snapshot(self) -> dict[str, Any]:
        """As far as a supervisor's has it: of balancers, and of no workers."""
        group = self._group
        return {
            "instances": {}, "connected": self._uplink.connected, "name": self._member.get("name"),
            "load_balancer": {"restarts": 0, "standby": None} if group is None else group.describe(),
            "serving": [] if group is None else [
                slot.current.pid for slot in group.slots
                if slot.current is not None and slot.current.phase is Phase.SERVING
            ],
        }  # fmt: skip

    # inside

    async def _talk(self) -> UsageError:
        """Until this machine is not let in any more. It forgets who it was, and may join with another token."""
        try:
            await self._uplink.run()
        except UsageError as error:
            self._hurry.set()
            if "name" in self._member:
                await self._store.put(**{MEMBER: None, TOLD: None})
            return error

    # balancers

    async def _serve(self) -> UsageError:
        """Begins as soon as it is known what they are to do. Returns why they cannot."""
        if not {"config", "set", "snapshot"} <= self._told.keys():
            await self._ready.wait()
        try:
            return await self._keep_serving()
        except UsageError as error:
            return error

    async def _keep_serving(self) -> NoReturn:
        """Raises UsageError."""
        self._check_exposure()
        config = self._config()
        extras.check(config.otlp_endpoint, config.limits_store, self._options.grpc_port)
        group = BalancerGroup(
            self._state, config, self._store, self._reports, emit, Feed(),
            drain_timeout=drain_timeout(self._told), standby=self._told.get("standby", False),
        )  # fmt: skip
        self._publish(group)
        self._reports.reporters = lambda: group.reporters
        group.feed.pass_on = self._uplink.say
        await group.adopt()
        self._check_port(group)
        moved = group.starter.listeners.make(self._options.host, self._options.port, self._options.grpc_port)
        outdated = any(is_outdated(process, config) for process in group.processes)
        group.start()
        if moved or outdated or group.unfinished:
            group.request_replacement()
        self._group = group
        if not self._uplink.connected:
            self._parted()
        logs = [self._state.log(name) for name in (*group.logs, "access", LOG)]
        while True:
            await self._keep()
            await asyncio.to_thread(rotate_all, logs)
            await asyncio.sleep(_KEEP_EVERY_S)

    def _publish(self, group: BalancerGroup) -> None:
        """What was told so far."""
        self._switch_strategy(self._told["set"])
        group.feed.publish(self._told["set"], self._told["snapshot"], self._told.get("keys"))

    def _config(self) -> BalancerConfig:
        """The cluster's, but for what is this machine's own."""
        known = {field.name for field in fields(BalancerConfig)}
        told = {name: value for name, value in self._told["config"].items() if name in known}
        options = self._options
        return replace(
            BalancerConfig.from_json(told), listen_fd=-1, grpc_fd=None if options.grpc_port is None else -1,
            state_dir=str(self._state.root), host=options.host, port=options.port, processes=options.processes,
            tls=options.tls, max_buffered=share_for_bodies(), insecure=options.insecure,
        )  # fmt: skip

    def _check_exposure(self) -> None:
        """Raises UsageError for balancers that would be open to whoever reaches this machine, as
        `cluster.deployment.exposure` does for a cluster."""

        guarded = self._told["config"].get("admin_key") or (self._told.get("keys") or {}).get("keyed")
        certified = self._options.tls is not None and self._options.tls.client_ca
        if not (guarded or certified or self._options.insecure or is_loopback(self._options.host)):
            raise UsageError(
                f"on {self._options.host} everybody who reaches this machine could use the cluster: give it an admin "
                "key or API keys (`clusterctl key create`), demand certificates with --tls-client-ca, or say --insecure"
            )

    def _check_port(self, group: BalancerGroup) -> None:
        """Raises UsageError where those that serve on listen elsewhere than this start says."""
        http = group.starter.listeners.http
        if http is not None and (port := http.getsockname()[1]) != self._options.port:
            raise UsageError(
                f"balancers on {self._state.root} listen on port {port}: name that, or end them first with "
                "`clusterctl balancer down`, or name another directory with --state-dir"
            )

    async def _keep(self) -> None:
        """What was told, for a start without the supervisor."""
        now = self._worth_keeping()
        if now == self._kept:
            return
        try:
            await self._store.put(**{TOLD: self._told})
            self._kept = now
        except NotSaved as error:
            log.warning("what the supervisor says is not kept: %s", error)

    def _worth_keeping(self) -> str:
        """What a start cannot do without: the snapshot, which is another every second, comes along with it."""
        return json.dumps({name: value for name, value in self._told.items() if name != "snapshot"})

    # what the supervisor says

    def _hello(self) -> Mapping[str, Any]:
        member = self._member
        if "name" in member:
            said = {"type": "member", "name": member["name"]}
        else:
            said = {"type": "join", "name": self._options.name, "token": member["token"]}
        return {**said, "secret": member["secret"], "boot": LocalDriver().boot(), "changes": True}

    def _hear(self, message: Mapping[str, Any]) -> None:
        """Raises ValueError for what does not follow from what was said before: it connects again then."""
        if message["type"] == "change":
            message = {"type": "set", "set": set_changes.changed(self._told.get("set"), message)}
        kind, group = message["type"], self._group
        if kind == "welcome":
            self._welcome(message)
        elif kind == "config":
            self._reconfigure(message)
        elif kind == "answer":
            self._control.answered(message)
        elif kind in ("set", "snapshot"):
            self._told[kind] = message[kind]
            if kind == "set":
                self._reports.version = message["set"]["epoch"], message["set"]["revision"]
                self._switch_strategy(message["set"])
            if group is not None:
                group.feed.publish(**{"backends" if kind == "set" else kind: message[kind]})
        elif kind == "keys":
            self._told["keys"] = dict(message)
            if group is not None:
                group.feed.publish(keys=dict(message))
        elif group is not None:
            group.feed.tell(message)  # events, loads, attempts
        if group is None and {"config", "set", "snapshot"} <= self._told.keys():
            self._ready.set()

    def _welcome(self, message: Mapping[str, Any]) -> None:
        if message.get("admin_token"):
            with replacing(self._state.admin_token) as file:  # whoever signs as the cluster does signs the same
                file.write(f"{message['admin_token']}\n".encode())
        if "secret" in message:
            fingerprint = self._member["fingerprint"]
            self._member = {"name": message["name"], "secret": message["secret"], "fingerprint": fingerprint}
            self._tasks.start(self._store.put(**{MEMBER: self._member}), "keep who this machine is")
        log.info("joined the cluster as %s", message["name"])
        self._reconfigure(message)
        self._tell_presence(True)

    def _reconfigure(self, message: Mapping[str, Any]) -> None:
        """The cluster's settings may have changed."""
        before = self._told.get("config")
        self._told |= {name: message[name] for name in _TERMS if name in message}
        if self._group is None or self._ending.is_set():
            return
        self._group.drain_timeout = drain_timeout(self._told)
        self._group.starter.keeps_standby = self._told.get("standby", False)
        self._group.starter.look()
        if before is not None and self._config() != self._group.config:
            self._group.request_replacement(self._config())

    def _switch_strategy(self, backends: Mapping[str, Any]) -> None:
        self._switch.write((backends["epoch"], backends["revision"]), backends["strategy"])

    def _parted(self) -> None:
        self._control.parted()
        self._tell_presence(False)

    def _tell_presence(self, there: bool) -> None:
        if self._group is not None:
            self._group.feed.presence(there)


def drain_timeout(told: Mapping[str, Any] | None) -> float:
    """How long (s) requests may finish, as far as it was ``told``."""
    return float((told or {}).get("drain_timeout", _DRAIN_S))


def _member(options: JoinOptions, kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """Who this machine is, or what lets it in. A token that is given is used where it is not a member yet. Raises
    UsageError."""
    if kept is not None:
        return dict(kept)
    if options.token is None:
        raise UsageError("a token is needed to join: `clusterctl balancer token` on the cluster makes one")
    try:
        token = JoinToken.parse(options.token)
    except ValueError as error:
        raise UsageError(f"--token: {error}", exit_code=2) from None
    return {"token": token.id, "secret": token.secret, "fingerprint": token.fingerprint}


def emit(subject: str, text: str, kind: str = "note", data: Mapping[str, Any] | None = None) -> None:
    log.info("%s: %s", subject, text, extra={"event": kind, "data": {"subject": subject, **(data or {})}})
