"""The Hugging Face hub: downloading data sets and models, identifying a model's files, explaining failures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from harness.errors import UserError, first_few
from harness.io import read_json, sha256_file

Kind = Literal["model", "dataset"]

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
MODEL_SETTINGS = (
    "config.json",
    "config.*.json",  # of another release of transformers; config.json may name it
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.*.json",  # likewise, named by tokenizer_config.json
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
"""The files of a model, besides its weights, that decide what it is asked and what it answers."""

_NAME = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")
_DATA_FILES = ["*.jsonl", "*.json", "*.parquet", "*.txt", "*.zip", "*.mp4"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubName(NamedTuple):
    """A repository of the hub and which of its revisions is meant: a commit, branch or tag; None is the newest."""

    repository: str
    revision: str | None


def hub_name(text: str) -> HubName | None:
    """Read ``OWNER/NAME`` or ``OWNER/NAME@REVISION``; None if a text is neither."""
    found = _NAME.fullmatch(text)
    return HubName(found["repository"], found["revision"]) if found else None


def commit_of(folder: Path) -> str | None:
    """The commit of a snapshot in the hub's cache; None for other folders."""
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None


def fetch_dataset(name: str, *, local_only: bool = False) -> Path:
    """The folder of a data set's snapshot; missing files are downloaded unless offline mode is on.

    Args:
        name: ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.
        local_only: Use only the cache on this machine.

    Raises:
        UserError: The data set is not available; the message gives the reason and the fix.
    """
    from huggingface_hub import snapshot_download

    if (at := hub_name(name)) is None:
        raise UserError(f"`hub:{name}`: write hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    try:
        found = snapshot_download(
            at.repository,
            revision=at.revision,
            repo_type="dataset",
            allow_patterns=_DATA_FILES,
            local_files_only=local_only,
        )
    except Exception as error:
        raise unavailable(error, name, "dataset") from error
    return Path(found)


def model_digests(location: str) -> dict[str, str]:
    """SHA-256 of each file of a model that decides a number: equal on the hub, in its cache and in a folder.

    Weights are the files that are read, not copies beside them. The digests of those that are not on this machine come
    from the hub.

    Args:
        location: A folder or a hub id, perhaps with a revision.

    Raises:
        UserError: The model is not available, or has no safetensors file.
    """
    folder = Path(location)
    if not folder.is_dir():
        folder = fetch_settings(location)
        weights = _listed_digests(location, folder)
    else:
        if lacking := [name for name in weight_files(folder) if not (folder / name).is_file()]:
            raise UserError(f"`--model {location}`: the folder lacks {first_few(lacking)}. Fetch the folder again")
        weights = {name: sha256_file(folder / name) for name in weight_files(folder)}
    settings = sorted(path for name in MODEL_SETTINGS for path in folder.glob(name))
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in settings} | weights


def weight_files(folder: Path) -> list[str]:
    """The names of the files that hold a model's weights: one, or those of its index. They need not exist.

    Raises:
        UserError: There is neither the file nor an index, or the index cannot be read.
    """
    index = folder / WEIGHTS_INDEX
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not index.is_file():
        raise UserError(
            f"`{folder}`: it has no {WEIGHTS} and no {WEIGHTS_INDEX}; only safetensors are loaded. Save the model "
            "again with save_pretrained"
        )
    names = set(indexed_tensors(index).values())
    if outside := sorted(name for name in names if Path(name).name != name):
        raise UserError(f"`{index}`: names a file outside its folder: {outside[0]}. Fetch or save the model again")
    return sorted(names)


def indexed_tensors(index: Path) -> dict[str, str]:
    """The file of each tensor, as a model's index has it.

    Raises:
        UserError: It is not an index of tensors.
    """
    document = read_json(index)
    found = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise UserError(f"`{index}`: `weight_map` names no files. Fetch or save the model again")
    return found


