"""What each method of the clients asks. No I/O. Longer than a file should be: it is a table, a method a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cluster.client import results as r
from cluster.client import workflows
from cluster.client.core import SLOW, Call, as_list, as_object, as_part
from cluster.client.method import method
from cluster.client.workflows import Workflow

_ANY: type[dict[str, Any]] = dict


def _named(kind: str, name: str, rest: str = "") -> str:
    """The path of one resource of a ``kind``."""
    return f"/v1/{kind}/{quote(name, safe='')}{rest}"


def _instance(name: str, rest: str = "") -> str:
    return _named("cluster/instances", name, rest)


def _of(model: str | None) -> dict[str, str]:
    return {} if model is None else {"model": model}


class LookingCalls:
    """What there is, and what has happened."""

    @method
    def status(self) -> Call[r.Status]:
        return workflows.STATUS

    @method
    def snapshot(self) -> Call[dict[str, Any]]:
        """The supervisor's own view; only with ``state_dir``."""
        return Call("GET", "/v1/cluster/snapshot", as_object(_ANY))

    @method
    def openapi(self) -> Call[dict[str, Any]]:
        """The API's description, OpenAPI 3.1."""
        return Call("GET", "/v1/cluster/openapi.json", as_object(_ANY))

    @method
    def history(self, seconds: int = 3600) -> Call[dict[str, Any]]:
        """Traffic and latency of the last ``seconds``."""
        return Call("GET", "/v1/cluster/history", as_object(_ANY), params={"seconds": seconds})

    @method
    def why(self, request_id: str | None = None, limit: int = 20) -> Call[list[dict[str, Any]]]:
        """How the latest ``limit`` requests were routed, or those with that ``X-Request-Id``; the newest first.
        ClusterError 404: no balancer knows it, or not any more."""
        one = {} if request_id is None else {"request_id": request_id}
        return Call("GET", "/v1/cluster/why", as_list(_ANY, "decisions"), params={"limit": limit, **one})

    @method
    def audit(self, limit: int = 100, before: int | None = None, verify: bool = False) -> Call[r.Audit]:
        """The newest ``limit`` rows (with ids below ``before``) of who changed what and who was refused; with
        ``verify`` also ``broken_at``, the first row at which the chain of seals does not hold, or None."""
        more: dict[str, Any] = {"before": before} if before is not None else {}
        more |= {"verify": 1} if verify else {}
        return Call("GET", "/v1/cluster/audit", as_object(r.Audit), params={"limit": limit, **more})

    @method
    def usage(
        self, by: Sequence[str] = ("key", "model"), begin: str | None = None, end: str | None = None
    ) -> Call[r.Usage]:
        """What was taken with API keys, by some of ``key``, ``model``, ``day``, on the days (UTC, ISO 8601) from
        ``begin`` (None: 30 days before the last) to ``end`` (None: today), both included."""
        days = {name: day for name, day in (("from", begin), ("to", end)) if day is not None}
        return Call("GET", "/v1/cluster/usage", as_object(r.Usage), params={"by": ",".join(by), **days})

    @method
    def system_health(self) -> Call[r.SystemHealth]:
        return Call("GET", "/v1/system/health", as_object(r.SystemHealth))

    @method
    def system_metrics(self) -> Call[r.SystemMetrics]:
        return Call("GET", "/v1/system/metrics", as_object(r.SystemMetrics))

    @method
    def models(self) -> Call[list[r.Model]]:
        """What a request's ``model`` can be; adapters have a ``parent``."""
        return Call("GET", "/v1/models", as_list(r.Model, "data"))

    @method
    def model(self, name: str) -> Call[r.Model]:
        """One of `models`."""
        return Call("GET", _named("models", name), as_object(r.Model))

    @method
    def events(self, limit: int = 100, since: int | None = None) -> Call[list[r.Event]]:
        """The last ``limit`` events, or the first ``limit`` after the one with the id ``since``; the oldest first."""
        after = {} if since is None else {"since": since}
        return Call("GET", "/v1/cluster/events", as_list(r.Event, "events"), params={"limit": limit, **after})

    @method
    def healthy(self) -> Workflow[bool]:
        """Whether at least one worker is ready."""
        return workflows.healthy()


