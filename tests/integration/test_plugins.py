"""Plugins of one's own: a single file, a package that `harness new` wrote, and the mistakes on the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.api import UserError
from harness.api.testing import check_reward
from harness.api.testing import trial as engine
from harness.cli import app as cli
from harness.config.study import load_study
from harness.io import toml_text
from harness.plugins import registry
from harness.plugins.scaffold import write_package
from harness.study.process import cell_command

ROOT = Path(__file__).parents[2]
METHOD = '''
from harness.api import Algorithm, Needs, Sample


class Imitation(Algorithm):
    """Maximum likelihood of the gold answers."""

    summary = "imitates"

    @property
    def needs(self):
        return Needs(gold=True)

    def experience(self, groups):
        return [Sample(one, unit=i) for i, group in enumerate(groups) for one in group.completions]

    def loss(self, batch):
        return -batch.seq(batch.policy), {}
'''


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_files", {})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Any]:
    """The command line in a folder of its own; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


# ------------------------------------------------------------------ a single file


def test_a_single_file_is_checked_listed_and_compared(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "imitation.py").write_text(METHOD)
    code, out, _ = run("check", "imitation", "--plugin", "imitation.py", "--pure")
    assert code == 0 and "14 of 14 checks passed" in out
    code, out, _ = run("list", "--plugin", "imitation.py")
    assert code == 0 and "imitates" in out and " imitation.py" in out
    code, out, _ = run("show", "imitation", "--plugin", "imitation.py")
    assert code == 0 and "Maximum likelihood" in out and "gold answer. Cost: low" in out


def test_a_study_keeps_its_plugin_files_and_does_not_run_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "imitation.py"
    file.write_text(METHOD)
    registry.add_file(file)
    study = load_study("tiny", methods=["imitation", "sft"])
    assert study.runtime.plugins == (file,)
    assert cell_command(tmp_path, "cell")[-1] == str(file)
    monkeypatch.setattr(registry, "_files", {})  # as in another process: the study read from a file is data
    again = type(study)(**study.model_dump(mode="json"))
    assert again == study and not registry.added_files()
    (tmp_path / "study.toml").write_text(toml_text(study.model_dump(mode="json")))
    for data in (
        load_study(again, methods=["sft"]),
        load_study(tmp_path / "study.toml", methods=["sft"], run_plugins=False),
    ):
        assert data.runtime.plugins == (file,) and not registry.added_files()


def test_a_study_file_names_plugins(tmp_path: Path) -> None:
    (tmp_path / "imitation.py").write_text(METHOD)
    (tmp_path / "mine.toml").write_text(
        f'extends = "tiny"\nmethods = ["imitation"]\n[runtime]\nplugins = ["{tmp_path}/imitation.py"]\n'
    )
    study = load_study(tmp_path / "mine.toml", overrides=["imitation.train.warmup_steps=3"])
    assert study.for_method("imitation").train.warmup_steps == 3


