"""The Hugging Face hub: fetching a data set, identifying a model's weights, and saying why either cannot be had."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from harness.errors import UserError
from harness.io import read_json, sha256_file

Kind = Literal["model", "dataset"]

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_DATA_FILES = ["*.jsonl", "*.json", "*.parquet", "*.txt", "*.zip", "*.mp4"]
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_dataset(repository: str, *, local_only: bool = False) -> Path:
    """The folder of a data set's snapshot; what the hub's cache lacks is fetched, unless offline mode is on.

    Args:
        repository: ``OWNER/NAME``.
        local_only: Look into the cache on this machine only.

    Raises:
        UserError: It cannot be had; the message says why and what to do.
    """
    from huggingface_hub import snapshot_download

    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"`hub:{repository}`: write hub:OWNER/NAME")
    try:
        return Path(
            snapshot_download(repository, repo_type="dataset", allow_patterns=_DATA_FILES, local_files_only=local_only)
        )
    except Exception as error:
        raise unavailable(error, repository, "dataset") from error


def weight_digests(repository: str) -> dict[str, str]:
    """SHA-256 of each safetensors file of a model: what the hub says, else what its cache on this machine holds.

    Raises:
        UserError: The model cannot be had, or has no safetensors.
    """
    from huggingface_hub import HfApi

    try:
        listed = HfApi().model_info(repository, files_metadata=True).siblings or []
        found = {one.rfilename: one.lfs.sha256 for one in listed if one.lfs and one.rfilename.endswith(".safetensors")}
    except Exception as error:
        found = _cached_digests(repository)
        if not found:
            raise unavailable(error, repository, "model") from error
    if not found:
        raise UserError(f"`--model {repository}`: it has no .safetensors file; only safetensors are loaded")
    return dict(sorted(found.items()))


def _cached_digests(repository: str) -> dict[str, str]:
    """The same from the cache, whose files are links to blobs named by their SHA-256; {} when one is missing."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json")
    if not isinstance(config, str):
        return {}
    folder = Path(config).parent
    index = folder / "model.safetensors.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    files = [folder / name for name in names]
    if not all(file.is_file() for file in files):
        return {}
    return {file.name: _blob_digest(file) for file in files}


def _blob_digest(file: Path) -> str:
    blob = file.resolve().name
    return blob if _SHA256.fullmatch(blob) else sha256_file(file)


def unavailable(error: BaseException, repository: str, kind: Kind) -> UserError:
    """Say why a repository cannot be had, and the fix."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    fetch = f"hf download {repository}" + (" --repo-type dataset" if kind == "dataset" else "")
    causes = list(_causes(error))

    def among(*types: type[BaseException]) -> bool:
        return any(isinstance(one, types) for one in causes)

    if among(errors.GatedRepoError):
        why = f"access is restricted. Accept its terms at {page}, log in with `hf auth login`, and run again"
    elif among(errors.RepositoryNotFoundError):
        why = f"the hub has none of that name, or it is private ({page}). Check the name, or log in: `hf auth login`"
    elif is_offline():
        why = (
            f"offline mode is on (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE) and the cache {constants.HF_HUB_CACHE} does "
            f"not hold it whole. Unset it, or fetch it where the hub can be reached ({fetch}) and give the folder"
        )
    elif among(errors.LocalEntryNotFoundError, ConnectionError, TimeoutError, errors.HfHubHTTPError):
        why = (
            f"the hub cannot be reached and the cache {constants.HF_HUB_CACHE} does not hold it whole. Fetch it where "
            f"the hub can be reached ({fetch}) and give the folder"
        )
    else:
        why = (
            f"{type(error).__name__}: {str(error).strip() or 'no reason given'}. Give a local folder instead ({fetch})"
        )
    return UserError(f"{kind} {repository}: {why}")


def is_offline() -> bool:
    """Whether offline mode is on."""
    from huggingface_hub import constants

    asked = any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in _OFFLINE)
    return bool(asked or constants.HF_HUB_OFFLINE)


_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
