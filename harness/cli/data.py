"""``harness data``: turn a published data set into a folder that is ready for use; look at a data set."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, TextColumn

from harness.cli.diagnose import diagnose
from harness.cli.options import StudyOptions, command, out_option
from harness.console import Console
from harness.errors import UserError
from harness.visible import visible

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Prepare published data sets, and look at one's own."
)
prepare = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Check a copy and make it ready for use.")
app.add_typer(prepare, name="prepare")
command(app, only=("study", "data", "benchmark_data", "split", "settings", "decoders", "cache"))(diagnose)

PUBLISHED = {
    "revsi": "ReVSI",
    "mmsi-video-bench": "MMSI-Video-Bench",
    "osi-bench": "OSI-Bench",
    "sti-bench": "STI-Bench",
}
"""Benchmarks that are prepared by their description, and their titles."""

Source = Annotated[
    str, typer.Option("--from", metavar="DIR|ID", help="A local copy of the data set, or its id on the hub.")
]


@command(prepare, only=("decoders",))
def vsibench(
    source: Source,
    options: StudyOptions,
    out: Annotated[Path | None, out_option("data/vsi-bench")] = None,
    part: Annotated[
        bool, typer.Option("--part", metavar="", help="Accept a part of the data set, whose counts differ.")
    ] = False,
) -> None:
    """VSI-Bench: verify the counts, take the videos out of the archives, decode each one, write a manifest.

    [bold]Examples[/bold]

    harness data prepare vsibench --from nyu-visionx/VSI-Bench
    harness data prepare vsibench --from download
    """
    from harness.data.prepare_vsibench import prepare_vsibench

    _prepare(prepare_vsibench, _folder(source), out or Path("data/vsi-bench"), options.decoders, part=part)


@command(prepare, name="vsi-100k", only=("decoders", "skip_bad"))
def vsi_100k(
    source: Source,
    options: StudyOptions,
    out: Annotated[Path | None, out_option("data/vsi-100k")] = None,
    scannet: Annotated[
        Path | None,
        typer.Option("--scannet", metavar="DIR", help="ScanNet: SCENE/color/*.jpg, or SCENE.mp4. Linked, not copied."),
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="OURS=THEIRS", help="The name of a field that is not recognised. Repeatable."),
    ] = None,
) -> None:
    """VSI-100k: read its six question files, link your ScanNet to them, decode each video, write a manifest.

    With --skip-bad, questions on scenes without a video are left out as well.

    [bold]Example[/bold]

    harness data prepare vsi-100k --from OPPOer/VSI-100k --scannet /data/scannet/scans
    """
    from harness.data.prepare_vsi100k import prepare_vsi_100k

    more = {"scannet": scannet, "fields": _fields(field or []), "skip_bad": options.skip_bad}
    _prepare(prepare_vsi_100k, _folder(source), out or Path("data/vsi-100k"), options.decoders, **more)


def _published(name: str) -> None:
    """Add the command that prepares a published benchmark by its description."""

    def prepare_one(
        source: Source,
        options: StudyOptions,
        out: Annotated[Path | None, out_option("data/NAME")] = None,
        part: Annotated[
            bool, typer.Option("--part", metavar="", help="Accept a part of the data set, whose counts differ.")
        ] = False,
    ) -> None:
        from harness.data.prepare_described import prepare_described
        from harness.plugins import registry

        work = partial(prepare_described, registry.load("benchmarks", name).description)
        more = {"part": part, "skip_bad": options.skip_bad}
        _prepare(work, _folder(source), out or Path(f"data/{name}"), options.decoders, **more)

    prepare_one.__doc__ = f"""{PUBLISHED[name]}: check the questions, bring the videos together, decode each one.

    Questions that show several videos or further images are left out and counted.

    [bold]Example[/bold]

    harness data prepare {name} --from download
    """
    command(prepare, name=name, only=("decoders", "skip_bad"))(prepare_one)


for _name in PUBLISHED:
    _published(_name)


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
    raise UserError(f"`--from {source}`: no such folder; name a folder or an id on the hub, such as OWNER/NAME")


def _fields(pairs: list[str]) -> dict[str, str]:
    fields = {}
    for pair in pairs:
        ours, _, theirs = pair.partition("=")
        if not ours or not theirs:
            raise UserError(f"`--field {pair}`: write OURS=THEIRS, for example --field ground_truth=answer")
        fields[ours] = theirs
    return fields


def _prepare(work: Callable[..., Any], source: Path, out: Path, decoders: int | None, **options: Any) -> None:
    """Do the work under a progress bar on the error stream, then print what the folder holds."""
    from harness.data.vsi100k import GET_SCANNET
    from harness.processes import usable_cores

    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), *Progress.get_default_columns()[1:])
    with Progress(*columns, console=errors, transient=True, disable=not errors.animates) as bar:
        task = bar.add_task("reading", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=visible(what), completed=done, total=total)

        manifest = work(source, out, workers=decoders or usable_cores(), progress=show, **options)
    console = Console()
    total = manifest["total"]
    console.say(
        f"{out}: {total['questions']:,} questions on {total['scenes']} scenes, {total['videos']} videos "
        f"decoded, the shortest with {manifest['shortest_video']} frames"
    )
    if splits := manifest.get("splits"):
        console.say("splits: " + ", ".join(f"{name} {count:,}" for name, count in splits.items()))
    for kind, count in manifest["questions"].items():
        console.say(f"  {kind} {count:,}")
    for note in manifest.get("notes", ()):
        console.say(f"note: {note}")
    if not total["videos"]:
        console.say(f"No videos are linked. {GET_SCANNET}")
