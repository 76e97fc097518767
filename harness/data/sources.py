"""From the name of a data source to a folder and a split."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from harness.data.reader import split_of, splits_in
from harness.errors import UserError, unknown_name

_WORLD = "world:"
_WORLD_NAME = re.compile(r"(?P<split>[^@]+)(@(?P<scenes>[1-9]\d*))?")
_EXPECTED = "Expected a folder with {split}.jsonl or {split}.parquet, such a file, or world:train, world:test, ..."

Progress = Callable[[int, int], None]
"""Called with scenes done and scenes in all."""


def resolve_source(
    name: str, cache: Path, *, workers: int = 2, progress: Progress | None = None, default: str = "test"
) -> tuple[Path, str]:
    """Find a data source, building the embedded world when it is asked for.

    Args:
        name: ``world:SPLIT`` or ``world:SPLIT@SCENES`` (``world:train_free`` is ``world:train`` with answers
            in words and no options); a data set's folder, optionally with ``#SPLIT``; or a ``.jsonl`` or
            ``.parquet`` file.
        cache: Folder for generated data.
        workers: Processes that render the world.
        progress: Told how far the rendering is.
        default: The split of a folder that names none; a folder with a single split needs neither.

    Returns:
        The folder (or the file) and the split, as :func:`harness.data.reader.read_dataset` takes them.

    Raises:
        UserError: The path does not exist, or the split is unknown or not decided.
    """
    if name.startswith(_WORLD):
        return _world(name, cache, workers, progress)
    path, split = Path(name), ""
    if not path.exists():
        head, _, split = name.rpartition("#")
        path = Path(head) if head else path
    if not path.exists():
        raise UserError(f"`{name}`: no such folder or file. {_EXPECTED}")
    path = path.resolve()
    if path.is_file():
        if path.suffix not in (".jsonl", ".parquet") or split:
            raise UserError(f"`{name}`: a file must end in .jsonl or .parquet and names its own split. {_EXPECTED}")
        return path, split_of(path)
    found = splits_in(path)
    if split and split not in found:
        raise unknown_name(name, split, found)
    if split or default in found:
        return path, split or default
    if len(found) != 1:
        raise UserError(
            f"`{name}`: splits {', '.join(found)} are there; write {name}#{found[0]}, for example"
            if found
            else f"`{name}`: the folder holds no data set. {_EXPECTED}"
        )
    return path, found[0]


def is_ready(name: str, cache: Path) -> bool:
    """Whether :func:`resolve_source` has nothing to build; writes nothing. Other sources than the world are ready.

    Raises:
        UserError: The name of a world source is wrong.
    """
    if not name.startswith(_WORLD):
        return True
    from harness.world.build import is_built

    split, root, scenes = _world_place(name, cache)
    return is_built(split, root, scenes)


def _world(name: str, cache: Path, workers: int, progress: Progress | None) -> tuple[Path, str]:
    from harness.world.build import build_split

    split, root, scenes = _world_place(name, cache)
    return build_split(split, root, scenes=scenes, workers=workers, progress=progress), split


def _world_place(name: str, cache: Path) -> tuple[str, Path, int | None]:
    """Split, folder and number of scenes (None: the split's own) of a world source."""
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
