"""GPUs for a job in a command's own process, while a cluster runs that does not do it."""

from __future__ import annotations

import os
from dataclasses import replace

from cluster.cli.common import client
from cluster.cli.progress import JobPlace
from cluster.client import ClusterError


def beside(place: JobPlace) -> JobPlace:
    """``place``, where it is ``here`` and names none, with the first GPU that no worker of the cluster has, if there is
    one: the supervisor chooses for what it does itself."""
    if not place.here or place.gpus is not None:
        return place
    from worker.gpus import detect

    try:
        with client(place.url) as cluster:
            used = {gpu for each in cluster.status()["instances"].values() for gpu in each.get("gpus") or ()}
    except ClusterError:
        return place
    there = [gpu.index for gpu in detect(os.environ.get("CUDA_VISIBLE_DEVICES"))]
    return replace(place, gpus=[gpu for gpu in there if gpu not in used][:1])
