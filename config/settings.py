"""The settings, out of their sources (`config.sources`); everything else is handed a frozen `Settings`.

Precedence, highest first: flags, environment (``CLUSTERCTL_*``, then the plain names), a file of variables, the YAML
file, defaults.

Longer than a file should be: half of it is a table, a line or two a setting.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, AliasGenerator, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.disk import locations
from config.disk.absolute import absolute
from config.errors import UsageError, nearest
from config.models import Models
from config.paths import default_state_dir
from config.sources import env_file, modes
from config.sources.given import Given, variable_of
from config.sources.names import OTHER_ENVIRONMENT, PREFIX, variables
from config.sources.yaml_file import read_mapping
from config.topology import AUTO_STRATEGY, STRATEGIES, TlsFiles
from config.values import listening, schedule
from config.values import setting_types as t
from config.values.addresses import local_url
from config.values.schedule import Minimum
from config.values.setting_types import Effect as Effect


def _env(name: str) -> AliasChoices:
    return AliasChoices(*variables(name))


class Settings(BaseSettings):
    """What a cluster is started with. Times are seconds."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", case_sensitive=True, populate_by_name=True, env_prefix=PREFIX, allow_inf_nan=False,
        env_ignore_empty=True, alias_generator=AliasGenerator(validation_alias=_env),
    )

    inference_mode: t.InferenceMode = t.fixed(
        None, "`single`: one instance; `multi_instance`: workers, as many as are asked for; `load_balance`: other "
        "servers, and workers only if they are asked for",
    )
    instances: int = t.at_once(1, "workers to keep running", ge=0, le=1024)
    engine: t.EngineName = t.fixed("vllm", "what a worker runs (docs/engines.md); auto: what is fastest here")
    driver: t.DriverName = t.fixed(
        "local", "where workers run: on this machine, on the nodes of a Ray cluster or in pods (docs/scale-out.md)"
    )
    ray_address: t.Text = t.fixed("auto", "address of Ray's head; auto: of the Ray that this machine is part of")
    ray_insecure: bool = t.fixed(False, "use a Ray that other machines reach and that asks nobody for a token")
    ray_resources: t.Amounts = t.fixed(
        {}, 'what Ray holds for each worker, as {"accelerator_type:H100": 0.001}; GPU: others than the engine needs'
    )
    ray_labels: t.WordsByName = t.fixed({}, "labels that a node of Ray needs to have for workers, key=value,key=value")
    kubernetes_workers: t.Text = t.fixed(
        "clusterctl-worker", "StatefulSet and headless Service of the pods of workers, NAME or NAMESPACE/NAME"
    )
    kubernetes_scale: bool = t.fixed(True, "say how many such pods there are; without it somebody else does")
    agent_key_file: t.PathOrNone = t.fixed(None, "file with the key of the agents in such pods")
    leave_workers: bool = t.fixed(
        False, "at SIGTERM end balancers and supervisor alone: workers on other machines are the next one's"
    )
    node_lease: float = t.fixed(
        120.0, "how long workers on other machines go on without a word from here", ge=10, le=86400
    )
    node_adapters_gib: float = t.fixed(32.0, "GiB of adapters that each other machine keeps", ge=0.1)
    model: t.ModelPlaceOrNone = t.fixed(
        None, "model path, reference such as hf://org/name, hub id or name in a manifest; without one, the demo model"
    )
    models: Models = t.fixed({}, "several models, name: path, or name: {path: ..., engine: ...}")
    max_concurrent_models: int | None = t.at_once(
        None, "models that are up at the same time; default as many as fit", ge=1
    )
    min_up: float = t.at_once(10.0, "how long a model stays up before it makes room for another", ge=0)
    swap_after: float = t.at_once(
        10.0, "how long requests wait for a model before another that has requests makes room", ge=0
    )
    manifest: t.PathOrNone = t.fixed(None, "YAML file of models and their profiles, beside those known by name anyway")
    profile: t.TextOrNone = t.fixed(None, "profile of such a model; default the one that fits this machine best")
    model_base_path: t.PathOrNone = t.fixed(None, "folder in which models are looked for by relative paths")
    served_names: t.Texts = t.fixed((), "what clients call the model; default its path or id")
    lora: t.Adapters = t.fixed({}, "LoRA adapters, name: path or reference such as hf://org/name")
    backend: t.Texts = t.fixed((), "URLs of servers to balance as well")
    backend_discovery: t.Discoveries = t.fixed(
        (), "where more of them are listed: dns:NAME:PORT, dns:NAME, file:PATH, consul:URL/SERVICE (docs/engines.md)"
    )
    backend_key_file: t.PathOrNone = t.fixed(None, "file with the API key of those servers")
    manage_backend_adapters: bool = t.fixed(False, "load the cluster's adapters on those servers as well")
    host: t.Text = t.fixed("127.0.0.1", "address to listen on")
    port: int = t.fixed(8000, "port to listen on", ge=1, le=65535)
    grpc_port: int | None = t.fixed(None, "another one, on which gRPC is spoken; default none", ge=1, le=65535)
    join_listen: t.TextOrNone = t.fixed(
        None, "ADDRESS:PORT on which balancers of other machines join (docs/scale-out.md); default none"
    )
    worker_host: t.Text = t.fixed(
        "127.0.0.1", "address of this machine that workers listen on, for balancers of other machines"
    )
    tls_cert: t.PathOrNone = t.balancer(
        None, "PEM file with the certificate (chain) of the port, which speaks TLS then"
    )
    tls_key: t.PathOrNone = t.balancer(None, "PEM file with its private key")
    tls_client_ca: t.PathOrNone = t.balancer(None, "PEM file of authorities; clients need a certificate of theirs")
    strategy: t.ClusterStrategy = t.at_once(
        "auto", "how requests are spread; auto is adaptive while adapters outnumber slots, else least_connections"
    )
    routes: t.ModelRoutes = t.at_once({}, "names that choose a model by what the last user message says")
    aliases: t.ModelAliases = t.at_once({}, "other names of models, or of several by weights: a=90,b=10")
    gpus: t.Gpus = t.fixed(None, "GPU indices to use; default all")
    instances_per_gpu: int = t.fixed(1, "workers sharing one GPU", ge=1, le=64)
    tensor_parallel_size: int = t.fixed(1, "GPUs a worker spans", ge=1, le=1024)
    max_gpu_memory: t.Share = t.workers(
        None, "share of a GPU's memory that workers take, 0.8 or 80%; default what the engine does"
    )
    max_cpu_threads: int | None = t.fixed(None, "cores that workers without GPU may use; default all", ge=1)
    min_instances: t.MinInstances = t.at_once(
        1, "fewest workers scaling may leave, at certain times more: 1,4@mon-fri 08:00-19:00"
    )
    max_instances: int | None = t.at_once(None, "most workers; default what the machine holds", ge=1)
    spares: int = t.at_once(
        0, "workers more than that, ready and idle, that take the place of a lost one (docs/startup.md)", ge=0, le=64
    )
    autoscale: t.Autoscale = t.at_once("off", "as many workers as the load needs, or only say how many that would be")
    autoscale_load: float = t.at_once(0.2, "share of its seats with which a worker is busy enough", gt=0, le=1)
    autoscale_itl: float = t.at_once(
        0.05, "how long a token may take, by which the share is learnt; 0: it stays what it is", ge=0, le=60
    )
    autoscale_ttft: float = t.at_once(2.0, "how long the prompts that are not read yet may take all workers", gt=0)
    autoscale_up_after: float = t.at_once(10.0, "how long more workers have to be needed", ge=0, le=3600)
    autoscale_down_after: float = t.at_once(300.0, "how long fewer workers have to be enough", ge=0, le=86400)
    jobs_at_once: int = t.at_once(1, "jobs that compute (not downloads) at the same time", ge=1, le=64)
    zygote: t.Zygote = t.at_once("auto", "fork workers from a process that has imported their engine (docs/startup.md)")
    cpu_kv_gib: float = t.workers(1.0, "KV cache of a worker without GPU, GiB", gt=0)
    drain_timeout: float = t.at_once(30.0, "how long running requests may finish", ge=0)
    rolling_spare: bool = t.at_once(True, "a rolling restart starts a spare worker first where there is room")
    queue_timeout: float = t.balancer(30.0, "how long a request waits for a ready worker", ge=0)
    max_queue: int = t.balancer(10_000, "requests that wait at most", ge=1)
    max_queue_wait: float = t.balancer(600.0, "how long a request waits for room on workers that are busy", ge=0)
    max_concurrent: int | None = t.balancer(None, "requests that workers are given at the same time; default any", ge=1)
    per_adapter_limit: int | None = t.balancer(None, "the same for each model and adapter by itself", ge=1)
    per_adapter: t.NamedCounts = t.balancer((), "the same for one of them, NAME=N")
    cap_n: int = t.balancer(128, "answers that one request may ask for (n)", ge=1)
    cap_best_of: int = t.balancer(128, "the same for best_of", ge=1)
    cap_tokens: int | None = t.balancer(
        None, "tokens that it may ask for (max_tokens and its like); default what the engine takes", ge=1
    )
    cap_prompts: int = t.balancer(2048, "prompts, texts and documents in one request", ge=1)
    cap_logprobs: int | None = t.balancer(
        None, "log probabilities of one token; default what the engine takes", ge=0
    )
    cap_depth: int = t.balancer(200, "arrays and objects inside each other", ge=16, le=200)
    allow_chat_template: bool = t.balancer(False, "requests may bring a chat template")
    allow_chat_template_kwargs: bool = t.balancer(True, "requests may bring values for the model's chat template")
    startup_timeout: float = t.at_once(600.0, "how long a worker may take to be ready", gt=0)
    stop_grace: float = t.at_once(10.0, "from asking a worker to end until killing it", ge=0)
    health_interval: float = t.at_once(2.0, "between two probes of a worker", gt=0)
    health_timeout: float = t.at_once(5.0, "how long a probe may take", gt=0)
    health_failures: int = t.at_once(3, "failed probes in a row: out of rotation", ge=1)
    restart_failures: int = t.at_once(6, "failed probes in a row: killed, restarted", ge=1)
    restart_delay: float = t.at_once(1.0, "before the second restart in a row; doubles with each, up to 60", ge=0)
    stall_timeout: float = t.balancer(10.0, "how long tokens may stand still on a worker that has requests", gt=0)
    first_byte_timeout: float = t.balancer(
        30.0, "how long a stream's head may take while another worker is free; 0: any time", ge=0
    )
    canary_interval: float = t.at_once(30.0, "an idle worker is asked for one token this often; 0: never", ge=0)
    resume: bool = t.balancer(True, "go on with a stream on another worker when its own is lost")
    move_streams: bool = t.balancer(
        False, "move running streams to free an adapter's slot where that is cheaper (docs/routing.md)"
    )
    migration_limit: int = t.balancer(3, "most moves of a stream, repetitions of a request", ge=0)
    lb_processes: int = t.balancer(1, "balancer processes that share the port", ge=1, le=64)
    lb_standby: bool = t.fixed(True, "keep a balancer process waiting for one to die")
    max_body: t.SizeGiven = t.balancer(64 * 1024 * 1024, "largest request body, bytes or 64M", ge=1024)
    max_buffered: t.Size = t.balancer(
        None, "memory for all request bodies together, bytes or 512M; default a 16th of the machine's", ge=1024 * 1024
    )
    max_connections: int = t.balancer(10_000, "clients' connections to one balancer process", ge=1)
    head_timeout: float = t.balancer(10.0, "how long a request's head may take to come", gt=0)
    body_timeout: float = t.balancer(60.0, "how long a request's body may stand still", gt=0)
    send_timeout: float = t.balancer(60.0, "how long a client may take nothing of an answer that waits for it", gt=0)
    min_client_rate: float = t.balancer(
        500.0, "bytes a second that a client has to send of a body, or take of an answer; 0: any", ge=0
    )
    max_client_connections: int | None = t.balancer(
        None, "connections from one address; default half of max_connections", ge=1
    )
    max_client_uploads: int | None = t.balancer(
        None, "bodies on their way from one address; default a quarter of max_connections", ge=1
    )
    stream_buffer: int = t.balancer(
        256 * 1024, "bytes kept for a client that reads slower than its worker writes", ge=64 * 1024
    )
    response_cache: bool = t.balancer(False, "give the answer of a greedy or seeded request again to the same request")
    response_cache_size: t.SizeGiven = t.balancer(
        64 * 1024 * 1024, "memory for such answers of one balancer process, bytes or 64M", ge=1024 * 1024
    )
    response_cache_ttl: float = t.balancer(3600.0, "how long one is given again", gt=0)
    trusted_proxies: t.Networks = t.balancer((), "addresses or networks whose X-Forwarded-* headers are believed")
    cors_origin: t.Origins = t.balancer((), "origins whose pages may ask models, as https://app.example; * for all")
    extra_routes: t.Routes = t.balancer((), "more paths of the engine that clients may call")
    forward_headers: t.Headers = t.balancer((), "more of the clients' headers that workers and attached servers get")
    admin_key: t.Key = t.balancer(None, "bearer token for /v1/cluster, /v1/system and adapters", repr=False)
    api_keys: t.PathOrNone = t.at_once(None, "YAML file with API keys: names, hashes and limits")
    anonymous_models: t.Texts = t.balancer((), "models that may be asked for without a key")
    limits_store: t.Store = t.balancer(
        None, "URL of a Redis through which clusters on several machines share keys' limits", repr=False
    )
    insecure: bool = t.balancer(False, "listen for other machines although nobody needs a key")
    protect_metrics: bool = t.balancer(False, "/metrics needs a credential on loopback too")
    allowed_hosts: t.Texts = t.balancer((), "more names by which the management API may be called")
    log_level: t.LogLevel = t.balancer("info", "what is logged")
    log_format: t.LogFormat = t.fixed("text", "how: lines for people, or JSON")
    worker_logging: bool = t.workers(True, "vLLM sets up the log of its workers")
    worker_log_config: t.PathOrNone = t.workers(None, "how it does: a JSON file in the form of Python's dictConfig")
    worker_log_level: t.LogLevelOrNone = t.workers(None, "what workers log; default what vLLM does, info")
    worker_log_format: t.WorkerLogFormat = t.workers("text", "how: lines for people, or JSON (1 and 0 mean json, text)")
    access_log: t.AccessLog = t.balancer(
        "errors", "which requests get a line in access.log: off, errors, on, or errors and this share"
    )
    log_prompts: bool = t.balancer(False, "prompts in the access log, each up to 2,000 characters")
    otlp_endpoint: t.Collector = t.balancer(None, "URL of a collector that gets a trace of each request")
    lora_config: t.PathOrNone = t.fixed(None, "YAML or JSON file that lists adapters")
    keep_versions: int = t.at_once(3, "versions of an adapter that can be gone back to", ge=1)
    allow_no_effect: bool = t.at_once(False, "adapters may answer as the base model does, such as untrained ones")
    adapter_root: t.Paths = t.at_once((), "adapters are loaded from these folders only; default anywhere")
    source_hosts: t.Texts = t.at_once((), "hosts to fetch models and adapters from, such as *.example.com; default any")
    source_private: bool = t.at_once(False, "fetch them from private addresses, too")
    state_dir: t.PathOrNone = t.fixed(None, "state, logs, sockets; default one a port")
    env_file: t.PathOrNone = t.fixed(None, "file of environment variables, NAME=value; those that are set win over it")
    engine_args: t.EngineArgs = t.workers((), "the engine's own flags")

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, *args: PydanticBaseSettingsSource, **kwargs: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings)  # `load` folds the file in below the environment

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        least = self.minimum
        if self.max_instances is not None and self.max_instances < max(least.most, self.instances):
            raise ValueError(
                f"max_instances {self.max_instances} is below "
                f"{'instances' if self.instances > self.max_instances else 'min_instances'} "
                f"{max(least.most, self.instances)}"
            )
        if self.instances == 0 and not (self.backend or self.backend_discovery or self.models):
            raise ValueError("instances 0 needs at least one --backend URL, a --backend-discovery, or models")
        self._check_models()
        if self.worker_log_config is not None and not self.worker_logging:
            raise ValueError("worker_log_config says how vLLM sets up its log, and worker_logging that it does not")
        if self.grpc_port == self.port:
            raise ValueError(f"grpc_port {self.grpc_port} is the port that HTTP is spoken on")
        listening.check(self.join_listen, self.worker_host, bool(self.own_instances or self.models), self.driver)
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_client_ca and not self.tls_cert):
            raise ValueError("TLS needs tls_cert and tls_key")
        if both := sorted(self.routes.keys() & self.aliases.keys()):
            raise ValueError(f"{both[0]!r} is the name of a route and of an alias")
        if 0 < self.instances < least.usual:
            raise ValueError(f"instances {self.instances} is below min_instances {least.usual}")
        return self

    def _check_models(self) -> None:
        """Raises ValueError for what belongs to one model and is said of none."""
        if self.only_models:
            for setting in ("lora", "lora_config", "engine_args"):
                if getattr(self, setting):
                    key = {"engine_args": "args"}.get(setting, "adapters")
                    raise ValueError(f"{setting} is of one model: `{key}` below its name in models")
        pinned = [name for name, model in self.models.items() if model.pinned]
        room = (self.max_concurrent_models or len(pinned) + 2) - (0 if self.only_models else 1)
        if len(pinned) > room:
            raise ValueError(f"max_concurrent_models {self.max_concurrent_models}: {', '.join(pinned)} are pinned")
        if both := sorted(self.models.keys() & self.model_names.keys()):
            raise ValueError(f"{both[0]!r} is the name of a model, and of a route or an alias")

    @property
    def only_models(self) -> bool:
        """Whether all workers are of one of ``models``: there is no model beside these."""
        return bool(self.models) and (self.model is None or self.model in self.models)

    @property
    def own_instances(self) -> int:
        """Workers of the model that stands in none of ``models``."""
        return 0 if self.only_models else self.instances

    @property
    def default_model(self) -> str | None:
        """Which of ``models`` answers requests that name none: the first, unless ``model`` names one. None: it is that
        which stands in none of them."""
        return (self.model or next(iter(self.models))) if self.only_models else None

    @property
    def minimum(self) -> Minimum:
        """The fewest workers, by the time of the week."""
        return schedule.parse(self.min_instances)

    def url(self) -> str:
        """Where a program of this machine finds the cluster."""
        return local_url(self.host, self.port, self.tls_cert is not None)

    @property
    def model_names(self) -> dict[str, dict[str, Any]]:
        """Routes and aliases, as `config.model_names` writes them."""
        return {**self.routes, **self.aliases}

    def tls(self) -> TlsFiles | None:
        """None where the port speaks plain HTTP."""
        if self.tls_cert is None:
            return None
        return TlsFiles(str(self.tls_cert), str(self.tls_key), str(self.tls_client_ca) if self.tls_client_ca else None)

    def state_directory(self) -> Path:
        """Where this cluster keeps its state, absolute. Raises UsageError where no home is known."""
        return (self.state_dir or default_state_dir(self.port)).expanduser().absolute()

    def to_json(self) -> str:
        return self.model_dump_json()


