"""``harness new``: a small installable package with one plugin to start from."""

from __future__ import annotations

import importlib.util
import re
from importlib import resources
from pathlib import Path
from string import Template

from harness.errors import UserError
from harness.io import read_text, write_text
from harness.plugins import registry

KINDS = ("algorithm", "reward", "benchmark")
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def write_package(kind: str, name: str, folder: Path) -> Path:
    """Write a package with one working plugin, its tests and a README.

    Args:
        kind: One of :data:`KINDS`.
        name: The plugin's name, for example ``my-method``.
        folder: Where the package goes; it must be empty or missing.

    Returns:
        The folder.

    Raises:
        UserError: The name is invalid or taken, or the folder is not empty.
    """
    module, cls = name.replace("-", "_"), "".join(part.capitalize() for part in re.split("[-_]", name))
    _check_name(kind, name, module)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"`{folder}`: the folder is not empty; choose another with --out")
    summary = f"a {'method' if kind == 'algorithm' else kind} of my own"
    values = {"kind": kind, "name": name, "module": module, "cls": cls, "summary": summary}
    files = {
        "pyproject.toml": "pyproject.toml",
        f"{module}.py": f"{kind}.py",
        f"tests/test_{module}.py": f"{kind}_test.py",
        "README.md": f"{kind}_README.md",
    }
    templates = resources.files("harness.plugins").joinpath("templates")
    for path, template in files.items():
        text = read_text(templates.joinpath(f"{template}.txt"))
        write_text(folder / path, Template(text).substitute(values))
    return folder


def _check_name(kind: str, name: str, module: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"`harness new {kind} {name}`: write lower-case words joined by dashes, such as my-method")
    if name in registry.names(f"{kind}s"):
        place = registry.place_of(registry.find(f"{kind}s", name))
        raise UserError(f"`harness new {kind} {name}`: the name is taken ({place}); choose another")
    if importlib.util.find_spec(module) is not None:
        raise UserError(f"`harness new {kind} {name}`: a Python module `{module}` exists; choose another name")