def test_several_classes_in_a_file_have_names(tmp_path: Path) -> None:
    two = METHOD + "\n\nclass Other(Imitation):\n    pass\n"
    (tmp_path / "two.py").write_text(two)
    with pytest.raises(UserError, match="it defines Imitation, Other; give each a name"):
        registry.add_file(tmp_path / "two.py")
    (tmp_path / "two.py").write_text(two.replace("    pass", '    name = "other-one"'))
    registry.add_file(tmp_path / "two.py")
    assert "other-one" in registry.names("algorithms") and "two" not in registry.names("algorithms")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such plugin file"),
        ("import not_a_module_at_all\n", "line 1: fails to import: ModuleNotFoundError"),
        ("x = 1\ndef f(:\n", "line 2: fails to import: SyntaxError"),
        ("x = 1\n", "defines no subclass of Algorithm"),
        (METHOD.replace("def loss", "def los"), "(a method defines `needs`, `experience` and `loss`)"),
        (METHOD.replace("batch.seq(batch.policy)", "batch.policy"), "expected (5,): needs.reduce='sequence'"),
        (METHOD.replace("return [Sample(one, unit=i) for", "return [one for"), "raises AttributeError"),
        (METHOD.replace("    @property\n", ""), "is it a method without @property?"),
        (METHOD.replace("class Imitation", "from algorithms.sft import SFT\n\n\nclass Imitation"), ""),
    ],
)
def test_mistakes_in_a_file(run: Callable[..., Any], tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    code, out, err = run("check", "mine", "--plugin", "mine.py", "--pure")
    assert words in out + err and "Traceback" not in err
    assert (code == 0) == (words == "")


def test_a_name_that_is_taken_names_both(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "sft.py").write_text(METHOD)
    code, _, err = run("list", "--plugin", "sft.py")
    assert code == 2 and "registered twice: algorithms.sft:SFT" in err and "sft.py" in err


def test_what_is_not_registered_says_how_to_register_it(run: Callable[..., Any]) -> None:
    code, _, err = run("check", "my-method")
    assert code == 2 and '[project.entry-points."harness.GROUP"]' in err and "--plugin FILE.py" in err
    assert "GROUP is one of algorithms, rewards, benchmarks, samplers" in err


def test_an_entry_point_that_leads_nowhere(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> None:
    from importlib.metadata import EntryPoint

    known = registry.entry_points
    wrong = {"gone": "no_such_package:Method", "misspelt": "algorithms.sft:SFTT", "module": "algorithms.sft"}
    made = [EntryPoint(name, value, "harness.algorithms") for name, value in wrong.items()]
    monkeypatch.setattr(
        registry,
        "entry_points",
        lambda group: [*known(group=group), *made] if group == "harness.algorithms" else known(group=group),
    )
    for name, words in (
        ("gone", "Is its package installed in this environment"),
        ("misspelt", "has no attribute 'SFTT'. Its entry point must be module:Class"),
        ("module", "is not a subclass of harness.api.Algorithm"),
    ):
        code, _, err = run("check", name, "--pure")
        assert code == 2 and words in err, name
    code, out, _ = run("list")
    assert code == 0 and "broken: ModuleNotFoundError" in out and "sft" in out  # the others are not hurt


# ------------------------------------------------------------------ harness check


def test_check_takes_variants_rewards_and_typos(run: Callable[..., Any]) -> None:
    code, out, _ = run("check", "grpo:beta=0", "--pure")
    assert code == 0 and "grpo:beta=0: 14 of 14 checks passed" in out
    code, out, _ = run("check", "choice")
    assert code == 0 and "choice: 5 of 5 checks passed" in out
    for checked in (["choice"], ["grpo", "--pure"]):
        code, _, err = run("check", *checked, "--cache", "elsewhere")
        assert code == 2 and "--cache" in err
    code, _, err = run("check", "vsibench")
    assert code == 2 and "only methods and rewards have checks" in err
    code, _, err = run("check", "gpro")
    assert code == 2 and "did you mean grpo?" in err


class FakeTrial:
    """Stands for a method's two runs; the weights are given."""

    cost = "1.0 s per step"

    def __init__(self, whole: list[str], resumed: list[str], samples: int = 8) -> None:
        steps = [{"samples": samples, "seconds": 1.0}] * 2
        self.whole = engine.Trained({1: whole[0], 2: whole[1]}, steps, 2**20)
        self.resumed = engine.Trained({1: resumed[0], 2: resumed[1]}, steps, 2**20)


@pytest.mark.parametrize(
    ("trial", "failing", "words"),
    [
        (FakeTrial(["a", "b"], ["a", "b"]), None, ""),
        (FakeTrial(["a", "a"], ["a", "a"]), "trains", "did not change the weights"),
        (FakeTrial(["a", "b"], ["x", "y"]), "repeats", "its own random generator"),
        (FakeTrial(["a", "b"], ["a", "y"]), "resumes", "keep state between steps"),
        (FakeTrial(["a", "a"], ["a", "a"], samples=0), None, ""),
    ],
)
def test_engine_checks_name_the_likely_mistake(trial: Any, failing: str | None, words: str) -> None:
    failed = {}
    for name, check in engine.ENGINE_CHECKS.items():
        try:
            check(trial)
        except engine.ContractError as error:
            failed[name] = str(error)
    assert list(failed) == ([failing] if failing else [])
    assert not failing or words in failed[failing]


def test_rewards_of_the_package_keep_their_contract() -> None:
    for name in registry.names("rewards"):
        failed = [result for result in check_reward(registry.load("rewards", name)) if not result.passed]
        assert not failed, (name, failed)


def test_planted_bugs_in_rewards_are_caught() -> None:
    import itertools
    import math

    from rewards.choice import Choice

    class Flipped(Choice):
        """Wrong is right."""

        def score(self, text: str, record: Any, mode: str) -> float | None:
            value = super().score(text, record, mode)
            return None if value is None else 1 - value

    class Infinite(Choice):
        """A logarithm of nothing."""

        def score(self, text: str, record: Any, mode: str) -> float | None:
            return math.log(len(text)) if text else -math.inf

    class Counting(Choice):
        """Later answers earn more."""

        calls = itertools.count()

        def score(self, text: str, record: Any, mode: str) -> float | None:
            return float(next(self.calls))

    class Brittle(Choice):
        """Takes the first word of an answer that may have none."""

        def score(self, text: str, record: Any, mode: str) -> float | None:
            return float(text.split()[0] == record.ground_truth)

    for bug, check, words in (
        (Flipped, "direction", "sign flipped"),
        (Infinite, "values", "finite float"),
        (Counting, "repeatable", "between calls"),
        (Brittle, "values", "IndexError"),
    ):
        failed = {result.name: result.message for result in check_reward(bug) if not result.passed}
        assert words in failed[check], (bug, failed)


# ------------------------------------------------------------------ harness new


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One package of each kind, installed without a network into a folder of their own."""
    root = tmp_path_factory.mktemp("packages")
    sources = [write_package(kind, f"my-new-{kind}", root / kind) for kind in ("algorithm", "reward", "benchmark")]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", root / "site", *sources], check=True, capture_output=True, timeout=200)
    return root


@pytest.fixture
def installed(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(packages / "site"))
    yield packages
    for name in ("my_new_algorithm", "my_new_reward", "my_new_benchmark"):
        sys.modules.pop(name, None)


def test_new_packages_are_found_shown_and_checked(installed: Path, run: Callable[..., Any]) -> None:
    for kind, count in (("algorithm", 14), ("reward", 5)):
        code, out, _ = run("check", f"my-new-{kind}", "--pure")
        assert code == 0 and f"{count} of {count} checks passed" in out
    code, out, _ = run("list")
    assert code == 0 and all(f"my-new-{kind} 0.1.0" in out for kind in ("algorithm", "reward", "benchmark"))
    code, out, _ = run("show", "my-new-algorithm")
    assert code == 0 and "group_size" in out and ">= 2" in out
    study = load_study(
        "tiny", methods=["my-new-algorithm", "grpo"], changes={"evaluation.benchmark": "my-new-benchmark"}
    )
    assert study.algorithm("my-new-algorithm").needs.rollouts == 8


def test_new_packages_pass_their_own_tests(packages: Path) -> None:
    tests = [packages / kind / "tests" for kind in ("algorithm", "reward", "benchmark")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(packages / "site"), str(ROOT))),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, tests)]
    done = subprocess.run(command, env=environment, cwd=packages, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_new_method_trains_repeats_and_resumes(installed: Path, run: Callable[..., Any]) -> None:
    code, out, _ = run("check", "my-new-algorithm")
    assert code == 0 and "17 of 17 checks passed" in out and "s per step of 4 prompts" in out


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("algorithm", "grpo", "the name is taken (algorithms.grpo:GRPO"),
        ("algorithm", "My Method", "lower-case words joined by dashes"),
        ("algorithm", "json", "a Python module `json` exists"),
        ("metric", "mine", "'algorithm', 'reward', 'benchmark'"),
    ],
)
def test_new_refuses_what_would_not_work(run: Callable[..., Any], kind: str, name: str, words: str) -> None:
    code, _, err = run("new", kind, name)
    assert code == 2 and words in err


def test_new_overwrites_nothing(run: Callable[..., Any], tmp_path: Path) -> None:
    assert run("new", "algorithm", "mine-of-test")[0] == 0
    (tmp_path / "mine-of-test" / "mine_of_test.py").write_text("precious")
    code, _, err = run("new", "algorithm", "mine-of-test")
    assert code == 2 and "the folder is not empty" in err
    assert (tmp_path / "mine-of-test" / "mine_of_test.py").read_text() == "precious"
    shutil.rmtree(tmp_path / "mine-of-test")
