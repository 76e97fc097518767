"""Extracting videos from zip archives.

Members are checked before anything is written, every file is complete or absent, and an interrupted extraction resumes.
"""

from __future__ import annotations

import errno
import lzma
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from harness.errors import UserError, first_few
from harness.io import atomic_file, remove_leftovers

_DRIVE = re.compile(r"[A-Za-z]:")
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError)
"""What zipfile and its decompressors raise about damaged archives, besides an OSError from a wrong offset (EINVAL)."""
_SPARE_BYTES = 2**28
"""Disk space that must remain free after extraction."""


def extract_members(archive: Path, targets: Mapping[str, Path]) -> Iterator[Path]:
    """Extract the members whose paths end as wanted and ignore the others.

    A target that exists with the member's size is skipped: files are renamed into place only after their checksum
    was verified.

    Args:
        archive: A zip file.
        targets: By file name or the end of a path (``scene0011_00.mp4``, ``16_frame/a.mp4``), the member's target.

    Yields:
        Each target once it exists.

    Raises:
        UserError: The archive is truncated or damaged, a member is a link, is encrypted or empty, occurs twice or would
            be written outside its folder, or the disk is too full. All members are checked before any is extracted.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            found = _wanted(archive, opened, targets)
            sizes = {name: targets[name].stat().st_size for name in found if targets[name].is_file()}
            todo = {name: one for name, one in found.items() if sizes.get(name) != one.file_size}
            if changed := [str(targets[name]) for name in todo if os.path.lexists(targets[name])]:
                raise UserError(
                    f"`{first_few(changed, '`, `')}`: not the video of {archive}, so it is left alone. Move it away, "
                    "or choose another folder with --out"
                )
            for folder in {targets[name].parent for name in todo}:
                remove_leftovers(folder)
            _check_space(archive, todo, targets)
            for name, member in found.items():
                if name in todo:
                    with atomic_file(targets[name]) as file, opened.open(member) as source:
                        shutil.copyfileobj(source, file, 2**20)  # its end verifies the checksum
                yield targets[name]
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the disk's or a right's
            raise
        raise UserError(
            f"{archive}: not a complete zip archive ({archive.stat().st_size:,} bytes; {error}); the download was "
            "probably interrupted. Download it again and rerun the command: extracted files are kept"
        ) from error


def _wanted(archive: Path, opened: zipfile.ZipFile, targets: Mapping[str, Path]) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for member in opened.infolist():
        if why := _hostile(member):
            raise UserError(
                f"{archive}: its member {member.orig_filename!r} {why}; nothing was extracted. Download the archive "
                "from its publisher"
            )
        name = _wanted_name(member.filename, targets)
        if name is None or member.is_dir() or member.filename.startswith("__MACOSX/"):
            continue
        if member.flag_bits & 1:
            raise UserError(f"{archive}: its member {member.filename!r} is encrypted; decrypt the archive first")
        if not member.file_size:
            raise UserError(f"{archive}: its member {member.filename!r} is empty; download the archive again")
        if name in found:
            raise UserError(f"{archive}: holds {name} twice ({found[name].filename}, {member.filename}); remove one")
        found[name] = member
    return found


def _wanted_name(member: str, targets: Mapping[str, Path]) -> str | None:
    """The longest end of a member's path that is wanted."""
    parts = PurePosixPath(member).parts
    ends = ("/".join(parts[at:]) for at in range(len(parts)))
    return next((end for end in ends if end in targets), None)


def _hostile(member: zipfile.ZipInfo) -> str:
    """Why a member may not be extracted; empty when it may."""
    name = member.orig_filename
    if not member.filename:
        return "has no name"
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or _DRIVE.match(name) or ".." in parts or "\0" in name:
        return "would be written outside the folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    return ""


def _check_space(archive: Path, todo: Mapping[str, zipfile.ZipInfo], targets: Mapping[str, Path]) -> None:
    need = sum(member.file_size for member in todo.values())
    if not need:
        return
    folder = next(iter(targets.values())).parent
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if need + _SPARE_BYTES > free:
        raise UserError(
            f"{archive}: its videos need {need / 2**30:.1f} GiB at {folder}, where {free / 2**30:.1f} GiB are free; "
            "free some space or choose another folder with --out"
        )
