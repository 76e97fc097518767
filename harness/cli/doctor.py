"""``harness doctor``: what this machine offers and what can be reached; a probe that fails says so."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.errors import UserError
from harness.plugins import registry

REQUIRED = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "av",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "statsmodels",
    "pydantic",
)
OPTIONAL = {
    "bitsandbytes": "QLoRA, 8-bit optimiser",
    "flash-attn": "a faster vision tower on a GPU",
    "datasets": "TRL's trainers as guests",
    "trl": "TRL's trainers as guests",
}
_HUB_TIMEOUT = 2.0


class Finding(NamedTuple):
    """One line: a subject, what was found, and whether it is good, worth knowing or bad."""

    subject: str
    text: str
    level: str = "good"


def examine(model: str | None, study: str | None = None, settings: Sequence[str] = ()) -> int:
    """Print the findings.

    Args:
        model: Only this model is looked at among the models; its absence is then an error.
        study: A study file or preset whose memory is accounted for; the model's own preset when only that is named.
        settings: Changes of the study, ``key=value``.

    Returns:
        1 when something that is needed is missing or the study does not fit, else 0.

    Raises:
        UserError: The study is unknown or wrong.
    """
    from harness.cli.studies import StudyOptions, resolve_study

    asked = StudyOptions(study=study, model=model, settings=tuple(settings))
    resolved = resolve_study(asked) if study is not None else None
    if resolved is not None and model is None:
        model = resolved.model.name
    hub = _hub()
    sections: dict[str, Callable[[], Iterator[Finding]]] = {
        "Software": _software,
        "Machine": _machine,
        "Models": lambda: _models(model, hub),
        "Data": _data,
        "Plugins": _plugins,
    }
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True, max_width=28)
    table.add_column(overflow="fold")
    bad = False
    for title, probe in sections.items():
        for index, finding in enumerate(_guarded(title, probe)):
            bad |= finding.level == "bad"
            style = {"good": "", "note": "yellow", "bad": "bold red"}[finding.level]
            table.add_row(title if index == 0 else "", finding.subject, Text(finding.text, style=style))
    table.add_row("Hub", hub.subject, Text(hub.text, style="" if hub.level == "good" else "yellow"))
    console = Console()
    console.print(table)
    if model is None:
        return 1 if bad else 0
    from harness.memory.estimate import show

    console.print()
    try:
        return 1 if not show(resolved or resolve_study(asked), console) or bad else 0
    except UserError as error:
        console.print(Text(f"No account of memory: {error}", style="bold red"), soft_wrap=True)
        return 1


def _guarded(title: str, probe: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A probe must never end in a traceback: whatever it meets is a finding."""
    try:
        yield from probe()
    except Exception as error:
        yield Finding(title.lower(), f"{type(error).__name__}: {error}", "bad")


def _software() -> Iterator[Finding]:
    yield Finding("harness", _version("vlm-harness"))
    yield Finding("python", f"{platform.python_version()} at {sys.executable}")
    yield Finding("system", platform.platform())
    missing = [name for name in REQUIRED if not _version(name)]
    yield Finding("packages", ", ".join(f"{name} {_version(name)}" for name in REQUIRED if name not in missing))
    for name in missing:
        yield Finding(name, f"is missing: pip install {name}", "bad")
    for name, purpose in OPTIONAL.items():
        found = _version(name)
        yield Finding(name, f"{found} ({purpose})" if found else f"not installed; only for: {purpose}")


def _machine() -> Iterator[Finding]:
    import psutil
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            yield Finding(f"device cuda:{index}", f"{name}, {_size(free)} free of {_size(total)}")
        yield Finding("bf16", "yes" if torch.cuda.is_bf16_supported() else "no: training computes in fp32")
    else:
        yield Finding("device", f"cpu ({_processor()}); no GPU is visible to torch", "note")
        yield Finding("bf16", "not used on a CPU: training computes in fp32")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", f"{usable} usable of {psutil.cpu_count()}; torch uses {torch.get_num_threads()} threads")
    memory = psutil.virtual_memory()
    low = memory.available < 6 * 2**30
    yield Finding("memory", f"{_size(memory.available)} free of {_size(memory.total)}", "note" if low else "good")
    disk = shutil.disk_usage(Path.cwd())
    low = disk.free < 5 * 2**30
    yield Finding("disk", f"{_size(disk.free)} free of {_size(disk.total)} here", "note" if low else "good")


def _models(only: str | None, hub: Finding) -> Iterator[Finding]:
    from harness.models.loading import locate

    for name in [only] if only else registry.names("models"):
        try:
            location = locate(name)
        except UserError as error:
            yield Finding(name, str(error), "bad")
            continue
        if Path(location).is_dir():
            whole = any(Path(location).glob("*.safetensors"))
            text = f"here: {location}" if whole else f"{location} has no .safetensors file"
            yield Finding(name, text, "good" if whole else "bad")
        elif _is_cached(location):
            yield Finding(name, f"{location}, in the hub's cache on this machine")
        elif hub.level == "good":
            yield Finding(name, f"{location}, to be fetched from the hub")
        else:
            yield Finding(name, f"{location} is not here and the hub cannot be reached", "bad" if only else "note")


def _data() -> Iterator[Finding]:
    from harness.config.study import load_study, preset_names
    from harness.data.sources import is_ready, resolve_source

    for preset in preset_names():
        study = load_study(preset)
        for source in (study.data.train, study.data.benchmark):
            subject = f"{preset}: {source}"
            try:
                if not is_ready(source, study.runtime.cache):
                    yield Finding(subject, "is generated when first needed")
                else:
                    root, split = resolve_source(source, study.runtime.cache)
                    yield Finding(subject, f"here: {root}, split {split}")
            except UserError as error:
                yield Finding(subject, str(error), "note")


def _plugins() -> Iterator[Finding]:
    for group in registry.GROUPS:
        rows = registry.listing(group)
        whole = [row.name for row in rows if not row.error]
        yield Finding(group, ", ".join(whole) or "none")
        for row in rows:
            if row.error:
                yield Finding(row.name, f"{row.package}: {row.error}", "bad")


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


def _is_cached(location: str) -> bool:
    hub = importlib.import_module("huggingface_hub")
    return isinstance(hub.try_to_load_from_cache(location, "config.json"), str)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
