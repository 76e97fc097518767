"""The house rules that a machine can check."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("harness", "algorithms", "rewards", "reports")
MAY_IMPORT = {
    "harness": {"harness"},
    "algorithms": {"algorithms", "harness"},
    "rewards": {"rewards", "harness"},
    "reports": {"reports", "rewards", "harness"},
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported_packages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found & set(PACKAGES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way_and_files_are_short(path):
    package = path.relative_to(ROOT).parts[0]
    assert imported_packages(path) <= MAY_IMPORT[package], "harness finds plugins through the registry"
    assert len(path.read_text().splitlines()) <= 400, "split it by responsibility"


def test_a_method_is_one_short_file():
    for path in (ROOT / "algorithms").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 120, path


def test_readme_shows_the_two_commands_and_ci_runs_the_second():
    assert "make compare" in (ROOT / "README.md").read_text()
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_readme_method_passes_the_conformance_suite():
    from harness.testing import check_algorithm

    text = (ROOT / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(code, names)
    failed = [result for result in check_algorithm(names["MyMethod"]) if not result.passed]
    assert not failed, failed
