"""What becomes of workers that were given up, seen from the host that they are on."""

from __future__ import annotations

import re
import time

import httpx

from harness import poll
from manyhosts.namespaces import Host
from manyhosts.site import HostsCluster, Site

_ANSWERED = re.compile(r"^vllm:request_success_total\{(?![^}]*abort)[^}]*\} (\S+)", re.M)

#: Longer (s) than any stream that is asked for here takes.
_STREAM_S = 6.0


class Fencing:
    """The workers that ``host`` has now, which is about to be cut off."""

    def __init__(self, site: Site, cluster: HostsCluster, host: Host) -> None:
        self._site, self._host, self._began = site, host, time.monotonic()
        self._before = {one.outer for one in site.workers(host)}
        self._asked = {
            f"http://{host.address}:{cluster.instance(name)['port']}/metrics": cluster.worker_key(name)
            for name in cluster.running_on(host)
        }

    def answered(self) -> dict[str, float]:
        """Requests, by each of the workers that still answers."""
        found = {}
        for url, key in self._asked.items():
            try:
                answer = self._host.inside(self._look, url, key)
            except httpx.HTTPError:
                continue
            if answer.status_code == 200:  # another one with another key may be there meanwhile
                found[url] = sum(map(float, _ANSWERED.findall(answer.text)))
        return found

    def settled(self) -> dict[str, float]:
        """As `answered`, once what was under way on them is over; they go on, or nothing is shown here."""
        poll(lambda: time.monotonic() > self._began + _STREAM_S, _STREAM_S + 1)
        return self.answered()

    def ended(self, answered: dict[str, float], timeout: float) -> None:
        """The host is back: none of them is left in the end; until then none answered more than what it had
        ``answered``, and none of them ran beside one that was started later."""
        assert len(answered) == len(self._asked) and all(answered.values())

        def look() -> bool:
            assert self.answered().items() <= answered.items(), "a worker that was given up has answered"
            now = {one.outer for one in self._site.workers(self._host)}
            old, new = now & self._before, now - self._before
            assert not (old and new), f"on {self._host.name} {len(old)} given up and {len(new)} new at once"
            return not old

        poll(look, timeout, f"workers given up on {self._host.name} end")

    @staticmethod
    def _look(url: str, key: str) -> httpx.Response:
        return httpx.get(url, headers={"Authorization": f"Bearer {key}"}, timeout=2, trust_env=False)
