"""Resolving the name of a data source to a folder and a split."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from harness.data import prepare_vsibench as vsibench
from harness.data import vsi100k
from harness.data.layout import offers, split_of, splits_in
from harness.data.reader import read_manifest
from harness.errors import UserError, closest, unknown_name
from harness.hub import commit_of, fetch_dataset
from harness.io import refuse_endless

_WORLD = "world:"
_WORLD_NAME = re.compile(r"(?P<split>[^@]+)(@(?P<scenes>[1-9]\d*))?")
_HUB = "hub:"
_HUB_IDS = (vsibench.HUB_ID, vsi100k.HUB_ID)
_EXPECTED = (
    "Expected a folder with {split}.jsonl or {split}.parquet, such a file, a hub data set (hub:OWNER/NAME), or "
    "world:train, world:test, ..."
)
_MADE_BY = {
    "vsi-bench": "`harness data prepare vsibench --from nyu-visionx/VSI-Bench`",
    "vsi-100k": "`harness data prepare vsi-100k --from OPPOer/VSI-100k --scannet DIR`",
}
"""Folders where the presets expect the paper's data sets, and the commands that create them."""

Progress = Callable[[int, int], None]
"""Called with the number of scenes done and their total."""


def resolve_source(
    name: str, cache: Path, *, workers: int = 2, progress: Progress | None = None, default: str = "test"
) -> tuple[Path, str]:
    """Find a data source; build the embedded world or prepare VSI-Bench on first use.

    Args:
        name: ``world:SPLIT`` or ``world:SPLIT@SCENES`` (``world:train_free`` is ``world:train`` with answers
            in words and no options); a data set's folder, optionally with ``#SPLIT``; a ``.jsonl`` or ``.parquet``
            file; or ``hub:OWNER/NAME``, optionally with ``@REVISION`` and ``#SPLIT`` (``hub:`` is optional for the
            two published data sets).
        cache: Folder for generated and prepared data.
        workers: Processes that render the world.
        progress: Called as scenes are rendered or prepared.
        default: The split to use when the name has none; not needed for a folder with a single split.

    Returns:
        The folder (or the file) and the split, as :func:`harness.data.reader.read_dataset` takes them.

    Raises:
        UserError: The path does not exist, or the split is unknown or ambiguous.
    """
    if name.startswith(_WORLD):
        from harness.world.build import build_split

        of, root, scenes = _world_place(name, cache)
        return build_split(of, root, scenes=scenes, workers=workers, progress=progress), of
    if repository := _hub_id(name):
        folder = _fetched(repository, Path(cache), workers, progress)
        name = str(folder) + name[len(name.partition("#")[0]) :]
    path, split = Path(name), ""
    if not path.exists():
        head, _, split = name.rpartition("#")
        path = Path(head) if head else path
    if not path.exists():
        made = _MADE_BY.get(path.name)
        raise UserError(f"`{name}`: no such folder or file. {f'{made} creates it.' if made else _EXPECTED}")
    path = path.resolve()
    refuse_endless(path)
    if path.is_file():
        if path.suffix not in (".jsonl", ".parquet") or split:
            raise UserError(f"`{name}`: a file must end in .jsonl or .parquet and cannot have a #SPLIT. {_EXPECTED}")
        return path, split_of(path)
    found = splits_in(path)
    if split and offers(path, split):
        return path, split
    if split and found:
        raise UserError(f"`{name}`: no split `{split}` (given by --split, data.split or #SPLIT){closest(split, found)}")
    if not split and default in found:
        return path, default
    if len(found) != 1:
        raise UserError(
            f"`{name}`: it has the splits {', '.join(found)}; choose one, for example {name}#{found[0]}"
            if found
            else f"`{name}`: the folder contains no data set. {_EXPECTED}"
        )
    return path, found[0]


def is_ready(name: str, cache: Path) -> bool:
    """Whether :func:`resolve_source` would have nothing to build or download. Folders and files are always ready.

    Raises:
        UserError: The name of a world source is invalid.
    """
    if repository := _hub_id(name):
        try:
            prepared = read_manifest(_hub_folder(repository, Path(cache)))
            return bool(prepared or fetch_dataset(repository, local_only=True))
        except UserError:
            return False
    if not name.startswith(_WORLD):
        return True
    from harness.world.build import is_built

    split, root, scenes = _world_place(name, cache)
    return is_built(split, root, scenes)


def source_commit(name: str, cache: Path) -> str | None:
    """The commit of the hub data set that a source is read from; None for other sources.

    Raises:
        UserError: It is not on this machine.
    """
    if not (repository := _hub_id(name)):
        return None
    folder = _hub_folder(repository, Path(cache))
    prepared = read_manifest(folder)
    return commit_of(Path(prepared.source) if prepared else fetch_dataset(repository, local_only=True))


def world_split(name: str) -> str | None:
    """The split of the embedded world that a source draws its rooms from; None for other sources."""
    match = _WORLD_NAME.fullmatch(name.removeprefix(_WORLD)) if name.startswith(_WORLD) else None
    return match["split"].removesuffix("_free") if match else None


def _hub_id(name: str) -> str:
    """The hub data set that a source names, or an empty string. A local folder of that name takes precedence."""
    head = name.partition("#")[0]
    if name.startswith(_HUB):
        return head.removeprefix(_HUB)
    return head if head.partition("@")[0] in _HUB_IDS and not Path(head).exists() else ""


def _hub_folder(repository: str, cache: Path) -> Path:
    return cache / "hub" / repository.replace("/", "--")


def _fetched(repository: str, cache: Path, workers: int, progress: Progress | None) -> Path:
    if repository.partition("@")[0] != vsibench.HUB_ID:
        return fetch_dataset(repository)
    folder = _hub_folder(repository, cache)
    if not read_manifest(folder):

        def show(what: str, done: int, total: int) -> None:
            if progress is not None:
                progress(done, total)

        vsibench.prepare_vsibench(fetch_dataset(repository), folder, workers=workers, progress=show)
    return folder


def _world_place(name: str, cache: Path) -> tuple[str, Path, int | None]:
    """Split, folder and number of scenes (None: all of the split) of a world source."""
    match = _WORLD_NAME.fullmatch(name.removeprefix(_WORLD))
    if match is None:
        raise UserError(f"`{name}`: write world:SPLIT or world:SPLIT@SCENES, for example world:test@50")
    from harness.world.build import SPLITS
    from harness.world.scenes import WORLD_VERSION

    split, scenes = match["split"], match["scenes"]
    known = [f"{base}{form}" for base in SPLITS for form in ("", "_free")]
    if split not in known:
        raise unknown_name(name, split, known)
    root = Path(cache) / "world" / (f"{WORLD_VERSION}-{scenes}-scenes" if scenes else WORLD_VERSION)
    return split, root, int(scenes) if scenes else None