def fetch_model(name: str) -> Path:
    """The folder of a model's snapshot with its settings and weights; what is missing is downloaded.

    Raises:
        UserError: The model is not available; the message gives the reason and the fix.
    """
    from huggingface_hub import errors, snapshot_download

    folder = fetch_settings(name)
    weights = weight_files(folder) if (folder / WEIGHTS_INDEX).is_file() else [WEIGHTS]
    try:
        snapshot_download(_model(name).repository, revision=folder.name, allow_patterns=weights)
    except Exception as error:
        raise unavailable(error, name, "model") from error
    if absent := [file for file in weights if not (folder / file).is_file()]:
        raise unavailable(errors.LocalEntryNotFoundError(absent[0]), name, "model")
    return folder


def cached_model(name: str) -> Path | None:
    """The folder of a model's snapshot in the cache on this machine, if its weights are there."""
    from huggingface_hub import try_to_load_from_cache

    at = _model(name)
    config = try_to_load_from_cache(at.repository, "config.json", revision=at.revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    whole = any((folder / name).is_file() for name in (WEIGHTS, WEIGHTS_INDEX))
    return folder if whole and all((folder / file).is_file() for file in weight_files(folder)) else None


def fetch_settings(name: str) -> Path:
    """The folder of a model's snapshot with all its files but the weights; what is missing is downloaded.

    Raises:
        UserError: The model is not available; the message gives the reason and the fix.
    """
    from huggingface_hub import snapshot_download

    at, wanted = _model(name), [*MODEL_SETTINGS, WEIGHTS_INDEX]
    try:
        return Path(snapshot_download(at.repository, revision=at.revision, allow_patterns=wanted))
    except Exception as error:
        raise unavailable(error, name, "model") from error


def _model(name: str) -> HubName:
    if (at := hub_name(name)) is None:
        raise UserError(f"`--model {name}`: write OWNER/NAME or OWNER/NAME@REVISION")
    return at


def _listed_digests(name: str, folder: Path) -> dict[str, str]:
    """Of a model's weight files, from the hub or else from its cache, whose files link to blobs named by digest."""
    from huggingface_hub import HfApi

    try:
        listed = HfApi().model_info(_model(name).repository, revision=folder.name, files_metadata=True).siblings or []
    except Exception as error:
        if not (whole := cached_model(name)):
            raise unavailable(error, name, "model") from error
        blobs = {file: (whole / file).resolve() for file in weight_files(whole)}
        return {file: blob.name if _SHA256.fullmatch(blob.name) else sha256_file(blob) for file, blob in blobs.items()}
    digests = {one.rfilename: one.lfs.sha256 for one in listed if one.lfs}
    names = [WEIGHTS] if WEIGHTS in digests else weight_files(folder)
    if absent := [file for file in names if file not in digests]:
        raise UserError(f"`--model {name}`: the hub has no {absent[0]}, which its {WEIGHTS_INDEX} names")
    return {file: digests[file] for file in names}


def unavailable(error: BaseException, name: str, kind: Kind) -> UserError:
    """The reason why a repository, or a revision of it, is not available, and the fix."""
    from huggingface_hub import constants, errors

    repository, revision = hub_name(name) or HubName(name, None)
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    fetch = f"hf download {repository}" + (" --repo-type dataset" if kind == "dataset" else "")
    fetch += f" --revision {revision}" if revision else ""
    causes = list(_causes(error))

    def among(*types: type[BaseException]) -> bool:
        return any(isinstance(one, types) for one in causes)

    if among(errors.GatedRepoError):
        why = f"access is restricted. Accept its terms at {page}, log in with `hf auth login`, and run again"
    elif among(errors.RepositoryNotFoundError):
        why = f"it does not exist or is private ({page}). Check the name, or log in with `hf auth login`"
    elif among(errors.RevisionNotFoundError):
        why = f"it has no revision {revision}. Name a commit, branch or tag of it ({page}/commits), or none"
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
    return UserError(f"{kind} {name}: {why}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
