"""A folder of results: what was written there is listed in it, and nothing else in it is replaced or removed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

from harness.errors import UserError, first_few
from harness.io import (
    append_lines,
    parse_json,
    refuse_special,
    remove_leftovers,
    sha256_file,
    temporary_name,
    whole_lines,
    write_bytes,
    write_text,
)

LISTED = ".harness-files"
"""In the folder: a line for each file that was written there, with its digest. A file may have several lines: the
digest is written before the file, so that after a kill the old and the new content are both known."""


def inside(folder: Path, name: str) -> Path:
    """``folder/name``, a file to be written or removed; on the way from the folder no link is followed.

    The folder itself may be a link: that is its user's choice.

    Raises:
        UserError: The name leads out of the folder, or a part of it is a link, or a folder where a file should be or
            the other way round.
    """
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise UserError(f"`{folder / name}`: it is not in the folder {folder}, so it is neither written nor removed")
    path = folder
    for part in PurePosixPath(name).parts[:-1]:
        path /= part
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            found = "a symbolic link, which is not followed" if path.is_symlink() else "a file"
            raise UserError(
                f"`{path}`: there is {found} where a folder is to be written; move it or choose another folder"
            )
    path = folder / name
    refuse_special(path)
    return path


def refuse_links(root: Path, name: str, besides: Iterable[str] = ()) -> None:
    """Refuse to work in the folder ``root/name`` if it is a link or a folder below it is one.

    Args:
        root: May itself be a link.
        name: May be missing.
        besides: Names of folders in it that are not looked into.

    Raises:
        UserError: There is a link; it is named.
    """
    inside(root, f"{name}/file")
    for at, folders, _ in os.walk(root / name):
        folders[:] = [folder for folder in folders if folder not in besides]
        for folder in folders:
            inside(Path(at), f"{folder}/file")


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, or is there with the same content.

    Raises:
        UserError: A file with other content is there.
    """
    refuse_special(path)
    if path.exists() and path.read_bytes() != data:
        raise UserError(f"`{path}`: there is another file already, which is left alone; choose another name or move it")
    write_bytes(path, data)


