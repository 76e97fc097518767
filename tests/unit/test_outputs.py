"""A folder of results: the user's own files and what lies behind links are never replaced or removed."""

import os
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.io import append_lines, write_text
from harness.outputs import LISTED, Outputs, refuse_links, write_new

FILES = {"scores.md": b"first", "figures/bars.svg": b"<svg/>", "figures/old.pdf": b"%PDF"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an earlier report."""
    Outputs(tmp_path / "out").publish(FILES)
    return tmp_path / "out"


def below(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != LISTED}


def test_ours_are_replaced_and_removed_and_the_users_stay(folder: Path) -> None:
    (folder / "figures" / "mine.pdf").write_bytes(b"mine")
    paths = Outputs(folder).publish({"scores.md": b"second", "figures/bars.svg": b"<svg/>"})
    assert paths == [folder / "scores.md", folder / "figures/bars.svg"]
    assert below(folder) == {"scores.md": b"second", "figures/bars.svg": b"<svg/>", "figures/mine.pdf": b"mine"}
    Outputs(folder).publish({"scores.md": b"third"})
    assert below(folder) == {"scores.md": b"third", "figures/mine.pdf": b"mine"}
    (folder / "figures" / "mine.pdf").unlink()
    Outputs(folder).publish({"a/b/c": b""})
    Outputs(folder).publish({"scores.md": b""})
    assert below(folder) == {"scores.md": b""} and not (folder / "a").exists()


@pytest.mark.parametrize("name", ["scores.md", "pairs.md", "figures/new.svg"])
def test_a_file_of_the_users_is_not_replaced(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"edited")
    before = below(folder)
    for act in (
        lambda: Outputs(folder).check([name]),
        lambda: Outputs(folder).publish({"new": b"", name: b"ours"}),
        lambda: Outputs(folder).write(name, b"ours"),
    ):
        with pytest.raises(UserError, match=rf"{name}`: not as the harness wrote it.*--out"):
            act()
        assert below(folder) == before
    Outputs(folder).publish({"new": b""})
    assert (folder / name).read_bytes() == b"edited", "an edited file of an earlier report is not removed"
    assert (folder / "figures/bars.svg").exists() == (name == "figures/bars.svg")


def test_the_same_content_is_no_conflict_and_stays_the_users(tmp_path: Path) -> None:
    (tmp_path / "scores.md").write_bytes(b"same")
    Outputs(tmp_path).publish({"scores.md": b"same"})
    Outputs(tmp_path).write("scores.md", b"same")
    with pytest.raises(UserError, match=r"scores\.md"):
        Outputs(tmp_path).publish({"scores.md": b"other"})


@pytest.mark.parametrize("kind", ["link to a file", "dangling link", "pipe", "folder"])
@pytest.mark.parametrize("name", ["scores.md", "figures", LISTED])
def test_what_is_no_file_is_refused_by_name(folder: Path, tmp_path: Path, kind: str, name: str) -> None:
    place, mine = folder / name, tmp_path / "mine"
    mine.write_bytes(b"mine")
    if name == "figures":
        place.rename(tmp_path / "elsewhere")
    else:
        place.unlink()
    target = {"link to a file": tmp_path / "elsewhere" if name == "figures" else mine}.get(kind, tmp_path / "nowhere")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder" and name != "figures":
        place.mkdir()
    else:
        place.symlink_to(target)
    before = below(tmp_path)
    with pytest.raises(UserError, match=rf"{name}`: there is (a|a symbolic) (link|pipe|folder|file).*move it"):
        Outputs(folder).publish({"scores.md": b"new", "figures/bars.svg": b"new", "first": b""})
    assert below(tmp_path) == before and not (tmp_path / "nowhere").exists()


def test_a_folder_that_is_given_as_a_link_is_the_users_choice(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    Outputs(tmp_path / "link").publish({"scores.md": b"new"})
    assert below(folder) == {"scores.md": b"new"}


def test_after_a_kill_the_next_report_repairs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some files are new, some old, one under its temporary name: all are known."""
    real, renamed = Path.replace, []

    def replace(path: Path, target: Path) -> Path:
        if Path(target).suffix == ".svg":
            raise SystemExit  # as SIGKILL, but what is undone on the way out is done again below
        renamed.append(target)
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            Outputs(folder).publish({"scores.md": b"second", "figures/bars.svg": b"<svg>2"})
    assert (folder / "scores.md").read_bytes() == b"second" and (folder / "figures/bars.svg").read_bytes() == b"<svg/>"
    assert any(".bars.svg." in name for name in below(folder))
    Outputs(folder).publish({"scores.md": b"third", "figures/bars.svg": b"<svg>3"})
    assert below(folder) == {"scores.md": b"third", "figures/bars.svg": b"<svg>3"}


def test_an_error_while_writing_leaves_the_old_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 4:  # the list, then two files
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            Outputs(folder).publish({name: b"new" for name in ("scores.md", "x", "figures/bars.svg")})
    assert below(folder) == FILES


def test_a_strangers_list_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"")
    out = tmp_path / "out"
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    names = ("../mine", str(tmp_path / "mine"), "\\u0000", "\\ud800")
    lines = [f'{{"file": "{name}", "sha256": "{empty}"}}' for name in names]
    write_text(out / LISTED, "\n".join([*lines, "[1]", '{"file": 1, "sha256": 2}', "{", ""]))
    Outputs(out).publish({"scores.md": b""})
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize("name", ["../mine.txt", "table-x/../../mine.txt", "ABSOLUTE"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    """A name may hold text of a run directory, such as that of a benchmark."""
    outputs, name = Outputs(tmp_path / "report"), name.replace("ABSOLUTE", str(tmp_path / "mine.txt"))
    for write in (lambda: outputs.write(name, b"x"), lambda: outputs.publish({"scores.md": b"y", name: b"x"})):
        with pytest.raises(UserError, match=r"mine\.txt"):
            write()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_links_to_data_are_ours_when_listed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    Outputs(tmp_path / "out").link("scannet/a", tmp_path / "one", target_is_directory=True)
    Outputs(tmp_path / "out").link("scannet/a", tmp_path / "two", target_is_directory=True)
    assert (tmp_path / "out/scannet/a").readlink() == tmp_path / "two"
    (tmp_path / "out/scannet/b").symlink_to(tmp_path / "one")
    with pytest.raises(UserError, match="scannet/b`: there is a symbolic link"):
        Outputs(tmp_path / "out").link("scannet/b", tmp_path / "two", target_is_directory=True)
    Outputs(tmp_path / "out").remove(["scannet/a", "scannet/b"])
    assert (tmp_path / "two").is_dir() and [path.name for path in (tmp_path / "out/scannet").iterdir()] == ["b"]


def test_links_below_a_folder_of_ours_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run/cells/a/checkpoints").mkdir(parents=True)
    (tmp_path / "run/cells/a/trackers").mkdir()
    (tmp_path / "run/cells/a/trackers/latest").symlink_to(tmp_path)
    refuse_links(tmp_path / "run", "cells/a", ["trackers"])
    (tmp_path / "run/cells/a/checkpoints/step-000004").symlink_to(tmp_path)
    (tmp_path / "run/cells/b").symlink_to(tmp_path)
    for name, link in (("a", "step-000004"), ("b", "cells/b"), ("b/c", "cells/b")):
        with pytest.raises(UserError, match=f"{link}`: there is a symbolic link"):
            refuse_links(tmp_path / "run", f"cells/{name}", ["trackers"])


def test_a_new_file_replaces_nothing(tmp_path: Path) -> None:
    write_new(tmp_path / "a.png", b"ours")
    write_new(tmp_path / "a.png", b"ours")
    with pytest.raises(UserError, match=r"a\.png`: there is another file"):
        write_new(tmp_path / "a.png", b"another")
    assert (tmp_path / "a.png").read_bytes() == b"ours"


def test_lines_are_not_appended_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"")
    (tmp_path / "log").symlink_to(tmp_path / "mine")
    for write in (lambda path: append_lines(path, ["x"]), lambda path: write_text(path, "x")):
        with pytest.raises(UserError, match="log`: there is a symbolic link"):
            write(tmp_path / "log")
    assert (tmp_path / "mine").read_bytes() == b"" and (tmp_path / "log").is_symlink()