class ChangingCalls:
    """What is wanted of the cluster and its workers."""

    @method
    def scale(self, instances: int, model: str | None = None) -> Call[r.Scaled]:
        """Wants ``instances`` workers, of that ``model`` where there are several."""
        return Call("POST", "/v1/cluster/scale", as_object(r.Scaled), {"instances": instances, **_of(model)})

    @method
    def scale_by(self, change: int, model: str | None = None) -> Call[r.Scaled]:
        """Wants ``change`` workers more (or, negative, fewer) than now."""
        body = {"action": "scale_up" if change > 0 else "scale_down", "count": abs(change), **_of(model)}
        return Call("POST", "/v1/cluster/scale", as_object(r.Scaled), body)

    @method
    def strategy(self, name: str, model: str | None = None) -> Call[r.StrategySet]:
        """Of the whole cluster, or of the workers of one ``model``."""
        return Call("POST", "/v1/cluster/strategy", as_object(r.StrategySet), {"strategy": name, **_of(model)})

    @method
    def restart(self, instance: str) -> Call[r.Restarting]:
        """``instance``: a worker, or ``load_balancer`` for the balancer, which is replaced."""
        return Call("POST", "/v1/cluster/restart", as_object(r.Restarting), {"instance_id": instance})

    @method
    def restart_rolling(self, spare: bool | None = None, model: str | None = None) -> Call[r.Restarting]:
        """``spare``: whether a spare worker is started first; None leaves it to the cluster's settings. Of which
        ``model``, where there are several."""
        body = {"rolling": True, **({} if spare is None else {"spare": spare}), **_of(model)}
        return Call("POST", "/v1/cluster/restart", as_object(r.Restarting), body)

    @method
    def drain(self, instance: str, grace: float | None = None) -> Call[r.Drained]:
        """Takes it out of rotation until `undrain`; what runs there may finish for ``grace`` s (None: the cluster's
        drain timeout), the rest goes on elsewhere."""
        body = {} if grace is None else {"grace": grace}
        return Call("POST", _instance(instance, "/drain"), as_object(r.Drained), body)

    @method
    def undrain(self, instance: str) -> Call[r.Drained]:
        return Call("DELETE", _instance(instance, "/drain"), as_object(r.Drained))

    @method
    def weight(self, instance: str, weight: int) -> Call[r.Weighted]:
        return Call("PATCH", _instance(instance), as_object(r.Weighted), {"weight": weight})

    @method
    def apply(
        self, settings: Mapping[str, Any] | None = None, *, defaults: Sequence[str] = (), previous: bool = False,
        dry_run: bool = False, spare: bool | None = None,
    ) -> Call[r.Applied]:
        """Changes ``settings`` of the running cluster (as in a settings file; paths absolute), and puts those named
        in ``defaults`` back to what they are if nobody gives them; or, ``previous``, takes back the last apply."""
        body: dict[str, Any] = {"settings": dict(settings or {}), "defaults": list(defaults)}
        body |= {"previous": previous, "dry_run": dry_run}
        if spare is not None:
            body["spare"] = spare
        return Call("POST", "/v1/cluster/apply", as_object(r.Applied), body)

    @method
    def shutdown(self, now: bool = False) -> Call[r.ShuttingDown]:
        """Drains, then stops everything; ``now`` does not wait for running requests."""
        return Call("POST", "/v1/cluster/shutdown", as_object(r.ShuttingDown), {"now": now})

    @method
    def ui_link(self) -> Call[r.UiLink]:
        """A code for the page, good once."""
        return Call("POST", "/v1/cluster/ui/link", as_object(r.UiLink), {})


