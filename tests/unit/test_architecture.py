"""The house rules that a machine can check."""

import ast
import re
from graphlib import TopologicalSorter
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


LAYERS = (
    "cli",
    "api.testing",
    "study",
    "memory",
    "world.pretrain",
    "train",
    "engine",
    "models",
    "data",
    "world",
    "data.video",
    "config",
    "plugins",
    "api",
    "benchmarks",
    "vsibench",
    "hub",
    "outputs",
    "locks",
    "life",
    "processes",
    "io",
    "seeds",
    "console",
    "visible",
    "errors",
)
"""The packages of `harness`, top to bottom; an import, typing-only ones and those inside functions included, never goes
up. `algorithms`, `rewards` and `reports` stand above all of them, and `harness` finds them by the registry alone."""


def layer_of(module: str) -> int:
    _, *parts = module.split(".")
    return next(LAYERS.index(name) for name in (".".join(parts[:2]), *parts[:1]) if name in LAYERS)


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("harness.")}


IN_ROOMS = [path for path in (ROOT / "harness").rglob("*.py") if path.parent.name != "harness" or path.stem in LAYERS]


@pytest.mark.parametrize("path", sorted(IN_ROOMS), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_goes_up_a_layer(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    upwards = {name for name in imports_of(path) if layer_of(name) < layer_of(module)}
    assert not upwards, f"{module} imports from above itself: {sorted(upwards)}"


def test_models_are_loaded_through_one_door_and_never_run_code_of_a_checkpoint():
    """What from_pretrained only warns about is refused in harness/models/weights.py; torch.load needs weights_only."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if node.func.attr == "from_pretrained":
                assert options.get("trust_remote_code") == "False", f"{path}:{node.lineno}"
                plain = ast.unparse(node.func.value) in ("AutoConfig", "AutoTokenizer", "GenerationConfig")
                assert plain or path.stem == "weights", f"{path}:{node.lineno}: use load_whole"
            if ast.unparse(node.func) == "torch.load":
                assert options.get("weights_only") == "True", f"{path}:{node.lineno}"
            if node.func.attr == "load_state_dict":
                assert "strict" not in options, f"{path}:{node.lineno}: what is left out is drawn at random"


ROOMS = ("reports.benchmarks", "reports.statistics", "reports.tables", "reports.page", "reports.several")
"""Packages with a door: code outside imports from the package itself, never from a file in it."""


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_entered_by_its_door(room):
    inside = ROOT / room.replace(".", "/")
    for path in FILES:
        if inside not in path.parents:
            nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
            assert not [node.module for node in nodes if (node.module or "").startswith(f"{room}.")], path


READS_TEXT_ITSELF = {
    "harness/io.py": "the one reader",
    "harness/life.py": "what the kernel says of processes",
    "harness/study/launch.py": "the last words of a log, which may hold any bytes",
}


def reads_text(call: ast.Call) -> bool:
    """Whether a call reads a text file past `harness.io`, or splits text where U+2028 and its kin stand."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name in ("read_text", "splitlines"):
        return isinstance(call.func, ast.Attribute)
    if ast.unparse(call.func) in ("json.load", "tomllib.load"):
        return True
    if name != "open" or getattr(getattr(call.func, "value", None), "id", "") in ("self", "steps", "os"):
        return False
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [str(one.value) for one in given if isinstance(one, ast.Constant) and set(str(one.value)) <= set("rwxabt+")]
    plain = isinstance(call.func, ast.Name) or not call.args
    return any("b" not in mode and "r" in mode for mode in modes) or (plain and not modes)


def test_text_is_read_by_one_reader():
    found = {
        str(path.relative_to(ROOT))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and reads_text(node)
    }
    assert found <= READS_TEXT_ITSELF.keys(), "use read_text, read_lines or read_json of harness.io"


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("path.read_text()", True),
        ("open(path)", True),
        ("path.open()", True),
        ("open(path, 'r', encoding='utf-8')", True),
        ("path.open(mode='rt')", True),
        ("text.splitlines()", True),
        ("json.load(file)", True),
        ("tomllib.load(file)", True),
        ("read_text(path)", False),
        ("path.open('rb')", False),
        ("path.open('wb')", False),
        ("archive.open(member)", False),
        ("tomllib.loads(text)", False),
    ],
)
def test_which_calls_read_text(line, caught):
    assert reads_text(ast.parse(line).body[0].value) is caught


_PRINTS = re.compile(r"^print$|\b(echo|secho|Console|Text|from_markup|from_ansi)$|^sys\.std\w+\.write")
"""The names of what reaches a terminal past `harness.console`."""


def prints(tree: ast.Module) -> set[str]:
    """What of a module prints text that nobody made visible."""
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "harness.console"
        for alias in node.names
    }
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {name for name in calls - ours if _PRINTS.search(name)}


def test_what_is_printed_is_made_visible():
    for path in FILES:
        if path.stem not in ("console", "visible"):
            found = prints(ast.parse(path.read_text()))
            assert not found, f"{path}: print through harness.console"


@pytest.mark.parametrize(
    ("lines", "caught"),
    [
        ("print(1)", True),
        ("typer.echo(1)", True),
        ("from rich.console import Console\nConsole().print(1)", True),
        ("rich.console.Console()", True),
        ("rich.text.Text('a')", True),
        ("sys.stderr.write('a')", True),
        ("console.print(1)", False),
        ("self._console.print(1)", False),
        ("from harness.console import Console\nConsole().say('a')", False),
        ("sys.stdout.flush()", False),
    ],
)
def test_which_calls_print(lines, caught):
    assert bool(prints(ast.parse(lines))) is caught


def test_files_form_no_circle():
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}

    def target(name: str) -> str | None:
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name or None

    graph = {}
    for module, path in files.items():
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        lazy = {id(node) for function in functions for node in ast.walk(function)}
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and id(node) not in lazy]
        names = {f"{node.module}.{alias.name}" for node in imports for alias in node.names}
        graph[module] = {found for name in names if (found := target(name)) and found != module}
    TopologicalSorter(graph).prepare()  # raises a CycleError that names the circle


def test_a_method_is_one_short_file():
    for path in (ROOT / "algorithms").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 120, path


def test_readme_shows_the_two_commands_and_ci_runs_the_second():
    assert "make compare" in (ROOT / "README.md").read_text()
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_readme_method_passes_the_conformance_suite():
    from harness.api.testing import check_algorithm

    text = (ROOT / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(code, names)
    failed = [result for result in check_algorithm(names["MyMethod"]) if not result.passed]
    assert not failed, failed
