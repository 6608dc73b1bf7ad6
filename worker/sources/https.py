"""A file behind a URL: an archive, or the weights of an adapter, whose configuration lies beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import httpx

from config.values.references import Reference
from config.values.references import parse as parse_reference
from worker.jobs.job import JobFailed
from worker.sources import archive, parts
from worker.sources.egress import EgressPolicy
from worker.sources.remote import PART, RemoteContent, RemoteFile, Transient, failed_by_status

_SECRET = "an entry for that host in ~/.netrc says who asks"
_HOPS = 5
_MOST_WITHOUT_LENGTH = 4 * 1024**3  # bytes of an answer that does not say how long it is
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

T = TypeVar("T")


class HttpsSource:
    """See `worker.sources.remote.RemoteSource`. Redirects are followed here, one by one: each host is looked at."""

    def __init__(self, reference: Reference, policy: EgressPolicy, client: httpx.Client | None = None) -> None:
        self._reference, self._policy = reference, policy
        self._client = client or httpx.Client(timeout=httpx.Timeout(60.0, connect=20.0), auth=_netrc())
        self._url = reference.place
        path = urlsplit(self._url).path
        self.host = urlsplit(self._url).hostname or ""
        self._archive = archive.is_archive(path)
        if not self._archive and not path.endswith(".safetensors"):
            raise JobFailed(f"{reference} is neither an archive ({', '.join(archive.ENDINGS)}) nor .safetensors", 400)

    def look(self) -> RemoteContent:
        if self._archive:
            name = f"archive{archive.ending_of(urlsplit(self._url).path)}"
            file = self._told(lambda: self._seen(name, self._url, self._reference.sha256))
            return RemoteContent(self._reference.sha256 or _revision(file), (file,), archive=True)
        weights = self._told(lambda: self._seen(_WEIGHTS, self._url, self._reference.sha256))
        config = self._told(lambda: self._seen(_CONFIG, urljoin(self._url, _CONFIG), None))
        return RemoteContent(_revision(config, weights), (config, weights))

    def _seen(self, name: str, url: str, sha256: str | None) -> RemoteFile:
        """By the first byte of it: not every server, and no signed URL, answers to HEAD."""
        with self._get(url, {"range": "bytes=0-0"}) as answer:
            headers = answer.headers
            tag = headers.get("etag") or headers.get("last-modified") or ""
            if answer.status_code == 206:
                length = headers.get("content-range", "").rpartition("/")[2]
                return RemoteFile(name, int(length) if length.isdecimal() else None, sha256, tag=f"ranges {tag}")
            length = headers.get("content-length", "")
            return RemoteFile(name, int(length) if length.isdecimal() else None, sha256, tag=f"whole {tag}")

    def fetch(self, file: RemoteFile, target: Path) -> None:
        url = urljoin(self._url, _CONFIG) if file.name == _CONFIG else self._url
        ranges, _, tag = file.tag.partition(" ")
        if ranges == "ranges" and file.size is not None and tag:
            size = file.size
            self._told(lambda: parts.fetch(target, size, tag, lambda first, last: self._range(url, tag, first, last)))
        else:
            self._told(lambda: self._whole(url, file, target))

    def _range(self, url: str, tag: str, first: int, last: int) -> Iterable[bytes]:
        known_by = {} if tag.startswith("W/") else {"if-range": tag}
        with self._get(url, {"range": f"bytes={first}-{last}", **known_by}) as answer:
            now = answer.headers.get("etag") or answer.headers.get("last-modified") or tag
            if answer.status_code != 206 or now != tag:
                raise JobFailed(f"{self._reference} changed while it was fetched: try again", 409)
            yield from answer.iter_raw()

    def _whole(self, url: str, file: RemoteFile, target: Path) -> None:
        most, came = _MOST_WITHOUT_LENGTH if file.size is None else file.size, 0
        partial = target.with_name(target.name + PART)
        with self._get(url, {}) as answer, partial.open("wb") as stream:
            for piece in answer.iter_raw():
                came += len(piece)
                if came > most:
                    raise JobFailed(f"{self._reference}: more than {most} bytes came", 502)
                stream.write(piece)
        if file.size is not None and came < file.size:
            raise Transient(f"{self._reference}: broke off after {came} of {file.size} bytes")
        partial.rename(target)

    def _get(self, url: str, headers: dict[str, str]) -> AbstractContextManager[httpx.Response]:
        """The answer, its body unread. Raises JobFailed, Transient, httpx.HTTPError."""
        for _ in range(_HOPS):
            self._policy.check_host(urlsplit(url).hostname or "")
            request = self._client.build_request("GET", url, headers={"accept-encoding": "identity", **headers})
            answer = self._client.send(request, stream=True)
            if answer.next_request is None:
                return self._good(answer)
            url = str(answer.next_request.url)
            answer.close()
            try:
                parse_reference(url)  # as whatever somebody names: no other scheme, no password in it
            except ValueError as error:
                raise JobFailed(f"{self._reference} leads elsewhere: {error}", 403) from None
        raise JobFailed(f"{self._reference}: more than {_HOPS} redirects", 502)

    def _good(self, answer: httpx.Response) -> AbstractContextManager[httpx.Response]:
        if answer.status_code not in (200, 206):
            answer.close()
            after = answer.headers.get("retry-after", "")
            wait = float(after) if after.isdecimal() else None
            raise failed_by_status(answer.status_code, str(self._reference), self.host, _SECRET, wait)
        return _Closing(answer)

    def _told(self, work: Callable[[], T]) -> T:
        """Raises what its errors mean."""
        try:
            return work()
        except httpx.TransportError as error:
            told = f"{self._reference}: {self.host} cannot be reached, or broke off ({type(error).__name__})"
            if "CERTIFICATE" in str(error):
                raise JobFailed(f"{told}: its certificate is not trusted: {error}", 502) from None
            raise Transient(told) from None


class _Closing(AbstractContextManager[httpx.Response]):
    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer

    def __enter__(self) -> httpx.Response:
        return self._answer

    def __exit__(self, *_: object) -> None:
        self._answer.close()


def _revision(*files: RemoteFile) -> str:
    text = "".join(f"{file.name}\0{file.size}\0{file.tag}\n" for file in files)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _netrc() -> httpx.Auth | None:
    try:
        return httpx.NetRCAuth()
    except (OSError, SyntaxError):
        return None