class AdapterCalls:
    """Adapters, and their versions."""

    @method
    def adapters(self) -> Call[list[r.Adapter]]:
        """Every adapter of the registry."""
        return Call("GET", "/v1/lora_adapters", as_list(r.Adapter, "adapters"))

    @method
    def placement(self) -> Call[dict[str, Any]]:
        """Adapters x workers: where each belongs, and where it is taken to be, by the balancer that is asked."""
        return Call("GET", "/v1/cluster/placement", as_object(_ANY))

    @method
    def adapter(self, name: str) -> Call[r.AdapterDetail]:
        """One adapter, with its versions."""
        return Call("GET", _named("lora_adapters", name), as_object(r.AdapterDetail))

    @method
    def load_adapter(
        self, name: str, path: Path | str, *, replace: bool = False, description: str | None = None,
        allow_no_effect: bool = False, model: str | None = None,
    ) -> Call[r.AdapterChanged]:
        """Returns once it is on every ready worker of its ``model`` (needed where there are several). ``replace`` makes
        new content of a known name its next version. A ``path`` is the cluster's own: absolute. ``allow_no_effect``: it
        may answer as the base model does."""
        body: dict[str, Any] = {"lora_name": name, "lora_path": str(path), **_of(model)}
        if replace:
            body["load_inplace"] = True
        if description is not None:
            body["description"] = description
        if allow_no_effect:
            body["allow_no_effect"] = True
        return Call("POST", "/v1/load_lora_adapter", as_object(r.AdapterChanged), body, timeout=SLOW)

    @method
    def unload_adapter(self, name: str) -> Call[r.AdapterUnloaded]:
        return Call("POST", "/v1/unload_lora_adapter", as_object(r.AdapterUnloaded), {"lora_name": name}, timeout=SLOW)

    @method
    def rollback_adapter(self, name: str, version: int | None = None) -> Call[r.AdapterChanged]:
        """Makes ``version`` (default: the one before) the active one again."""
        body = {} if version is None else {"version": version}
        return Call("POST", _named("lora_adapters", name, "/rollback"), as_object(r.AdapterChanged), body, timeout=SLOW)


class ModelCalls:
    """The models of a cluster that has several."""

    @method
    def cluster_models(self) -> Call[list[r.ClusterModel]]:
        """Every one, also those that are not up; none in a cluster with one model."""
        return Call("GET", "/v1/cluster/models", as_list(r.ClusterModel, "models"))

    @method
    def load_model(self, /, name: str, path: Path | str, **fields: Any) -> Call[r.ModelChanged]:
        """It can be asked for from then on, and is brought up where there is room. A ``path`` is the cluster's own:
        absolute, or a hub id. ``fields``: ``engine``, ``instances``, ``min``, ``max``, ``gpus``, ``args``,
        ``adapters``, ``idle_timeout``, ``pinned``, ``priority`` and the others that `models:` of the configuration
        knows."""
        body = {"model_name": name, "model_path": str(path), **fields}
        return Call("POST", "/v1/models/load", as_object(r.ModelChanged), body, timeout=SLOW)

    @method
    def unload_model(self, name: str) -> Call[r.ModelUnloaded]:
        """It and its adapters are known no more; what runs there may finish."""
        return Call("DELETE", _named("models", name), as_object(r.ModelUnloaded))

    @method
    def pin_model(self, name: str) -> Call[r.ModelChanged]:
        """It stays up, whoever needs room."""
        return Call("POST", _named("models", name, "/pin"), as_object(r.ModelChanged), {})

    @method
    def unpin_model(self, name: str) -> Call[r.ModelChanged]:
        return Call("POST", _named("models", name, "/unpin"), as_object(r.ModelChanged), {})

    @method
    def sleep_model(self, name: str) -> Call[r.ModelChanged]:
        """It goes to sleep or, where its engine cannot, down, until it is asked for."""
        return Call("POST", _named("models", name, "/sleep"), as_object(r.ModelChanged), {})

    @method
    def wake_model(self, name: str) -> Call[r.ModelChanged]:
        """It is brought up where there is room."""
        return Call("POST", _named("models", name, "/wake"), as_object(r.ModelChanged), {})


