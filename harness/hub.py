"""The Hugging Face hub: downloading a data set, identifying a model's weights, explaining failures."""

from __future__ import annotations

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
    """The folder of a data set's snapshot; missing files are downloaded unless offline mode is on.

    Args:
        repository: ``OWNER/NAME``.
        local_only: Use only the cache on this machine.

    Raises:
        UserError: The data set is not available; the message gives the reason and the fix.
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
    """SHA-256 of each safetensors file of a model, from the hub or else from its cache on this machine.

    Raises:
        UserError: The model is not available, or has no safetensors file.
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
    """The same from the cache, whose files link to blobs named by their SHA-256; {} if one is missing."""
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
    blobs = {file.name: file.resolve() for file in files}
    return {name: blob.name if _SHA256.fullmatch(blob.name) else sha256_file(blob) for name, blob in blobs.items()}


def unavailable(error: BaseException, repository: str, kind: Kind) -> UserError:
    """The reason why a repository is not available, and the fix."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    fetch = f"hf download {repository}" + (" --repo-type dataset" if kind == "dataset" else "")
    causes = list(_causes(error))

    def among(*types: type[BaseException]) -> bool:
        return any(isinstance(one, types) for one in causes)

    if among(errors.GatedRepoError):
        why = f"access is restricted. Accept its terms at {page}, log in with `hf auth login`, and run again"
    elif among(errors.RepositoryNotFoundError):
        why = f"it does not exist or is private ({page}). Check the name, or log in with `hf auth login`"
    elif constants.HF_HUB_OFFLINE:
        why = (
            f"offline mode is on (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE) and the cache {constants.HF_HUB_CACHE} is "
            f"incomplete. Unset it, or download the {kind} on a machine with access ({fetch}) and name its folder"
        )
    elif among(errors.LocalEntryNotFoundError, ConnectionError, TimeoutError, errors.HfHubHTTPError):
        why = (
            f"the hub cannot be reached and the cache {constants.HF_HUB_CACHE} is incomplete. Download the {kind} on a "
            f"machine with access ({fetch}) and name its folder"
        )
    else:
        why = (
            f"{type(error).__name__}: {str(error).strip() or 'no reason given'}. Name a local folder instead ({fetch})"
        )
    return UserError(f"{kind} {repository}: {why}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
