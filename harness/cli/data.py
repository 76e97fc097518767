"""``harness data``: make a folder that is ready for use out of a published data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.data.prepare import Prepared

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Prepare published data sets.")
prepare = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Check a copy and make it ready for use.")
app.add_typer(prepare, name="prepare")

OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make.")]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=0, metavar="N", help="Processes that decode; 0 takes all cores.")
]


@prepare.command()
def vsibench(
    source: Annotated[
        str, typer.Option("--from", metavar="DIR|ID", help="A local copy, or the hub id nyu-visionx/VSI-Bench.")
    ],
    out: OutOption = Path("data/vsi-bench"),
    part: Annotated[
        bool, typer.Option("--part", metavar="", help="The copy is meant to be a part: accept other counts.")
    ] = False,
    workers: WorkersOption = 0,
) -> None:
    """VSI-Bench: verify the counts, take the videos out of the archives, decode each one, write a manifest.

    [bold]Example[/bold]

    \b
    hf download nyu-visionx/VSI-Bench --repo-type dataset --local-dir download
    harness data prepare vsibench --from download
    """
    from harness.data.prepare_vsibench import prepare_vsibench

    folder = _folder(source)
    _tell(_shown(lambda show: prepare_vsibench(folder, out, part=part, workers=_workers(workers), progress=show)))


@prepare.command("vsi-100k")
def vsi_100k(
    source: Annotated[str, typer.Option("--from", metavar="DIR|ID", help="The JSON files, or the id OPPOer/VSI-100k.")],
    scannet: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="ScanNet: SCENE/color/*.jpg, or SCENE.mp4. Linked, not copied."),
    ] = None,
    out: OutOption = Path("data/vsi-100k"),
    field: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="OURS=THEIRS", help="Name of a field that is not recognised. Repeatable."),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", metavar="", help="Leave out bad questions and scenes without a video, and count."),
    ] = False,
    workers: WorkersOption = 0,
) -> None:
    """VSI-100k: read its six question files, link your ScanNet to them, decode each video, write a manifest.

    [bold]Example[/bold]

    harness data prepare vsi-100k --from download --scannet /data/scannet/scans
    """
    from harness.data.prepare_vsi100k import prepare_vsi_100k

    folder, fields = _folder(source), _fields(field or ())
    _tell(
        _shown(
            lambda show: prepare_vsi_100k(
                folder,
                out,
                scannet=scannet,
                fields=fields,
                skip_bad=skip_bad,
                workers=_workers(workers),
                progress=show,
            )
        )
    )


def _folder(source: str) -> Path:
    """A local folder, or a hub data set's snapshot."""
    if Path(source).is_dir():
        return Path(source)
    if source.removeprefix("hub:").count("/") == 1 and not source.startswith((".", "/")):
        from harness.hub import fetch_dataset

        try:
            return fetch_dataset(source.removeprefix("hub:"))
        except UserError as error:
            raise UserError(f"`--from {source}`: no such folder here, and: {error}") from error
    raise UserError(f"`--from {source}`: no such folder")


def _fields(pairs: list[str] | tuple[str, ...]) -> dict[str, str]:
    fields = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not ours or not theirs:
            raise UserError(f"`--field {pair}`: write OURS=THEIRS, for example --field ground_truth=answer")
        fields[ours] = theirs
    return fields


def _workers(asked: int) -> int:
    from harness.data.pool import usable_cores

    return asked or usable_cores()


def _shown(work: Callable[[Any], Prepared]) -> Prepared:
    """Do the work under a progress bar, on the error stream."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        return work(lambda what, done, total: bar.update(task, description=what, completed=done, total=total))


def _tell(prepared: Prepared) -> None:
    console, manifest = Console(highlight=False), prepared.manifest
    total = manifest["total"]
    console.print(
        f"{prepared.root}: {total['questions']:,} questions on {total['scenes']} scenes, {total['videos']} videos "
        f"decoded, the shortest with {manifest['shortest_video']} frames",
        soft_wrap=True,
    )
    if splits := manifest.get("splits"):
        console.print("splits: " + ", ".join(f"{name} {count:,}" for name, count in splits.items()), soft_wrap=True)
    for kind, count in manifest["questions"].items():
        console.print(f"  {kind} {count:,}")
    for note in manifest.get("notes", ()):
        console.print(f"note: {note}", soft_wrap=True, markup=False)
    if not total["videos"]:
        from harness.data.vsi100k import GET_SCANNET

        console.print(f"No videos are linked. {GET_SCANNET}", soft_wrap=True)
