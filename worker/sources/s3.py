"""S3, or what speaks as it does: endpoint and keys from AWS' variables or its standard files. Each object is fetched
in ranges of the version that was seen when the job looked, so what changes meanwhile is noticed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from config.values.references import Reference
from worker.jobs.job import JobFailed
from worker.jobs.kinds import require
from worker.sources import parts
from worker.sources.remote import RemoteContent, RemoteFile, Transient, failed_by_status

_SECRET = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws, say who asks"
_MOST_LISTED = 10_000
_CHUNK = 1 << 20

T = TypeVar("T")


class S3Source:
    """See `worker.sources.remote.RemoteSource`."""

    def __init__(self, reference: Reference) -> None:
        require("s3", "boto3")
        self._reference = reference
        self._bucket, _, self._prefix = reference.place.partition("/")
        self.host = "S3"
        self._client = self._told(client)
        self.host = urlsplit(self._client.meta.endpoint_url).hostname or "S3"

    def look(self) -> RemoteContent:
        prefix = f"{self._prefix}/" if self._prefix else ""
        files = self._told(lambda: list(self._listed(prefix)))
        if not files:
            raise JobFailed(f"{self._reference}: there is nothing below it", 404)
        text = "".join(f"{one.name}\0{one.size}\0{one.tag}\n" for one in sorted(files, key=lambda one: one.name))
        return RemoteContent(hashlib.sha256(text.encode()).hexdigest()[:40], tuple(files))

    def _listed(self, prefix: str) -> Iterable[RemoteFile]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        seen = 0
        for page in pages:
            for entry in page.get("Contents", ()):
                seen += 1
                if seen > _MOST_LISTED:
                    raise JobFailed(f"{self._reference}: more than {_MOST_LISTED} objects: name a longer prefix", 400)
                yield RemoteFile(entry["Key"][len(prefix) :], int(entry["Size"]), tag=entry["ETag"])

    def fetch(self, file: RemoteFile, target: Path) -> None:
        key = "/".join(filter(None, (self._prefix, file.name)))
        which = {"Bucket": self._bucket, "Key": key}

        def read(first: int, last: int) -> Iterable[bytes]:
            answer = self._client.get_object(**which, Range=f"bytes={first}-{last}", IfMatch=file.tag)
            yield from answer["Body"].iter_chunks(_CHUNK)

        assert file.size is not None
        self._told(lambda: parts.fetch(target, file.size or 0, file.tag, read))
        self._told(lambda: self._check(which, file, target))

    def _check(self, which: dict[str, str], file: RemoteFile, target: Path) -> None:
        """By the checksum that the object was stored with, where it has one of the whole of it. Raises JobFailed."""
        head = self._client.head_object(**which, ChecksumMode="ENABLED", IfMatch=file.tag)
        tag = file.tag.strip('"')
        if (given := head.get("ChecksumSHA256")) and "-" not in given:
            right = _digest(target, "sha256") == base64.b64decode(given)
        elif len(tag) == 32 and head.get("ServerSideEncryption") in (None, "AES256"):
            right = _digest(target, "md5").hex() == tag  # what S3 makes ETags of, unless it was sent in parts
        else:
            return
        if not right:
            target.unlink()
            raise JobFailed(f"{self._reference}: {file.name} does not have the checksum that it was stored with", 502)

    def _told(self, work: Callable[[], T]) -> T:
        return told(str(self._reference), self.host, work)


def told(what: str, host: str, work: Callable[[], T]) -> T:
    """``work``; raises what the errors of the library mean. ``what`` is asked for of ``host``."""
    from botocore import exceptions as errors

    try:
        return work()
    except errors.ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 502))
        if status == 412:
            raise JobFailed(f"{what} changed while it was fetched: try again", 409) from None
        raise failed_by_status(status, what, host, _SECRET) from None
    except (errors.NoCredentialsError, errors.PartialCredentialsError, errors.ProfileNotFound):
        raise JobFailed(f"{what}: there are no keys to show: {_SECRET}", 403) from None
    except (errors.HTTPClientError, errors.IncompleteReadError, errors.ResponseStreamingError) as error:
        raise Transient(f"{what}: the connection to {host} broke off ({type(error).__name__})") from None
    except errors.BotoCoreError as error:
        raise JobFailed(f"{what}: {error}", 400) from None


def client() -> Any:
    """By the environment and the standard files, read now. Names of buckets go into the path where these name a server
    of somebody's own, which has no name for each of them."""
    import boto3
    from botocore.config import Config

    session = boto3.session.Session()
    given = {"region_name": session.region_name or "us-east-1"}
    host = urlsplit(session.client("s3", **given).meta.endpoint_url).hostname or ""
    style = "auto" if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else "path"
    retries = {"mode": "standard", "max_attempts": 2}
    config = Config(s3={"addressing_style": style}, retries=retries, connect_timeout=20, read_timeout=60)
    return session.client("s3", config=config, **given)


def _digest(path: Path, name: str) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).digest()
