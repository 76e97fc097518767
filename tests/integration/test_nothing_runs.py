"""What a run directory names is data: reading results runs no code, needs no data and writes only the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from cli_kit import Cli, mistake
from study_kit import QUIET, finish_cell, prepare_cells, small_study

from harness.config.study import StudyConfig
from harness.data import sources
from harness.io import digest_of, read_json, sha256_file, write_json
from harness.plugins import registry
from harness.study import work
from harness.study.asked import Asked, EvaluationManifest, digest_of_questions
from harness.study.compare import describe_study, score_cells
from harness.study.declared import declare
from harness.study.description import read_description, write_description
from harness.study.matrix import Cell
from harness.study.planning import make_plan
from harness.study.process import cell_command

PLUGIN = '''
from pathlib import Path

from harness.api import Algorithm, Benchmark, ItemScore, Needs, Reward, Sample, Sampled, Sampler, ScoringRule

Path(__file__).with_name("ran").touch()


class Mine(Algorithm):
    """Maximum likelihood of the gold answers."""

    name, title = "mine", "Mine"
    needs = Needs(gold=True)

    def experience(self, groups):
        return [Sample(one, unit=i) for i, group in enumerate(groups) for one in group.completions]

    def loss(self, batch):
        return -batch.seq(batch.policy), {}


class Nothing(Reward):
    """Nothing."""

    name = "nothing"

    def score(self, text, record, mode):
        return 0.0


class Lengths(Benchmark):
    """Longer is better."""

    name, cluster, average = "lengths", "scene", "the mean length"
    scorers = {"ten": ScoringRule("a tenth a character"), "any": ScoringRule("any answer")}

    def score(self, answer, record, scorer):
        return ItemScore(min(1.0, len(answer) / 10) if scorer == "ten" else float(len(answer) > 0))


class Constant(Sampler):
    """Says the same."""

    name = "constant"

    def sample(self, prompts, n, *, temperature, max_new_tokens, seed, places=None):
        return [[Sampled((self.policy.end_tokens[0],), "", (0.0,), False)] * n for _ in prompts]
'''

ANSWERS = {str(number): "x" * number for number in range(9)}


class Run(NamedTuple):
    """A finished run whose method, reward, benchmark and sampler are from one file."""

    folder: Path
    study: StudyConfig
    cells: dict[str, Cell]
    file: Path

    @property
    def checkpoint(self) -> Path:
        return self.cells["mine-0"].folder(self.folder) / "checkpoints" / "step-000002"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(registry, "_files", {})
    file = tmp_path / "theirs" / "x.py"
    file.parent.mkdir()
    file.write_text(PLUGIN)
    registry.add_file(file)
    study = small_study(
        tmp_path,
        methods=("mine", "sft"),
        evaluation={"benchmark": "lengths"},
        reward={"weights": {"nothing": 1.0}},
        rollout={"sampler": "constant"},
        runtime={"plugins": (str(file),)},
    )
    _, cells = prepare_cells(study, tmp_path / "run")
    for cell in cells.values():
        finish_cell(tmp_path / "run", cell, ANSWERS, step=0 if cell.is_base else 2, evaluated="lengths")
    found = Run(tmp_path / "run", study, cells, file)
    found.checkpoint.mkdir(parents=True)
    monkeypatch.setattr(registry, "_files", {})  # as in another process
    file.with_name("ran").unlink()
    return found


def small_data(root: Path) -> list[str]:
    """Options that name the data of :func:`small_study`."""
    return ["--data", f"{root}/data#train", "--benchmark-data", f"{root}/data#test", "--cache", f"{root}/c"]


def test_results_are_read_without_the_code_and_the_data_that_they_name(
    run: Run, harness: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for state in ("all there", "the file is gone", "the data are gone"):
        if state == "the file is gone":
            run.file.unlink()
        if state == "the data are gone":
            shutil.rmtree(tmp_path / "data")
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(run.folder / "report")}
        ended = harness("report", str(run.folder))
        assert ended.code == 0 and "Scores on Lengths" in ended.out, (state, ended)
        after = {path for path in tmp_path.rglob("*") if not path.is_relative_to(run.folder / "report")}
        assert {path.name for path in after - before} <= {"report"}, state
        rows = json.loads((run.folder / "report" / "scores.json").read_text())["rows"]
        assert {row["method"]: row["overall"] for row in rows} == pytest.approx(
            dict.fromkeys(("base", "mine", "sft"), 40)
        )
        table = json.loads((run.folder / "report" / "sensitivity.json").read_text())["rows"]
        assert table[1]["overall_any"] == pytest.approx(100 * 8 / 9)
        for name in ("fairness.md", "methods.md", "index.html"):
            assert "Mine" in (run.folder / "report" / name).read_text()
    assert not run.file.with_name("ran").exists() and not registry.added_files()
    assert "Frames are not available for 3 of 3 videos" in (run.folder / "report" / "index.html").read_text()


def test_nothing_is_asked_of_registry_or_sources(run: Run, harness: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even an installed plugin is imported, and a source is neither built nor downloaded."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(arguments)

    study = read_json(run.folder / "study.json")
    study["data"] |= {"benchmark": "hub:some/body", "train": "world:train@7"}
    write_json(run.folder / "study.json", study)
    digest = digest_of(StudyConfig(**study).model_dump(mode="json"))
    write_description(run.folder, read_description(run.folder, run.study).model_copy(update={"study": digest}))
    declare(run.folder, StudyConfig(**study), {"report.pairs": [["base", "mine"]], "report.margin": 1.0}, QUIET)
    for name in ("find", "load", "names"):
        monkeypatch.setattr(registry, name, refuse)
    monkeypatch.setattr(sources, "resolve_source", refuse)
    monkeypatch.setattr("harness.study.setup.resolve_source", refuse)
    assert harness("report", str(run.folder)).code == 0


def test_other_commands_do_not_run_it_either(run: Run, harness: Cli, tmp_path: Path) -> None:
    other = [
        "--data",
        f"{tmp_path}/data#train",
        "--benchmark-data",
        f"{tmp_path}/data#test",
        "--cache",
        f"{tmp_path}/c",
    ]
    assert harness("plan", "--pilot", str(run.folder), *other).code in (0, 2)
    assert harness("compare", "--dry-run", "--methods", "sft", *other, "--out", str(run.folder)).code == 0
    for words in (["doctor"], ["list"], ["report", str(run.folder)], ["report", str(run.folder), "--out", "elsewhere"]):
        harness(*words)
    assert not run.file.with_name("ran").exists()
    assert harness("report", str(run.folder), "--plugin", str(run.file)).code == 0  # the user named it
    assert run.file.with_name("ran").exists()


def test_a_pilot_with_two_methods_needs_no_plugin(run: Run, harness: Cli, tmp_path: Path) -> None:
    answers = {key: text[:3] for key, text in ANSWERS.items()}
    registry.add_file(run.file)
    finish_cell(run.folder, run.cells["mine-0"], answers, step=2, evaluated="lengths")
    registry._files.clear()
    run.file.unlink()
    other = [
        "--data",
        f"{tmp_path}/data#train",
        "--benchmark-data",
        f"{tmp_path}/data#test",
        "--cache",
        f"{tmp_path}/c",
    ]
    ended = harness("plan", "--methods", "sft,dpo", "--pilot", str(run.folder), *other)
    assert ended.code == 0 and "on Lengths" in " ".join(ended.out.split())


def test_evaluate_asks_for_the_file_and_says_which(run: Run, harness: Cli, tmp_path: Path) -> None:
    digest = sha256_file(run.file)
    mistake(harness("evaluate", str(run.checkpoint)), f"--plugin {run.file} (SHA-256 {digest})", "not run unasked")
    assert not run.file.with_name("ran").exists()
    named = harness("evaluate", str(run.checkpoint), "--plugin", str(run.file))
    assert "SHA-256" not in named.err  # the file is the run's; only the empty checkpoint is refused
    registry._files.clear()
    other = tmp_path / "x.py"
    other.write_text(PLUGIN + "\n# another version\n")
    changed = harness("evaluate", str(run.checkpoint), "--plugin", str(other))
    flat = " ".join(changed.err.split())
    assert f"{other} is not the version of {run.file} that the run used" in flat and digest[:16] in flat


def test_a_checkpoint_is_evaluated_without_the_folders_that_its_run_directory_names(
    run: Run, harness: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run.checkpoint.parent.parent / "config.json"
    document = read_json(config)
    document["study"]["runtime"] |= {"cache": str(tmp_path / "elsewhere"), "frames_gb": 1e-9, "threads": 3}
    write_json(config, document)
    asked: list[StudyConfig] = []
    monkeypatch.setattr(work, "evaluate_checkpoint", lambda checkpoint, study, out: asked.append(study) or {})
    for more in ([], ["--cache", "mine"]):
        assert harness("evaluate", str(run.checkpoint), "--plugin", str(run.file), *more).code == 0
    found = [(one.runtime.cache, one.runtime.frames_gb, one.runtime.threads) for one in asked]
    assert found == [(Path("cache"), 100, 3), (Path("mine"), 100, 3)]


def test_a_study_file_that_the_user_names_is_code(run: Run, harness: Cli, tmp_path: Path) -> None:
    ended = harness("compare", "--dry-run", "--study", str(run.folder / "study.toml"), "--out", str(tmp_path / "new"))
    assert ended.code == 0 and run.file.with_name("ran").exists()


def test_a_cell_runs_the_files_of_its_launcher(run: Run) -> None:
    assert cell_command(run.folder, "x")[-1] == "x"
    registry.add_file(run.file)
    assert cell_command(run.folder, "x")[-1] == str(run.file)


def test_an_edited_scorer_takes_effect_in_the_next_comparison_alone(run: Run, harness: Cli) -> None:
    """The answers stay as they are; a report without the code shows what was scored last."""
    step = run.cells["mine-0"].folder(run.folder) / "lengths" / "step-000002"
    answers = (step / "samples.jsonl").read_bytes()
    run.file.write_text(PLUGIN.replace("len(answer) / 10", "len(answer) / 20"))
    registry.add_file(run.file)
    rules = describe_study(run.study, run.folder, make_plan(run.study, QUIET), QUIET)
    registry._files.clear()
    mistake(harness("report", str(run.folder)), "scores.json", "another version of the benchmark", "harness compare")
    registry.add_file(run.file)
    score_cells(run.study, run.folder, list(run.cells.values()), rules)
    registry._files.clear()
    assert harness("report", str(run.folder)).code == 0
    rows = json.loads((run.folder / "report" / "scores.json").read_text())["rows"]
    assert rows[1]["overall"] == pytest.approx(20) and (step / "samples.jsonl").read_bytes() == answers


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("scores", ('"parsed":"111111111"', '"parsed":"111111110"'), "digest differs"),
        ("scores", None, "the answers are not scored"),
        ("description", ('"cluster":"scene"', '"cluster":"room"'), "digest differs"),
        ("description", ('"title":"Lengths"', '"title":"VSI-Bench"'), "digest differs"),
        ("description", None, "it has no description.json"),
    ],
)
def test_what_was_edited_is_not_shown(
    run: Run, harness: Cli, name: str, edit: tuple[str, str] | None, words: str
) -> None:
    folder = run.cells["mine-0"].folder(run.folder) / "lengths" / "step-000002" if name == "scores" else run.folder
    path, text = folder / f"{name}.json", (folder / f"{name}.json").read_text()
    if edit is None:
        path.unlink()
    else:
        assert edit[0] in text
        path.write_text(text.replace(*edit))
    mistake(harness("report", str(run.folder)), f"{name}.json", words, "harness compare")


def test_scores_of_other_answers_are_not_shown(run: Run, harness: Cli) -> None:
    one, other = (run.cells[name].folder(run.folder) / "lengths" / "step-000002" for name in ("mine-0", "sft-0"))
    registry.add_file(run.file)
    finish_cell(run.folder, run.cells["sft-0"], dict.fromkeys(ANSWERS, "y"), step=2, evaluated="lengths")
    shutil.copyfile(other / "scores.json", one / "scores.json")
    mistake(harness("report", str(run.folder)), "the scores of other answers")


@pytest.mark.parametrize("words", [["score"], ["report", "--samples"]])
def test_a_file_of_answers_has_nothing_generated_or_downloaded(
    run: Run, harness: Cli, tmp_path: Path, words: list[str]
) -> None:
    records = read_description(run.folder, run.study).benchmark.records
    step = run.cells["sft-0"].folder(run.folder) / "lengths" / "step-000002"
    asked = {"mode": "official", "ids": [one.key for one in records], "questions": digest_of_questions(records)}
    for source in ("world:test@2", "hub:some/body"):
        manifest = EvaluationManifest.read(step).model_copy(update={"asked": Asked(**asked, source=source)})
        manifest.write(step)
        mistake(
            harness(*words, str(step / "samples.jsonl")), f"--benchmark {source}", "neither generated nor downloaded"
        )
    assert not (tmp_path / "cache" / "world").exists()
