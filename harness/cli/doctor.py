"""``harness doctor``: what this machine offers and what can be reached; a probe that fails says so."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import typer
from rich.table import Table

from harness.cli.options import SETUP, StudyOptions, command
from harness.console import Console, Text
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.config.study import StudyConfig

PACKAGE = "vlm-harness"
OPTIONAL = {
    "bitsandbytes": "QLoRA, 8-bit optimiser",
    "flash-attn": "a faster vision tower on a GPU",
    "datasets": "data sets of the hub; TRL's trainers as guests",
    "trl": "TRL's trainers as guests",
}
_HUB_TIMEOUT = 2.0
_STYLES = {"good": "", "note": "yellow", "bad": "bold red"}

app = typer.Typer()


class Finding(NamedTuple):
    """One line: a subject, what was found, and whether it is good, worth knowing or bad."""

    subject: str
    text: str
    level: str = "good"


@command(app, SETUP)
def doctor(options: StudyOptions) -> int:
    """Show what this machine offers, and which models and data can be reached.

    With options of a study: whether this study's model and data can be reached and its methods fit into memory.
    The exit code is 1 if something that is needed is missing or does not fit.

    [bold]Examples[/bold]

    harness doctor
    harness doctor --model 2b --methods sft,grpo -s train.micro_batch=4
    """
    from harness.cli.resolve import resolve_study

    study = None if replace(options, plugin=None) == StudyOptions() else resolve_study(options)
    hub = _hub()
    sections: dict[str, Callable[[], Iterator[Finding]]] = {
        "Software": _software,
        "Machine": _machine,
        "Models": lambda: _models(study, hub),
        "Data": lambda: _data(study),
        "Plugins": _plugins,
        "Hub": lambda: iter([hub]),
    }
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True, max_width=28)
    table.add_column(overflow="fold")
    good = True
    for title, probe in sections.items():
        for index, finding in enumerate(_guarded(title, probe)):
            good &= finding.level != "bad"
            table.add_row("" if index else title, finding.subject, Text(finding.text, style=_STYLES[finding.level]))
    console = Console()
    console.print(table)
    if study is not None:
        from harness.memory.estimate import print_estimates

        console.print()
        try:
            good &= print_estimates(study, console)
        except UserError as error:
            console.say(f"The memory cannot be estimated: {error}", style="bold red")
            good = False
    return 0 if good else 1


def _guarded(title: str, probe: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A probe must never end in a traceback: whatever it meets is a finding."""
    try:
        yield from probe()
    except Exception as error:
        yield Finding(title.lower(), f"{type(error).__name__}: {error}", "bad")


def _software() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    yield Finding("harness", version(PACKAGE))
    yield Finding("python", f"{platform.python_version()} at {sys.executable}")
    yield Finding("system", platform.platform())
    needed = [one for one in map(Requirement, requires(PACKAGE) or ()) if one.marker is None]
    yield Finding("packages", ", ".join(f"{one.name} {_version(one.name) or 'missing'}" for one in needed))
    for one in needed:
        found = _version(one.name)
        if not found or not one.specifier.contains(found, prereleases=True):
            yield Finding(one.name, f"{found or 'is missing'}: pip install '{one}'", "bad")
    for name, purpose in OPTIONAL.items():
        found = _version(name)
        yield Finding(name, f"{found} ({purpose})" if found else f"not installed; only for: {purpose}")


def _machine() -> Iterator[Finding]:
    import psutil
    import torch

    from harness.processes import usable_cores

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            yield Finding(f"device cuda:{index}", f"{name}, {_size(free)} free of {_size(total)}")
        yield Finding("bf16", "yes" if torch.cuda.is_bf16_supported() else "no: training computes in fp32")
    else:
        yield Finding("device", f"cpu ({_processor()}); no GPU is visible to torch", "note")
        yield Finding("bf16", "not used on a CPU: training computes in fp32")
    yield Finding(
        "cores", f"{usable_cores()} usable of {psutil.cpu_count()}; torch uses {torch.get_num_threads()} threads"
    )
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    for name, free, total, least in (("memory", memory.available, memory.total, 6), ("disk", disk.free, disk.total, 5)):
        yield Finding(name, f"{_size(free)} free of {_size(total)}", "note" if free < least * 2**30 else "good")


def _models(study: StudyConfig | None, hub: Finding) -> Iterator[Finding]:
    from harness.config.study import ModelSection
    from harness.models.conversation import conversation_notes
    from harness.models.loading import check_model, local_folder, locate
    from harness.plugins import registry

    for name in [study.model.name] if study else registry.names("models"):
        try:
            location = locate(name)
            if folder := local_folder(location):
                section = study.model if study else ModelSection(name=name)
                remarks = check_model(section, values=study is not None)
                remarks += conversation_notes(name) if study else ()
                where = f"here: {location}" if folder == Path(location) else f"{location}, in the hub's cache here"
                yield Finding(name, "; ".join([where, *remarks]), "note" if remarks else "good")
            elif hub.level == "good":
                yield Finding(name, f"{location}, to be fetched from the hub")
            else:
                yield Finding(name, f"{location} is not here and the hub cannot be reached", "bad" if study else "note")
        except UserError as error:
            yield Finding(name, str(error), "bad")


def _data(study: StudyConfig | None) -> Iterator[Finding]:
    from harness.config.layers import preset_names
    from harness.config.study import load_study
    from harness.data.sources import is_ready, resolve_source
    from harness.study.setup import benchmark_source

    for one in [study] if study else map(load_study, preset_names()):
        for source, default in ((one.data.train, "train"), (benchmark_source(one.data), "test")):
            subject = f"{one.name}: {source}"
            try:
                if not is_ready(source, one.runtime.cache):
                    yield Finding(subject, "is generated when it is first needed")
                else:
                    root, split = resolve_source(source, one.runtime.cache, default=default)
                    yield Finding(subject, f"here: {root}, split {split}")
            except UserError as error:
                yield Finding(subject, str(error), "bad" if study else "note")


def _plugins() -> Iterator[Finding]:
    from harness.plugins import registry

    for group in registry.GROUPS:
        rows = registry.listing(group)
        yield Finding(group, ", ".join(row.name for row in rows if not row.error) or "none")
        yield from (Finding(row.name, f"{row.package}: {row.error}", "bad") for row in rows if row.error)


def _hub() -> Finding:
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    offline = [
        name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name, "0") not in ("", "0")
    ]
    if offline:
        return Finding(address, f"offline mode is on ({', '.join(offline)}): only what is on this machine", "note")
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 443), timeout=_HUB_TIMEOUT):
            return Finding(address, "can be reached")
    except OSError as error:
        return Finding(address, f"cannot be reached ({error}): only what is on this machine", "note")


def _processor() -> str:
    from harness.io import read_lines

    info = Path("/proc/cpuinfo")
    names = [line for line in read_lines(info) if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
