"""The Hugging Face hub, or one that speaks as it does (HF_ENDPOINT), through its own library.

``hf_hub_download`` begins a file anew in every process (its temporary name is new each time), so the file is ours, and
the library's ``http_get`` goes on in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from config.values.references import Reference
from worker.jobs.job import JobFailed
from worker.jobs.kinds import require
from worker.sources.remote import PART, RemoteContent, RemoteFile, Transient, failed_by_status

_SECRET = "HF_TOKEN, or the file that `hf auth login` writes, says who asks"

T = TypeVar("T")


class HubSource:
    """See `worker.sources.remote.RemoteSource`."""

    def __init__(self, reference: Reference) -> None:
        require("hub", "huggingface_hub")
        self._reference, self._commit = reference, ""
        self._endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        self.host = urlsplit(self._endpoint).hostname or self._endpoint

    def look(self) -> RemoteContent:
        place, revision = self._reference.place, self._reference.revision
        info = self._told(lambda: self._api().model_info(place, revision=revision, files_metadata=True, timeout=30))
        files = tuple(
            RemoteFile(
                one.rfilename, one.size, sha256=one.lfs.sha256 if one.lfs else None,
                git_blob=None if one.lfs else one.blob_id,
            )
            for one in info.siblings or ()
        )
        self._commit = str(info.sha)
        return RemoteContent(self._commit, files)

    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint)

    def fetch(self, file: RemoteFile, target: Path) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(self._reference.place, file.name, revision=self._commit, endpoint=self._endpoint)
        partial = target.with_name(target.name + PART)

        def work() -> None:
            with partial.open("ab") as stream:
                there = stream.tell()
                if file.size is not None and there > file.size:
                    stream.truncate(there := 0)
                stream.seek(there)
                # Compressed on the way, its ranges and its length would be those of something else.
                headers = {**build_hf_headers(), "accept-encoding": "identity"}
                http_get(url, stream, resume_size=there, headers=headers, expected_size=file.size)

        self._told(work)
        partial.rename(target)

    def _told(self, work: Callable[[], T]) -> T:
        """Raises what its errors mean."""
        import httpx2
        from huggingface_hub import errors

        what = str(self._reference)
        try:
            return work()
        except errors.OfflineModeIsEnabled:
            raise JobFailed(f"{what} is not here yet, and HF_HUB_OFFLINE is set", 409) from None
        except errors.GatedRepoError:
            raise JobFailed(f"{what} is gated: accept its terms at {self.host}, then {_SECRET}", 403) from None
        except errors.RevisionNotFoundError:
            raise JobFailed(f"{what}: {self.host} has no such revision of it", 404) from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            after = error.response.headers.get("retry-after", "")
            wait = float(after) if after.isdecimal() else None
            raise failed_by_status(status, what, self.host, _SECRET, wait) from None
        except errors.HFValidationError as error:
            raise JobFailed(f"{what}: {error}", 400) from None
        except (httpx2.TransportError, TimeoutError) as error:
            raise Transient(f"{what}: {self.host} cannot be reached ({type(error).__name__}: {error})") from None
        except OSError as error:
            if error.errno is None and "Consistency check failed" in str(error):
                raise Transient(f"{what}: the connection to {self.host} broke off") from None
            raise
