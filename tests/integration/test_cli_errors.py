"""The command line: every mistake ends with a message, exit code 2 and no traceback."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import write_small_dataset
from rich.console import Console

from harness import cli, registry
from harness.config import load_study
from harness.errors import UserError
from harness.io import read_json, write_json
from harness.study import compare as comparing
from harness.study.launch import run_cells
from harness.study.locks import hold
from harness.study.status import State, Status, read_status, write_status

COMMANDS = ["compare", "train", "evaluate", "score", "report", "list", "check", "doctor", "world"]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def harness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Run the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def train_and_test(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name two small data sets of different rooms."""
    root = tmp_path_factory.mktemp("sources")
    train = write_small_dataset(root / "train", scenes=2, seed=1, split="train")
    test = write_small_dataset(root / "test", scenes=1, seed=2, split="test")
    return ["--data", f"{train}#train", "--benchmark-data", str(test)]


def mistake(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended
    assert "Traceback" not in ended.out + ended.err
    flat = " ".join(ended.err.split())
    for word in words:
        assert word in flat, flat


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "--methods", "sft,gpro"], ["--methods gpro", "did you mean grpo?"]),
        (["compare", "--methods", "sft,,dpo"], ["--methods sft,,dpo", "separated by commas"]),
        (["compare", "--methods", "sft,sft"], ["sft is named twice"]),
        (["compare", "--methods", "base"], ["--methods base", "leave it out"]),
        (["compare", "--model", "tinny"], ["--model tinny", "did you mean tiny?"]),
        (["compare", "-s", "model.name=tinny"], ["tinny", "did you mean tiny?"]),
        (["compare", "--model", "./nothing/here"], ["./nothing/here"]),
        (["compare", "-s", "tain.warmup_steps=3"], ["-s tain.warmup_steps", "did you mean train?"]),
        (["compare", "-s", "train.warmup_step=3"], ["train.warmup_step", "did you mean warmup_steps?"]),
        (["compare", "-s", "grpo.betta=0.1"], ["betta", "did you mean beta?"]),
        (["compare", "-s", "grpo.beta=hot"], ["beta", "hot"]),
        (["compare", "-s", "train.learning_rate=-1"], ["train.learning_rate", "-1"]),
        (["compare", "-s", "budget.kind=epochs"], ["budget.kind", "epochs", "'examples'"]),
        (["compare", "-s", "seeds"], ["-s seeds", "key=value"]),
        (["compare", "-s", "reward.weights.mrra=1"], ["reward.weights.mrra", "did you mean mra?"]),
        (["compare", "-s", "evaluation.benchmark=vsi"], ["vsi", "vsibench"]),
        (["compare", "--seeds", "0"], ["--seeds", "greater than or equal to 1"]),
        (["compare", "--workers", "none"], ["--workers", "integer"]),
        (["compare", "--methds", "sft"], ["--methds", "--methods"]),
        (["compare", "--study", "nothing.toml"], ["nothing.toml", "no such study file", "tiny"]),
        (["compare", "--benchmark-data", "world:tst"], ["world:tst", "did you mean test?"]),
        (["compare", "--benchmark-data", "no/such/folder"], ["no/such/folder", "no such folder or file"]),
        (["train", "gpro"], ["train gpro", "did you mean grpo?"]),
        (["train"], ["METHOD"]),
        (["evaluate", "nothing"], ["nothing", "no such checkpoint"]),
        (["score", "none.jsonl", "--benchmark", "world:test"], ["none.jsonl", "no such file"]),
        (["score", "none.jsonl"], ["--benchmark"]),
        (["report", "runs/none"], ["runs/none", "no such run directory"]),
        (["report", "."], ["not a run directory"]),
        (["check", "gpro"], ["check gpro", "did you mean grpo?"]),
        (["world", "rendr"], ["rendr"]),
        (["compar"], ["compar"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0] in [*COMMANDS, "compar"] else "",
)
def test_mistakes(harness: Cli, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    mistake(harness(*arguments), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'name = "x"\n[train\n', ["study.toml", "not valid TOML", "line 2"]),
        (b"\xff\xfe", ["study.toml", "cannot be read"]),
        (b'extends = "tinny"', ["tinny", "no such study file"]),
        (b'name = "x"\n', ["study.toml.budget"]),
        (b'extends = "tiny"\nmethods = ["sft", "gpro"]', ["methods: gpro", "did you mean grpo?"]),
        (b'extends = "tiny"\n[tarin]\nwarmup_steps = 1', ["tarin", "did you mean train?"]),
        (b'extends = "tiny"\n[method.gpro]\nbeta = 1', ["method.gpro", "did you mean grpo?"]),
    ],
)
def test_study_files(harness: Cli, tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / "study.toml").write_bytes(content)
    mistake(harness("compare", "--study", "study.toml", "--dry-run"), *words)