class NameCalls:
    """Routes and aliases."""

    @method
    def routes(self) -> Call[dict[str, r.Route]]:
        """By name."""
        return Call("GET", "/v1/cluster/routes", as_part(r.Route, "routes"))

    @method
    def set_route(self, name: str, rules: Sequence[Mapping[str, Any]], default: str) -> Call[r.NameChanged]:
        """The first of ``rules`` (``model``, and ``keywords`` or a ``pattern``) that fits the last user message
        decides, ``default`` where none does."""
        body = {"rules": [dict(rule) for rule in rules], "default": default}
        return Call("PUT", _named("cluster/routes", name), as_object(r.NameChanged), body)

    @method
    def delete_route(self, name: str) -> Call[r.NameChanged]:
        return Call("DELETE", _named("cluster/routes", name), as_object(r.NameChanged))

    @method
    def undo_route(self, name: str) -> Call[r.NameChanged]:
        """Puts back what was before its last change."""
        return Call("POST", _named("cluster/routes", name, "/undo"), as_object(r.NameChanged), {})

    @method
    def test_route(self, name: str, text: str) -> Call[r.RouteChoice]:
        """What it would choose for that last user message; no model is asked."""
        return Call("POST", _named("cluster/routes", name, "/test"), as_object(r.RouteChoice), {"text": text})

    @method
    def aliases(self) -> Call[dict[str, r.Alias]]:
        """By name."""
        return Call("GET", "/v1/cluster/aliases", as_part(r.Alias, "aliases"))

    @method
    def set_alias(self, name: str, sides: Mapping[str, float], *, shadow: bool = False) -> Call[r.NameChanged]:
        """``sides``: weights by model; ``NAME@N`` is a version of an adapter. ``shadow``: the other of two gets a copy
        of each request."""
        body = {"sides": dict(sides), "shadow": shadow}
        return Call("PUT", _named("cluster/aliases", name), as_object(r.NameChanged), body)

    @method
    def delete_alias(self, name: str) -> Call[r.NameChanged]:
        return Call("DELETE", _named("cluster/aliases", name), as_object(r.NameChanged))

    @method
    def undo_alias(self, name: str) -> Call[r.NameChanged]:
        """Puts back what it stood for before its last change."""
        return Call("POST", _named("cluster/aliases", name, "/undo"), as_object(r.NameChanged), {})


class KeyCalls:
    """API keys."""

    @method
    def keys(self) -> Call[list[r.Key]]:
        """Every API key, without its secret."""
        return Call("GET", "/v1/cluster/keys", as_list(r.Key, "keys"))

    @method
    def key(self, name: str) -> Call[r.Key]:
        return Call("GET", _named("cluster/keys", name), as_object(r.Key))

    @method
    def create_key(self, /, name: str, **fields: Any) -> Call[r.KeyWithSecret]:
        """``fields``: ``scope``, ``models``, ``rpm``, ``tpm``, ``max_concurrent``, ``priority``, ``weight``,
        ``expires`` (seconds since 1970, or from now: ``30d``), ``budget`` (tokens: ``1000000/day``). Its secret is in
        this answer only."""
        return Call("POST", "/v1/cluster/keys", as_object(r.KeyWithSecret), {"name": name, **fields})

    @method
    def update_key(self, /, name: str, **fields: Any) -> Call[r.Key]:
        """``fields`` as of `create_key`; None takes a limit away, what is not named stays."""
        return Call("PATCH", _named("cluster/keys", name), as_object(r.Key), fields)

    @method
    def rotate_key(self, name: str, grace: float | str | None = None) -> Call[r.KeyWithSecret]:
        """A new secret; those before hold for ``grace`` (seconds, or such as ``24h``; None: a day) more."""
        body = {} if grace is None else {"grace": grace}
        return Call("POST", _named("cluster/keys", name, "/rotate"), as_object(r.KeyWithSecret), body)

    @method
    def revoke_key(self, name: str) -> Call[r.KeyRevoked]:
        """It lets nobody in any more once this returns."""
        return Call("DELETE", _named("cluster/keys", name), as_object(r.KeyRevoked))