def known_settings() -> tuple[str, ...]:
    return tuple(Settings.model_fields)


def effect_of(setting: str) -> Effect:
    """Raises KeyError for an unknown one."""
    told: Any = Settings.model_fields[setting].json_schema_extra
    return Effect(told["effect"])


def load(flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Settings from ``flags`` (given ones only), the environment and the file ``config``. Empty variables are unset
    ones. All paths in them are absolute: those of the file begin in its folder, others where we are.

    Raises UsageError with one line that names the key, where it came from and what is wrong with it."""
    return load_with_sources(flags, config)[0]


def load_with_sources(flags: Mapping[str, Any], config: Path | None = None) -> tuple[Settings, Given]:
    """`load`, and where each setting was given. The environment of this process gets the variables of an ``env_file``
    that it does not have, so that its children have them, too."""
    if config is None and os.environ.get("CLUSTERCTL_CONFIG"):
        config = Path(os.environ["CLUSTERCTL_CONFIG"])
    in_file = read_yaml(config) if config else {}
    given = _with_variables(Given(flags, in_file, config))
    _check_environment(given)
    values = {**{k: v for k, v in in_file.items() if not variable_of(k)}, **flags}
    try:
        settings = Settings(**values)
        if settings.inference_mode is not None:
            changed, given = _in_mode(settings, given)
            settings = Settings(**{**values, **changed})
    except ValidationError as error:
        raise UsageError(explain(error, given), exit_code=2) from None
    return settings.model_copy(update=_absolute(settings, given)), given


def _in_mode(settings: Settings, given: Given) -> tuple[dict[str, Any], Given]:
    """What the inference mode sets. Raises UsageError where what was given contradicts it."""
    mode, source = str(settings.inference_mode), given.source("inference_mode")
    try:
        changed = modes.overlay(mode, dict(settings), given.source)
    except ValueError as error:
        raise UsageError(f"{source}: {error}", exit_code=2) from None
    return changed, replace(given, mode=f"{source}, {mode}", by_mode=frozenset(changed))


def _with_variables(given: Given) -> Given:
    """With those of the file that ``env_file`` names, if it does."""
    source = given.source("env_file")
    if source is None:
        return given
    in_file = "env_file" not in given.flags and variable_of("env_file") is None
    named = given.in_file["env_file"] if in_file else given.flags.get("env_file") or os.environ[f"{PREFIX}ENV_FILE"]
    base = given.config.absolute().parent if in_file and given.config is not None else None
    try:
        path = absolute(named if isinstance(named, Path) else str(named or ""), base)
    except ValueError as error:
        raise UsageError(f"{source}: {error}", exit_code=2) from None
    found = env_file.read(path)
    env_file.complete(os.environ, found)
    return replace(given, variables=found, env_file=path)


def _absolute(settings: Settings, given: Given) -> dict[str, Any]:
    """The settings that are paths, or hold some, with absolute ones."""
    found = {}
    for name in locations.SETTINGS:
        if name == "model" and settings.model in settings.models:
            continue  # a name, whatever lies here
        in_file = name in given.in_file and name not in given.flags and not variable_of(name)
        base = given.config.absolute().parent if given.config is not None and in_file else None
        try:
            found[name] = locations.setting(name, getattr(settings, name), base)
        except ValueError as error:
            raise UsageError(f"{given.source(name) or name}: {error}", exit_code=2) from None
    return found


def from_json(text: str) -> Settings:
    """Settings exactly as `Settings.to_json` wrote them: no environment, no file, no defaults of today. Empty texts,
    which releases before took from empty variables, are what nobody has given."""
    given = json.loads(text)
    return Settings(**{k: Settings.model_fields[k].get_default() if v == "" else v for k, v in given.items()})


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file. Raises UsageError naming file, line and, for an unknown key, the nearest."""
    settings = {str(k).replace("-", "_"): v for k, v in read_mapping(path).items()}
    for key in settings:
        if key not in Settings.model_fields:
            raise UsageError(f"{path}: unknown setting {key!r}{nearest(key, known_settings())}", exit_code=2)
    return settings


def _check_environment(given: Given) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | OTHER_ENVIRONMENT
    for name, value in os.environ.items():
        if name.startswith(PREFIX) and value and name not in known:
            where = given.named(name).removesuffix(name).rstrip(": ")
            raise UsageError(f"{where}: unknown setting {name}{nearest(name, known)}", exit_code=2)


def explain(error: ValidationError, given: Given) -> str:
    """The first of what is wrong, in one line that names the setting and where it was given."""
    first = error.errors(include_url=False, include_context=False)[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    location = str(first["loc"][0]) if first["loc"] else ""
    setting = next((n for n in Settings.model_fields if location in (n, *variables(n))), "")
    if not setting:
        return message
    if setting == "strategy" and isinstance(first.get("input"), str):
        names, name = (AUTO_STRATEGY, *STRATEGIES), str(first["input"])
        message = f"unknown strategy {name!r}{nearest(name, names)}; known: {', '.join(names)}"
    return f"{given.source(setting) or setting}: {message}"


def inherited_environment() -> dict[str, str]:
    """The environment for child processes: ours without our own settings (the admin key is nobody else's)."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def environment() -> dict[str, str]:
    """For readers of other people's variables (`config.lora_config`)."""
    return dict(os.environ)


def visible_gpus() -> str | None:
    """``CUDA_VISIBLE_DEVICES`` as somebody set it for us, None where nobody did."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")
