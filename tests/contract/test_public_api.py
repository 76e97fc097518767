"""The names and signatures that plugins rely on: a change of `public_api.txt` is a change for their authors."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from harness import api
from harness.api import testing

FROZEN = Path(__file__).with_name("public_api.txt")


def described(module: ModuleType) -> list[str]:
    """One line for each public name of a module and for each public member of its classes."""
    lines = []
    for name in module.__all__:
        lines += _described(f"{module.__name__}.{name}", getattr(module, name))
    return lines


def _described(name: str, value: Any) -> list[str]:
    if not isinstance(value, type):
        return [f"{name}{_signature(value)}"]
    fields = dataclasses.is_dataclass(value) or issubclass(value, tuple | BaseModel)
    lines = [f"{name}{_signature(value) if fields else ''}"]
    for member in sorted(dir(value)):
        found = inspect.getattr_static(value, member)
        if member.startswith("_") or not any(member in vars(base) for base in value.__mro__ if _is_ours(base)):
            continue
        if isinstance(found, property):
            lines.append(f"    {member}: {found.fget.__annotations__['return']}")
        elif inspect.isfunction(found):
            lines.append(f"    {member}{_signature(found)}")
        elif not fields:
            lines.append(f"    {member}")
    return lines


def _signature(value: Any) -> str:
    text = re.sub(r"(?:ForwardRef|PosixPath)\(([^)]*)\)", r"\1", str(inspect.signature(value)))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # postponed annotations


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("harness.")


def test_what_plugins_import_stays_as_it_is() -> None:
    now, frozen = [*described(api), *described(testing)], FROZEN.read_text().splitlines()
    changes = "\n".join(difflib.unified_diff(frozen, now, FROZEN.name, "harness.api", lineterm="", n=0))
    assert not changes, f"plugins would break; if that is meant, put it into {FROZEN.name} and the changelog\n{changes}"


def test_type_checkers_see_the_names_that_can_be_imported() -> None:
    """The table of lazy imports and the imports for type checkers are the same."""
    text = Path(api.__file__).read_text().split("if TYPE_CHECKING:")[1].split("\n\n")[0]
    typed = {tuple(line.split()[1::2])[:2] for line in text.strip().splitlines()}
    assert typed == {(module, name) for module, names in api._EXPORTS.items() for name in names}
    assert set(api.__all__) <= set(dir(api))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Algorithms'"):
        from harness.api import Algorithms  # type: ignore[attr-defined]  # noqa: F401


def test_a_configuration_does_not_load_torch() -> None:
    code = "import sys\nfrom harness.api import StrictConfig, UserError\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
