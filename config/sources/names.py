"""The environment's names of settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping

PREFIX = "CLUSTERCTL_"

#: Environment names under the prefix that are not settings: they tell the other commands where the cluster is,
#: and what to say to it.
OTHER_ENVIRONMENT = frozenset(
    {"CLUSTERCTL_URL", "CLUSTERCTL_CONFIG", "CLUSTERCTL_API_KEY", "CLUSTERCTL_CA", "CLUSTERCTL_CLIENT_CERT",
     "CLUSTERCTL_JOIN_TOKEN"}
)

#: Plain environment names from other people's set-ups, by setting; the first that is set counts.
PLAIN_NAMES: Mapping[str, tuple[str, ...]] = {
    "inference_mode": ("INFERENCE_MODE",),
    "model_base_path": ("MODEL_BASE_PATH",),
    "max_gpu_memory": ("MAX_GPU_MEMORY",),
    "max_cpu_threads": ("MAX_CPU_THREADS",),
    "instances": ("CLUSTER_INSTANCES",),
    "engine": ("INFERENCE_ENGINE",),
    "model": ("MIM_MODEL_NAME", "DEFAULT_MODEL"),
    "profile": ("MIM_MODEL_PROFILE",),
    "strategy": ("LOAD_BALANCE_STRATEGY",),
    "min_instances": ("MIN_INSTANCES",),
    "max_instances": ("MAX_INSTANCES",),
    "max_concurrent_models": ("MAX_CONCURRENT_MODELS",),
    "autoscale": ("AUTO_SCALING",),
    "health_interval": ("HEALTH_CHECK_INTERVAL",),
    "host": ("HOST",),
    "port": ("PORT",),
    "worker_logging": ("VLLM_MXEXT_CONFIGURE_LOGGING",),
    "worker_log_config": ("VLLM_MXEXT_LOGGING_CONFIG_PATH",),
    "worker_log_level": ("VLLM_MXEXT_LOG_LEVEL",),
    "worker_log_format": ("VLLM_MXEXT_JSONL_LOGGING",),
    "log_level": ("LOG_LEVEL",),
    "response_cache": ("ENABLE_CACHING",),
}

#: Every one of them.
ALL_PLAIN = frozenset(name for names in PLAIN_NAMES.values() for name in names)


def variables(setting: str) -> tuple[str, ...]:
    """The variables that give ``setting``; of several that are set the first counts."""
    return (f"{PREFIX}{setting.upper()}", *PLAIN_NAMES.get(setting, ()))