class JobCalls:
    """Work with an end: training, merging, converting, downloads."""

    @method
    def jobs(self) -> Call[list[r.Job]]:
        """The newest first."""
        return Call("GET", "/v1/cluster/jobs", as_list(r.Job, "jobs"))

    @method
    def job(self, name: str) -> Call[r.JobDetails]:
        return Call("GET", _named("cluster/jobs", name), as_object(r.JobDetails))

    @method
    def start_job(
        self, kind: str, arguments: Mapping[str, Any], *, gpus: Sequence[int] | None = None, share_gpus: bool = False,
        background: bool | None = None,
    ) -> Call[r.Job]:
        """Has the cluster do it. ``gpus``: None for one that nobody uses; such as serve only with ``share_gpus``.
        ``background``: it gives way to everybody else on the processors; None: as suits the machine."""
        body = {"kind": kind, "arguments": dict(arguments), "share_gpus": share_gpus, "background": background}
        body |= {"gpus": None if gpus is None else list(gpus)}
        return Call("POST", "/v1/cluster/jobs", as_object(r.Job), body)

    @method
    def cancel_job(self, name: str) -> Call[r.Job]:
        """It is asked to end, and has some seconds to clear up."""
        return Call("DELETE", _named("cluster/jobs", name), as_object(r.Job))

    @method
    def job_events(self, name: str, since: int = 0) -> Call[r.JobEvents]:
        """What it has said; ``since``: ``next`` of an earlier answer."""
        return Call("GET", _named("cluster/jobs", name, "/events"), as_object(r.JobEvents), params={"since": since})


class JoiningCalls:
    """Balancers on other machines."""

    @method
    def joined_balancers(self) -> Call[list[r.JoinedBalancer]]:
        return Call("GET", "/v1/cluster/balancers", as_list(r.JoinedBalancer, "balancers"))

    @method
    def create_join_token(self, ttl: str = "1h") -> Call[r.NewJoinToken]:
        """By which machines may join for that long; shown this once."""
        return Call("POST", "/v1/cluster/join_tokens", as_object(r.NewJoinToken), {"ttl": ttl})

    @method
    def revoke_join_token(self, id: str) -> Call[dict[str, Any]]:
        """Machines that have joined stay."""
        return Call("DELETE", _named("cluster/join_tokens", id), as_object(_ANY))

    @method
    def evict_balancer(self, name: str) -> Call[dict[str, Any]]:
        """Its balancers end, and it does not come back without a new token."""
        return Call("DELETE", _named("cluster/balancers", name), as_object(_ANY))


class Calls(LookingCalls, ChangingCalls, AdapterCalls, ModelCalls, NameCalls, KeyCalls, JobCalls, JoiningCalls):
    """The methods that both clients have, but for the streams."""

    @method
    def ask(self, model: str, prompt: str, max_tokens: int) -> Workflow[str]:
        """The answer of ``model``, the same each time. A model without a chat template completes the prompt."""
        return workflows.ask(model, prompt, max_tokens)

    # waiting

    @method
    def wait_ready(self, count: int, timeout: float = 600.0, pause: float = 0.2) -> Workflow[r.Status]:
        """The status once at least ``count`` workers are ready. A cluster that does not answer may be starting."""
        return workflows.wait_ready(count, timeout, pause)

    @method
    def wait_settled(
        self, timeout: float, pause: float = 0.2, look: Callable[[r.Status], None] = lambda status: None
    ) -> Workflow[r.Status]:
        """The status once nothing is on its way any more; ``look`` is shown every status before it. Raises
        ClusterError at the ``timeout``, and sooner if it cannot come to an end: the supervisor is gone, or a rolling
        restart waits for a failed worker."""
        return workflows.wait_settled(timeout, pause, look)
