"""A digest of what code means: comments, docstrings and formatting do not change it; a changed constant does."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from harness.errors import UserError

SHARED = ("algorithms", "rewards", "reports.benchmarks", "harness.api", "harness.vsibench")
"""Packages of this project that are followed: what plugins import from them decides weights or answers."""

DOOR = "harness.api"
"""It only re-exports: a name imported from it stands for the module that defines the name."""

_PROJECT = {"harness", "algorithms", "rewards", "reports"}


def source_digest(*plugins: Any) -> str:
    """SHA-256 of the modules that define some classes or functions, and of what these modules import, transitively.

    Imports are followed, those inside functions included, into :data:`SHARED`, into a plugin's own top-level package,
    and into modules next to a single-file plugin. No module is executed for it.

    The digest is over the syntax tree without positions, docstrings and the ``description`` of a ``Field``. It may
    differ between minor versions of Python, whose trees differ in detail.

    Raises:
        UserError: There is no source file, for example because the class was defined in a notebook.
    """
    starts = {one.__module__ for plugin in plugins for one in _definitions(plugin)}
    folders = {file.parent for name in starts if "." not in name and (file := _file(name))}
    folders = {folder for folder in folders if not {"site-packages", "dist-packages"} & set(folder.parts)}
    own = {name.partition(".")[0] for name in starts} - _PROJECT
    found: dict[str, str] = {}
    waiting = [*starts]
    while waiting:
        name = waiting.pop()
        if name in found or not (name in starts or _is_followed(name, own, folders)):
            continue
        file = _file(name)
        if file is None:
            if name in starts:
                raise UserError(f"{name}: its source file cannot be found; define the plugin in a file of its own")
            continue  # an imported name that is not a module
        if file.suffix != ".py":
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
            continue
        found[name], imports = _parsed(file.read_bytes())
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += [target for one in imports for target in _targets(one, package)]
    # Names are left out: a plugin file's contains the path of its folder.
    return hashlib.sha256(" ".join(sorted(found.values())).encode()).hexdigest()


def _definitions(plugin: Any) -> list[Any]:
    """A class with those of its bases that are plugins too, wherever they are defined; a function itself."""
    if not isinstance(plugin, type):
        return [plugin]
    return [plugin, *(base for base in plugin.__mro__ if hasattr(base, "plugin_group"))]


def _is_followed(name: str, own: set[str], folders: set[Path]) -> bool:
    top = name.partition(".")[0]
    if top in _PROJECT:
        inside = any(f"{name}.".startswith(f"{package}.") for package in SHARED)
        return inside and name != DOOR and not name.startswith("harness.api.testing")
    if top in own:
        return True
    near = [folder for folder in folders if (folder / top).is_dir() or (folder / f"{top}.py").is_file()]
    file = _file(name) if near else None
    return file is not None and any(file.is_relative_to(folder) for folder in near)


def _targets(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    """The names of modules that an import statement may load."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    yield module
    for alias in node.names:
        yield f"{module}.{alias.name}"
        if module == DOOR:
            yield getattr(getattr(sys.modules[DOOR], alias.name, None), "__module__", DOOR)


def _file(module: str) -> Path | None:
    spec = _spec(module)
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _spec(module: str) -> ModuleSpec | None:
    """Where a module is; unlike `importlib.util.find_spec` without importing the packages that contain it."""
    if module in sys.modules:
        return sys.modules[module].__spec__
    parent = module.rpartition(".")[0]
    if not parent:
        return importlib.util.find_spec(module)
    above = _spec(parent)
    path = None if above is None else above.submodule_search_locations
    return None if path is None else PathFinder.find_spec(module, path)


@lru_cache(maxsize=1024)
def _parsed(source: bytes) -> tuple[str, tuple[ast.Import | ast.ImportFrom, ...]]:
    """A module's digest and its import statements."""
    tree = ast.parse(source)
    imports = tuple(node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    return hashlib.sha256(_canonical(tree).encode()).hexdigest(), imports


def _canonical(node: Any) -> str:
    if isinstance(node, list):
        return f"[{','.join(_canonical(one) for one in node if not _is_without_effect(one))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if name not in ("ctx", "kind", "type_comment")}
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Field":
        fields["keywords"] = [one for one in node.keywords if one.arg != "description"]
    parts = [f"{name}={_canonical(value)}" for name, value in fields.items() if value is not None and value != []]
    return f"{type(node).__name__}({','.join(parts)})"


def _is_without_effect(node: Any) -> bool:
    """Docstrings, those of constants included, and ``pass``."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