class Outputs:
    """What a command writes into a folder; the files of others are left alone, one by one.

    A file is ours if it is listed and still has the listed content.
    """

    def __init__(self, folder: Path, listed: str = LISTED) -> None:
        """Read the list of ``folder``, which may be missing.

        Args:
            folder: The folder.
            listed: The list's name: what :meth:`publish` replaces as a whole has a list of its own.

        Raises:
            UserError: The list is a link.
        """
        refuse_special(folder / listed)
        self.folder, self._list = folder, listed
        self._listed: dict[str, set[str]] = defaultdict(set)
        for line in whole_lines(folder / listed):
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a file that is not listed is not touched
                entry = parse_json(line)
                name = PurePosixPath(entry["file"])
                if not name.is_absolute() and ".." not in name.parts and b"\0" not in os.fsencode(name):
                    self._listed[entry["file"]].add(entry["sha256"])

    @property
    def names(self) -> list[str]:
        """The files that were written, whether or not they are still there."""
        return list(self._listed)

    def check(self, names: Collection[str]) -> None:
        """Refuse, before any work, files that could not be written.

        Raises:
            UserError: One is there and is not ours, or was changed since it was written; a link, a pipe or a folder is
                in its place; or the folder cannot be written.
        """
        if strangers := [str(self.folder / name) for name in names if not self._is_free(name)]:
            raise UserError(
                f"`{first_few(strangers, '`, `')}`: not as the harness wrote it, so it is left alone. Move it away, or "
                "choose another folder with --out"
            )
        for folder in dict.fromkeys((self.folder / name).parent for name in names):
            there = next((at for at in (folder, *folder.parents) if at.exists()), folder)
            if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
                raise UserError(f"`{there}`: cannot be written; choose another folder with --out")

    def has(self, name: str) -> bool:
        """Whether a file is there and is ours."""
        return _content(self.folder / name) in self._listed.get(name, ())

    def write(self, name: str, data: bytes) -> Path:
        """Write one file, unless it has this content already.

        Raises:
            UserError: As :meth:`check`.
        """
        if _content(inside(self.folder, name)) != _digest(data):
            self.check([name])
            write_listed(self.folder, name, data, self._list)
            self._listed[name].add(_digest(data))
        return self.folder / name

    def link(self, name: str, target: Path, *, target_is_directory: bool) -> None:
        """Make ``name`` a symbolic link to ``target``, in place of one that we made.

        Raises:
            UserError: Something else is there.
        """
        path, content = self.folder / name, f"link to {target}"
        if _content(path) == content:
            return
        self.check([name])
        path.parent.mkdir(parents=True, exist_ok=True)
        self._claim({name: content})
        path.unlink(missing_ok=True)
        path.symlink_to(target, target_is_directory=target_is_directory)

    def remove(self, names: Iterable[str]) -> None:
        """Remove those of some files that are ours, and the folders that are empty then."""
        for name in names:
            if self.has(name) and self._is_free(name):
                (self.folder / name).unlink()
                for parent in PurePosixPath(name).parents[:-1]:
                    with contextlib.suppress(OSError):  # not empty
                        (self.folder / parent).rmdir()

    def publish(self, files: Mapping[str, bytes]) -> list[Path]:
        """Make these the folder's files of ours: write what differs and remove the others that are ours.

        All are written under temporary names and then renamed, so that a full disk leaves the old ones. The caller
        holds the folder's lock.

        Returns:
            Their paths.

        Raises:
            UserError: As :meth:`check`; nothing is written then.
        """
        for name in (*files, *self._listed):
            inside(self.folder, name)
            remove_leftovers((self.folder / name).parent)
        new = {name: data for name, data in files.items() if _content(self.folder / name) != _digest(data)}
        self.check(new)
        self._claim({name: _digest(data) for name, data in new.items()})
        with contextlib.ExitStack() as undo:
            staged = {}
            for name, data in new.items():
                staged[name] = temporary_name(self.folder / name)
                undo.callback(staged[name].unlink, missing_ok=True)
                write_bytes(staged[name], data)
            for name, path in staged.items():
                path.replace(self.folder / name)
        self.remove([name for name in self._listed if name not in files])
        kept = [_line(name, _digest(data)) for name, data in files.items() if self.has(name)]
        write_text(self.folder / self._list, "".join(line + "\n" for line in kept))
        return [self.folder / name for name in files]

    def _claim(self, contents: Mapping[str, str]) -> None:
        _list(self.folder / self._list, contents)
        for name, content in contents.items():
            self._listed[name].add(content)

    def _is_free(self, name: str) -> bool:
        """Whether a file may be written or removed: there is none, or it is ours."""
        path = self.folder / name
        if path.is_symlink() and self.has(name):
            inside(self.folder, f"{PurePosixPath(name).parent}/file")
            return True
        return not inside(self.folder, name).exists() or self.has(name)


def write_listed(folder: Path, name: str, data: bytes, listed: str = LISTED) -> None:
    """Write a file of a folder and list it, without a check: for several processes, once :meth:`Outputs.check` is done.

    Raises:
        UserError: Something other than a file is there.
    """
    path = inside(folder, name)
    _list(folder / listed, {name: _digest(data)})
    write_bytes(path, data)


def _list(file: Path, contents: Mapping[str, str]) -> None:
    """Add files to a folder's list, after a line of their own for the half line of a full disk."""
    append_lines(file, ["", *(_line(*one) for one in contents.items())])


def _line(name: str, content: str) -> str:
    return json.dumps({"file": name, "sha256": content}, ensure_ascii=False)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _content(path: Path) -> str:
    """The digest of a file, or where a link leads; empty for anything else."""
    if path.is_symlink():
        return f"link to {path.readlink()}"
    return sha256_file(path) if path.is_file() else ""
