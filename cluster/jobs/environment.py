"""What a job's process has in its environment: nothing of the cluster's own settings, and what it may take. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: How many threads the libraries of a job use, each by its own name of it.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def job_environment(
    inherited: Mapping[str, str], gpus: Sequence[int] | None, threads: int | None = None
) -> dict[str, str]:
    """``inherited`` is ours without our settings (`config.settings.inherited_environment`): the tokens of hubs are in
    it. ``gpus``: the job sees only these, by the numbers of ``nvidia-smi``; None leaves it what we see. ``threads``:
    at most so many, unless the environment says it."""
    found = dict(inherited)
    if gpus is not None:
        found |= {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if threads is not None:
        found = {**dict.fromkeys(_THREADS, str(threads)), **found}
    return found