def test_a_folder_as_study_file_and_a_file_as_run_directory(harness: Cli, tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    mistake(harness("compare", "--study", "folder.toml"), "folder.toml", "cannot be read")
    (tmp_path / "taken").touch()
    mistake(harness("compare", "--out", "taken"), "--out taken", "name a folder")


def test_a_checkpoint_of_no_run_needs_a_study(harness: Cli, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    mistake(harness("evaluate", "model"), "--study")


def test_training_on_the_benchmark_is_refused(harness: Cli, train_and_test: list[str]) -> None:
    benchmark = train_and_test[-1]
    mistake(harness("compare", "--data", benchmark, "--benchmark-data", benchmark), "rooms of the benchmark")


def test_a_record_that_is_bad_is_named_with_its_line(harness: Cli, tmp_path: Path, train_and_test: list[str]) -> None:
    root = write_small_dataset(tmp_path / "bad", scenes=1)
    with (root / "test.jsonl").open("a") as file:
        file.write('{"id": 99, torn\n')
    options = [*train_and_test[:2], "--benchmark-data", str(root)]
    mistake(harness("compare", *options), "test.jsonl, line 4")
    (root / "world" / "test_000000.mp4").unlink()
    mistake(harness("compare", *options), "test_000000.mp4")


def test_a_full_disk_is_a_message(harness: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setattr("harness.commands.plugins.list_plugins", full)
    mistake(harness("list"), "No space left on device: runs/x")


def test_ctrl_c_exits_130(harness: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.commands.plugins.list_plugins", interrupt)
    assert harness("list").code == 130


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(harness: Cli, command: str) -> None:
    ended = harness(command, "--help")
    assert ended.code == 0
    assert f"harness {command}" in ended.out
    assert all(len(line) <= 100 for line in ended.out.splitlines())


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['harness', '--help']\n"
        "import harness.cli\n"
        "try: harness.cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'pydantic'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "compare" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_module_and_version() -> None:
    command = [sys.executable, "-m", "harness", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "0.1.0"


def test_list_shows_a_broken_plugin_and_the_others(harness: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    entries = registry._entries
    broken = EntryPoint("mine", "no_such_module:Mine", "harness.algorithms")
    monkeypatch.setattr(registry, "_entries", lambda g: entries(g) | ({"mine": broken} if g == "algorithms" else {}))
    ended = harness("list")
    assert ended.code == 0
    assert "ModuleNotFoundError" in ended.out and "grpo" in ended.out and "Traceback" not in ended.out


def test_doctor_never_raises(harness: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> None:
        raise RuntimeError("no such thing as memory")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("psutil.virtual_memory", explode)
    ended = harness("doctor")
    assert ended.code == 1
    assert "no such thing as memory" in ended.out and "offline mode is on" in ended.out
    assert "world:test" in ended.out


def test_doctor_says_when_the_model_asked_for_is_not_there(harness: Cli) -> None:
    ended = harness("doctor", "--model", "tinny")
    assert ended.code == 1
    assert "did you mean tiny?" in ended.out


def test_score_prints_json_alone(harness: Cli, tmp_path: Path, train_and_test: list[str]) -> None:
    benchmark = train_and_test[-1]
    answers = [{"id": 0, "answer": "4"}, {"id": 1, "answer": "B."}, {"id": 2, "answer": "nonsense"}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    ended = harness("score", "answers.jsonl", "--benchmark", benchmark, "--scorer", "official", "--json")
    assert ended.code == 0, ended
    found = json.loads(ended.out)
    assert list(found) == ["official"]
    assert found["official"]["overall"] == pytest.approx(200 / 3)
    assert found["official"]["n"] == 3
    assert "66.67" in harness("score", "answers.jsonl", "--benchmark", benchmark).out
    mistake(
        harness("score", "answers.jsonl", "--benchmark", benchmark, "--scorer", "offical"), "did you mean official?"
    )


FAKE_CELL = """
import sys
from pathlib import Path
from harness.io import read_json, write_json
from harness.study.status import State, Status, write_status
folder = Path(sys.argv[1]) / "cells" / sys.argv[2]
config = read_json(folder / "config.json")
if config["method"] == FAILS:
    write_status(folder, Status(state=State.FAILED, reason="loss is not finite"))
    sys.exit(1)
if config["method"] != "base":
    write_json(folder / "compute.json", {"examples": 960})
with (folder / "runs").open("a") as file:
    file.write("x")
write_status(folder, Status(state=State.DONE, phase="evaluate"))
"""


class FakeReport:
    """Writes the ids of the matrix's done cells."""

    def write(self, run_dir: Path, **_: object) -> list[Path]:
        cells = read_json(run_dir / "matrix.json")["cells"]
        done = [c["id"] for c in cells if read_status(run_dir / "cells" / c["id"]).state is State.DONE]
        write_json(run_dir / "report" / "scores.json", done)
        return [run_dir / "report" / "scores.json"]

    def render(self, console: Console, run_dir: Path, **_: object) -> None:
        console.print("THE TABLE")


@pytest.fixture
def fake_cells(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let cells and report be fakes; name the method that fails."""

    def fake(fails: str = "") -> None:
        code = FAKE_CELL.replace("FAILS", repr(fails))

        def run(*args, **options):
            return run_cells(*args, **options, poll=0.02, command=lambda d, c: [sys.executable, "-c", code, str(d), c])

        monkeypatch.setattr(comparing, "run_cells", run)

    load = registry.load
    monkeypatch.setattr(registry, "load", lambda g, n, **k: FakeReport if g == "reports" else load(g, n, **k))
    return fake


def runs_of(run_dir: Path) -> dict[str, int]:
    """How often each cell was computed to its end."""
    return {file.parent.name.split("-")[0]: len(file.read_text()) for file in run_dir.glob("cells/*/runs")}


def files_below(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_compare_computes_what_is_missing_and_nothing_twice(
    harness: Cli, tmp_path: Path, train_and_test: list[str], fake_cells: Callable[..., None]
) -> None:
    run_dir, arguments = tmp_path / "out", ["compare", "--out", "out", *train_and_test, "--methods"]
    fake_cells(fails="dpo")
    ended = harness(*arguments, "sft,dpo")
    assert ended.code == 1, ended
    assert "loss is not finite" in ended.out and "log.txt" in ended.out
    assert "THE TABLE" in ended.out and "scores.json" in ended.out
    assert runs_of(run_dir) == {"base": 1, "sft": 1}

    fake_cells()
    assert harness(*arguments, "sft,dpo").code == 0
    assert runs_of(run_dir) == {"base": 1, "sft": 1, "dpo": 1}
    ended = harness(*arguments, "sft,dpo")
    assert (ended.code, runs_of(run_dir)) == (0, {"base": 1, "sft": 1, "dpo": 1})
    assert "every cell is done" in ended.out

    assert harness(*arguments, "sft,grpo").code == 0
    assert runs_of(run_dir) == {"base": 1, "sft": 1, "dpo": 1, "grpo": 1}
    reported = [name.split("-")[0] for name in read_json(run_dir / "report" / "scores.json")]
    assert reported == ["base", "sft", "grpo"]


def test_failed_cells_without_a_comparison_exit_1(
    harness: Cli, train_and_test: list[str], fake_cells: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_yet(self: FakeReport, run_dir: Path, **_: object) -> list[Path]:
        raise UserError("the base model is not evaluated")

    fake_cells(fails="base")
    monkeypatch.setattr(FakeReport, "write", nothing_yet)
    ended = harness("compare", "--methods", "sft", *train_and_test)
    assert ended.code == 1
    assert "loss is not finite" in ended.out and "the base model is not evaluated" in ended.out


def test_train_computes_one_cell_that_compare_reuses(
    harness: Cli, tmp_path: Path, train_and_test: list[str], fake_cells: Callable[..., None]
) -> None:
    fake_cells()
    ended = harness("train", "sft", "--seed", "1", "--out", "out", *train_and_test)
    assert ended.code == 0, ended
    assert runs_of(tmp_path / "out") == {"sft": 1}
    assert not (tmp_path / "out" / "matrix.json").exists()
    harness("compare", "--methods", "sft", "--seeds", "2", "--out", "out", *train_and_test)
    assert sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "out" / "cells").iterdir()) == [
        "base-tiny-s0",
        "sft-tiny-s0",
        "sft-tiny-s1",
    ]
    assert all(len(file.read_text()) == 1 for file in (tmp_path / "out").glob("cells/*/runs"))


def test_a_dry_run_shows_the_matrix_and_writes_nothing(
    harness: Cli, tmp_path: Path, train_and_test: list[str], fake_cells: Callable[..., None]
) -> None:
    fake_cells()
    ended = harness("compare", "--methods", "sft", "--dry-run", *train_and_test)
    assert ended.code == 0, ended
    assert "train, evaluate" in ended.out and "unknown" in ended.out
    assert not list(tmp_path.iterdir())
    harness("compare", "--methods", "sft", *train_and_test)
    before = files_below(tmp_path)
    ended = harness("compare", "--methods", "sft,dpo", "--seeds", "2", "--dry-run", *train_and_test)
    rows = {tuple(line.split()[:2]): line for line in ended.out.splitlines() if line.strip()}
    assert "nothing" in rows["base", "done"] and "nothing" in rows["sft", "0"]
    assert "train, evaluate" in rows["sft", "1"] and "train, evaluate" in rows["dpo", "0"]
    assert files_below(tmp_path) == before


def test_a_dry_run_without_the_world_does_not_build_it(harness: Cli, tmp_path: Path) -> None:
    ended = harness("compare", "--dry-run")
    assert ended.code == 0, ended
    assert "world:test" in ended.out and "generated" in ended.out
    assert not list(tmp_path.iterdir())


def test_the_second_process_on_a_run_directory_is_told(
    harness: Cli, tmp_path: Path, train_and_test: list[str], fake_cells: Callable[..., None]
) -> None:
    fake_cells()
    with hold(tmp_path / "out", "run directory"):
        mistake(harness("compare", "--out", "out", *train_and_test), "run directory is in use by process", "--out")


def test_compare_says_that_it_can_go_on_after_an_interruption(
    tmp_path: Path, train_and_test: list[str], fake_cells: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "run_cells", interrupted)
    out = io.StringIO()
    changes = {"data.train": train_and_test[1], "data.benchmark": train_and_test[3]}
    with pytest.raises(KeyboardInterrupt):
        comparing.compare(load_study("tiny", changes=changes), tmp_path, dry_run=False, console=Console(file=out))
    assert "goes on where it stopped" in out.getvalue()


def test_a_report_without_anything_done_is_an_error_not_a_crash(tmp_path: Path) -> None:
    write_status(tmp_path, Status())
    with pytest.raises(UserError):
        comparing.write_report(tmp_path, Console(file=io.StringIO()))
