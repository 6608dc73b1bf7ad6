"""Where things are published, each through the library that belongs to it. Tokens come from the environment or from
the files that these libraries know."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from config.values.references import Reference
from worker.jobs.job import JobFailed
from worker.jobs.kinds import require
from worker.sources import s3
from worker.sources.remote import Transient, failed_by_status


class Destination(Protocol):
    def send(self, folder: Path, on_sent: Callable[[int], None]) -> str:
        """Puts the files of ``folder`` there, in place of those of the same names, and returns where that is. Tells
        bytes as they are sent, where its library does. Raises JobFailed, `Transient`, OSError."""


class HubDestination:
    """The Hugging Face hub, or one that speaks as it does (HF_ENDPOINT). All files come in one commit."""

    def __init__(self, reference: Reference, public: bool) -> None:
        require("hub", "huggingface_hub")
        self._reference, self._public = reference, public
        self._endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")

    def send(self, folder: Path, on_sent: Callable[[int], None]) -> str:
        from huggingface_hub import HfApi, errors

        api, place = HfApi(endpoint=self._endpoint), self._reference.place
        host = urlsplit(self._endpoint).hostname or self._endpoint
        secret = "HF_TOKEN, or the file that `hf auth login` writes, says who asks, who must be allowed to"
        try:
            api.create_repo(place, private=not self._public, exist_ok=True)
            revision = self._reference.revision
            if revision is not None:
                api.create_branch(place, branch=revision, exist_ok=True)
            done = api.upload_folder(
                repo_id=place, folder_path=folder, revision=revision, commit_message=f"Upload {folder.name}"
            )
        except errors.HfHubHTTPError as error:
            raise failed_by_status(error.response.status_code, str(self._reference), host, secret) from None
        except errors.HFValidationError as error:
            raise JobFailed(f"{self._reference}: {error}", 400) from None
        except errors.OfflineModeIsEnabled:
            raise JobFailed("HF_HUB_OFFLINE is set: nothing is sent anywhere", 409) from None
        except ConnectionError as error:
            raise Transient(f"{self._reference}: {host} cannot be reached ({type(error).__name__})") from None
        on_sent(sum(file.stat().st_size for file in folder.iterdir()))
        return str(done.commit_url)


class ModelScopeDestination:
    """ModelScope, or one that speaks as it does (MODELSCOPE_ENDPOINT)."""

    def __init__(self, reference: Reference, public: bool) -> None:
        require("modelscope", "modelscope_hub")
        self._reference, self._public = reference, public
        self._endpoint = (os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn").rstrip("/")

    def send(self, folder: Path, on_sent: Callable[[int], None]) -> str:
        os.environ.setdefault("MODELSCOPE_LOG_LEVEL", "40")
        from modelscope_hub import HubApi, errors

        api, place = HubApi(endpoint=self._endpoint), self._reference.place
        host = urlsplit(self._endpoint).hostname or self._endpoint
        secret = "MODELSCOPE_API_TOKEN, or the file of `modelscope login`, says who asks, who must be allowed to"
        try:
            if not api.repo_exists(place, "model"):
                api.create_repo(place, "model", visibility="public" if self._public else "private")
            api.upload_folder(
                place, "model", folder, revision=self._reference.revision, commit_message=f"Upload {folder.name}",
                use_cache=False, disable_tqdm=True,
            )  # fmt: skip
        except errors.APIError as error:
            status = int(getattr(error, "status_code", None) or 502)
            raise failed_by_status(status, str(self._reference), host, secret) from None
        except errors.NetworkError as error:
            raise Transient(f"{self._reference}: {host} cannot be reached ({type(error).__name__})") from None
        except errors.HubError as error:
            raise JobFailed(f"{self._reference}: {error}", 502) from None
        on_sent(sum(file.stat().st_size for file in folder.iterdir()))
        return f"{self._endpoint}/models/{place}"


class BucketDestination:
    """S3, or what speaks as it does. The configuration, by which others find it, comes last."""

    def __init__(self, reference: Reference) -> None:
        require("s3", "boto3")
        self._reference = reference

    def send(self, folder: Path, on_sent: Callable[[int], None]) -> str:
        bucket, _, prefix = self._reference.place.partition("/")

        files = sorted(folder.iterdir(), key=lambda file: (file.name.endswith("config.json"), file.name))

        def work() -> None:
            client = s3.client()
            for file in files:
                key = "/".join(filter(None, (prefix, file.name)))
                _uploaded(client, file, bucket, key, on_sent)

        s3.told(str(self._reference), "S3", work)
        return str(self._reference)


def _uploaded(client: Any, file: Path, bucket: str, key: str, on_sent: Callable[[int], None]) -> None:
    """Raises what the errors below those of its transfer are."""
    from boto3.exceptions import S3UploadFailedError

    try:
        client.upload_file(str(file), bucket, key, ExtraArgs={"ChecksumAlgorithm": "SHA256"}, Callback=on_sent)
    except S3UploadFailedError as error:
        raise (error.__context__ or error) from None
