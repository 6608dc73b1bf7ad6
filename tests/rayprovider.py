"""Nodes that Ray's own autoscaler starts and ends on this machine, each on an address of its own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

import rayhead


class OwnAddresses(FakeMultiNodeProvider):  # type: ignore[misc]
    """Those of Ray's own provider for tests share one, by which nodes are told apart here. Runs in Ray's monitor."""

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], count: int, resources: dict[str, float], labels: dict[str, str]
    ) -> None:
        with self.lock:
            name, kind = self._next_hex_node_id(), tags[TAG_RAY_USER_NODE_TYPE]
            host = f"127.0.1.{self._next_node_id}"
            own = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_USER_NODE_TYPE: kind, TAG_RAY_NODE_NAME: name,
                   TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}  # fmt: skip
            head = rayhead.Head(self._gcs_address, Path.home())
            others = {key: value for key, value in resources.items() if key not in ("CPU", "GPU", "memory")}
            rayhead.join(
                head, host, f"--num-gpus={resources.get('GPU', 0):g}", "--resources", json.dumps(others),
                RAY_OVERRIDE_NODE_ID_FOR_TESTING=name, RAY_CLOUD_INSTANCE_ID=name, RAY_NODE_TYPE_NAME=kind,
            )  # fmt: skip
            self._nodes[name] = {"tags": {**own, **tags}, "host": host}

    def _terminate_node(self, node: dict[str, Any]) -> None:
        """As a machine ends: the agent there as well."""
        head = rayhead.Head(self._gcs_address, Path.home())
        rayhead.kill_node(head, node["host"])
        for pid in head.processes(f"/{node['host']} {node['host']} "):
            os.kill(pid, signal.SIGKILL)
