"""A digest of what code means: comments, docstrings and formatting do not change it; a changed constant does."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import UserError
from harness.io import sha256_file

SHARED = ("algorithms", "rewards", "reports.benchmarks", "harness.api", "harness.benchmarks", "harness.vsibench")
"""Packages of this project that are followed: what plugins import from them decides weights or answers."""

DOOR = "harness.api"
"""It only re-exports: a name imported from it stands for the module that defines the name."""

_PROJECT = {"harness", "algorithms", "rewards", "reports"}
_FILE = re.compile(r"(?!.*\.py$)(?:[\w-]+/)*[\w-][\w.-]{0,99}\.\w{1,9}", re.ASCII)
"""A string that may name a data file below a module's folder."""
_MODULE = re.compile(r"\.*\w+(?:\.\w+)*")


def source_digest(*plugins: Any) -> str:
    """SHA-256 of the modules that define some classes or functions, and of what these modules import, transitively.

    Imports are followed, those inside functions and ``import_module("name")`` included, into :data:`SHARED`, into a
    plugin's own top-level package, and into whatever else is not installed: modules next to a plugin file or elsewhere
    on the path. A file beside a module counts if the module has its name as a string: ``"table.json"``. No module is
    executed for it.

    It does not see: modules and files whose names are put together at run time, files elsewhere, installed packages
    other than the plugin's own (their versions are part of a guest's identity), and what the environment says.

    The digest is over the syntax tree without positions, docstrings and the ``description`` of a ``Field``. It may
    differ between minor versions of Python, whose trees differ in detail.

    Raises:
        UserError: There is no source file, for example because the class was defined in a notebook.
    """
    starts = {one.__module__ for plugin in plugins for one in _definitions(plugin)}
    own = {name.partition(".")[0] for name in starts} - _PROJECT
    found: dict[str, str] = {}
    waiting = [*starts]
    while waiting:
        name = waiting.pop()
        if name in found or not (name in starts or _is_followed(name, own)):
            continue
        file = _file(name)
        if file is None:
            if name in starts:
                raise UserError(f"{name}: its source file cannot be found; define the plugin in a file of its own")
            continue  # an imported name that is not a module
        if file.suffix != ".py":
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
            continue
        meaning, imports, modules, names = _parsed(file.read_bytes())
        beside = [sha256_file(path) for one in names if (path := file.parent / one).is_file()]
        found[name] = " ".join([meaning, *beside])
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += [target for one in imports for target in _targets(one, package)]
        waiting += [importlib.util.resolve_name(one, package) for one in modules if package or one[0] != "."]
        waiting += [name[:at] for at, letter in enumerate(name) if letter == "."]  # packages around it run first
    # Names are left out: a plugin file's contains the path of its folder.
    return hashlib.sha256(" ".join(sorted(found.values())).encode()).hexdigest()


def _definitions(plugin: Any) -> list[Any]:
    """A class with those of its bases that are plugins too, wherever they are defined; a function itself."""
    if not isinstance(plugin, type):
        return [plugin]
    return [plugin, *(base for base in plugin.__mro__ if hasattr(base, "plugin_group"))]


def _is_followed(name: str, own: set[str]) -> bool:
    top = name.partition(".")[0]
    if top in _PROJECT:
        inside = any(f"{name}.".startswith(f"{package}.") for package in SHARED)
        return inside and name != DOOR and not name.startswith("harness.api.testing")
    if top in own:
        return True
    file = None if top in sys.stdlib_module_names else _file(name)
    return file is not None and not {"site-packages", "dist-packages"} & set(file.parts)


def _targets(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    """The names of modules that an import statement may load."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    yield module
    for alias in node.names:
        yield f"{module}.{alias.name}"
        if alias.name == "*" and (file := _file(module)) is not None and file.name == "__init__.py":
            yield from (f"{module}.{one.stem}" for one in file.parent.glob("*.py"))  # as its __all__ may name them
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
    if above is None or above.submodule_search_locations is None:
        return None
    path = list(above.submodule_search_locations)
    try:
        return PathFinder.find_spec(module, path)
    except KeyError:  # a namespace package inside one that is not imported
        spec = ModuleSpec(module, None, is_package=True)
        spec.submodule_search_locations = [str(Path(one, module.rpartition(".")[2])) for one in path]
        return spec


class _Parsed(NamedTuple):
    """A module's digest, its import statements, the modules it imports by name, and strings that may name a file."""

    meaning: str
    imports: tuple[ast.Import | ast.ImportFrom, ...]
    modules: tuple[str, ...]
    names: tuple[str, ...]


@lru_cache(maxsize=1024)
def _parsed(source: bytes) -> _Parsed:
    tree = ast.parse(source)
    imports, modules, names = [], [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _FILE.fullmatch(node.value):
            names.add(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "import_module",
            "__import__",
        ):
            named = [one.value for one in node.args[:1] if isinstance(one, ast.Constant)]
            modules += [one for one in named if isinstance(one, str) and _MODULE.fullmatch(one)]
    return _Parsed(
        hashlib.sha256(_canonical(tree).encode()).hexdigest(), tuple(imports), tuple(modules), tuple(sorted(names))
    )


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
