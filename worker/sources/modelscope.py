"""ModelScope, or one that speaks as it does (MODELSCOPE_ENDPOINT), through its own library."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from config.values.references import Reference
from worker.jobs.job import JobFailed
from worker.jobs.kinds import require
from worker.sources.remote import RemoteContent, RemoteFile, Transient, failed_by_status

_SECRET = "MODELSCOPE_API_TOKEN, or the file that `modelscope login` writes, says who asks"

T = TypeVar("T")


class ModelScopeSource:
    """See `worker.sources.remote.RemoteSource`."""

    def __init__(self, reference: Reference) -> None:
        require("modelscope", "modelscope_hub")
        os.environ.setdefault("MODELSCOPE_LOG_LEVEL", "40")
        from modelscope_hub import HubApi

        endpoint = (os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn").rstrip("/")
        self._reference, self._api = reference, HubApi(endpoint=endpoint)
        self.host = urlsplit(endpoint).hostname or endpoint

    def look(self) -> RemoteContent:
        """The place names no commit that can be asked for later: the contents of the files are the revision."""
        place, revision = self._reference.place, self._reference.revision
        listed = self._told(lambda: self._api.list_repo_files(place, "model", revision=revision))
        files = tuple(
            RemoteFile(one.path, one.size, sha256=one.sha256) for one in listed if one.type != "tree"
        )
        text = "".join(f"{one.name}\0{one.size}\0{one.sha256}\n" for one in sorted(files, key=lambda one: one.name))
        return RemoteContent(hashlib.sha256(text.encode()).hexdigest()[:40], files)

    def fetch(self, file: RemoteFile, target: Path) -> None:
        def work() -> None:
            self._api.download_file(
                self._reference.place, "model", file.name, revision=self._reference.revision,
                local_dir=target.parent if "/" not in file.name else target.parents[file.name.count("/")],
                cache_dir=target.parent / ".locks", expected_sha256=file.sha256, file_size=file.size,
            )  # fmt: skip

        self._told(work)

    def _told(self, work: Callable[[], T]) -> T:
        """Raises what its errors mean."""
        from modelscope_hub import errors

        what = str(self._reference)
        try:
            return work()
        except errors.FileIntegrityError:
            told = f"{what}: the content is not what {self.host} said: it changed meanwhile, or came damaged"
            raise JobFailed(told, 502) from None
        except errors.APIError as error:
            status = int(getattr(error, "status_code", None) or 502)
            if status == 429 or status >= 500:  # the library has waited and asked again already
                raise JobFailed(f"{what}: {self.host} answers {status}, and did so again and again", 502) from None
            raise failed_by_status(status, what, self.host, _SECRET) from None
        except errors.NetworkError as error:
            raise Transient(f"{what}: {self.host} cannot be reached ({type(error).__name__})") from None
