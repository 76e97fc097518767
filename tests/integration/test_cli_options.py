"""The table of options: every command that can use an option takes it, and it means the same everywhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from cli_kit import Cli, mistake

from harness.cli.app import app
from harness.cli.options import StudyOptions, TrainOptions, TuneOptions
from harness.cli.resolve import resolve_study
from harness.config.study import StudyConfig, load_study
from harness.errors import UserError
from harness.plugins import registry

NOT_TAKEN = {
    "train": {"methods", "seeds", "with_published"},  # METHOD and --seed name the cell; it has no report
    "evaluate": {"methods", "seeds", "data", "drop_leaking", "workers", "with_published"},  # it does not train
}


def walk(command: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """All commands of the command line, with what one types for them."""
    command = command or typer.main.get_command(app)
    if not hasattr(command, "commands"):
        yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from walk(below, f"{name} {word}".strip())


COMMANDS = dict(walk())


@pytest.mark.parametrize("name", ["compare", "plan", "train", "tune", "evaluate", "doctor"])
def test_commands_on_studies_take_every_option_of_a_study(name: str) -> None:
    taken = {parameter.name for parameter in COMMANDS[name].params}
    expected = {field.name for field in fields(StudyOptions)} - NOT_TAKEN.get(name, set())
    assert expected == taken & {field.name for field in fields(StudyOptions)}


def test_an_option_means_the_same_in_every_command() -> None:
    """Same value, type, heading and help; only the default, the bounds and what repeats may differ by command."""
    meanings: dict[str, dict[tuple[Any, ...], list[str]]] = {}
    for name, command in COMMANDS.items():
        for option in command.params:
            if option.param_type_name == "option":
                # The world's splits, seeds and processes are its own.
                flag = option.opts[0] if option.opts[0] in ("--out", "--json") else f"{name[:5]} {option.opts[0]}"
                flag = flag if flag.startswith("world") else option.opts[0]
                help_ = re.sub(r"\s*\\\[default: .*\]$", "", option.help or "")
                kind = option.type_descriptor.annotation
                kind = (*get_args(kind), kind)[0]
                meaning = (tuple(option.opts), option.metavar, kind, option.rich_help_panel, help_)
                meanings.setdefault(flag, {}).setdefault(meaning, []).append(name)
    assert len(meanings) > 40
    assert {option: found for option, found in meanings.items() if len(found) > 1} == {}


@pytest.mark.parametrize("table", [StudyOptions, TrainOptions, TuneOptions])
def test_every_study_key_of_the_table_exists(table: type[StudyOptions]) -> None:
    tiny = load_study("tiny").model_dump()
    for field in fields(table):
        value: Any = tiny
        for part in filter(None, field.metadata["sets"].split(".")):
            value = value[part]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[StudyConfig]:
    """The studies that commands hand on, instead of computing anything."""
    found: list[StudyConfig] = []

    def record(result: Any) -> Callable[..., Any]:
        def run(*arguments: Any, **_: Any) -> Any:
            found.append(next(one for one in arguments if isinstance(one, StudyConfig)))
            return result

        return run

    for name in ("compare.compare", "compare.train", "tune.tune", "plan.print_plan"):
        monkeypatch.setattr(f"harness.study.{name}", record(0))
    monkeypatch.setattr("harness.study.work.evaluate_checkpoint", record({"overall": 50.0}))
    monkeypatch.setattr("harness.memory.estimate.print_estimates", record(True))
    return found


@pytest.mark.parametrize("command", ["compare", "plan", "train sft", "tune", "evaluate CHECKPOINT", "doctor"])
def test_each_command_hands_the_same_study_on(
    harness: Cli, tmp_path: Path, train_and_test: list[str], asked: list[StudyConfig], command: str
) -> None:
    (tmp_path / "CHECKPOINT").mkdir()
    benchmark, cache = train_and_test[-1], str(tmp_path / "elsewhere")
    options = ["--study", "tiny", "--limit", "5", "--split", "test", "--skip-bad", "--engine", "naive"]
    options += ["--benchmark-data", benchmark, "--benchmarks", "vsibench,general=x.jsonl", "--cache", cache]
    ended = harness(*command.split(), *options, "-s", "evaluation.batch=3", "--model", "tiny")
    assert (ended.code, len(asked)) == (0, 1), ended
    study = asked[0]
    assert (study.data.benchmark, study.data.split, study.data.benchmark_limit) == (benchmark, "test", 5)
    assert study.data.skip_bad and not study.data.drop_leaking and study.model.engine == "naive"
    assert study.evaluation.more == {"general": {"file": "x.jsonl"}} and study.evaluation.batch == 3
    assert study.runtime.cache == Path(cache) and study.model.name == "tiny"


def test_options_of_one_command(harness: Cli, asked: list[StudyConfig]) -> None:
    assert harness("train", "grpo:beta=0", "--seed", "3").code == 0
    assert (asked[-1].methods, asked[-1].seeds, asked[-1].first_seed) == (("grpo:beta=0",), 1, 3)
    assert harness("tune", "--trials", "7", "--development", "world:dev@20", "--seeds", "2").code == 0
    assert (asked[-1].tune.trials, asked[-1].tune.development, asked[-1].seeds) == (7, "world:dev@20", 2)
    for arguments in (["train", "grpo", "--seeds", "2"], ["evaluate", ".", "--workers", "2"], ["plan", "--seed", "1"]):
        mistake(harness(*arguments), "No such option", next(one for one in arguments if one.startswith("--")))


def test_an_option_and_its_key_are_one_setting() -> None:
    """Given as both, one of the two would have no effect."""
    for option, key, value in (("limit", "data.benchmark_limit", 9), ("engine", "model.engine", "naive")):
        short = resolve_study(StudyOptions(**{option: value}))
        assert short == resolve_study(StudyOptions(settings=[f"{key}={value}"]))
        with pytest.raises(UserError, match=rf"`--{option} {value}` and `-s {key}={value}` set the same"):
            resolve_study(StudyOptions(**{option: value}, settings=[f"{key}={value}"]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"settings": ["seeds=2", "seeds=3"]}, "`-s seeds=2` and `-s seeds=3`"),
        ({"settings": ["grpo.beta=0", "method.grpo.beta=1"]}, "`-s grpo.beta=0` and `-s method.grpo.beta=1`"),
        (
            {"settings": ["train={warmup_steps=1}", "train.warmup_steps=2"]},
            "`-s train=.* and `-s train.warmup",
        ),
        ({"benchmark_data": "x", "settings": ["data.benchmark=y"]}, "`--benchmark-data x` and `-s data.benchmark=y`"),
        ({"methods": "sft", "settings": ['methods=["dpo"]']}, "`--methods sft` and `-s methods="),
        ({"model": "tiny", "settings": ["model.name=2b"]}, "`--model tiny` and `-s model.name=2b`"),
        ({"benchmarks": "vsibench", "settings": ["evaluation.benchmark=x"]}, "`--benchmarks vsibench` and `-s"),
    ],
)
def test_a_setting_is_given_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"{words}.* set the same; leave one out"):
        resolve_study(StudyOptions(**options))


def test_a_value_that_is_zero_is_a_value(harness: Cli, tmp_path: Path, asked: list[StudyConfig]) -> None:
    (tmp_path / "later.toml").write_text('extends = "tiny"\nfirst_seed = 5')
    for options, seed in (([], 5), (["--seed", "0"], 0)):
        assert harness("train", "sft", "--study", "later.toml", *options).code == 0
        assert asked[-1].first_seed == seed


def test_a_registered_model_brings_its_preset_and_a_folder_the_large_one(tmp_path: Path) -> None:
    assert resolve_study(StudyOptions(model="2b")) == load_study("2b")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    study = resolve_study(StudyOptions(model=str(tmp_path / "mine")))
    assert (study.name, study.model.name, study.budget) == ("mine", str(tmp_path / "mine"), load_study("2b").budget)


@pytest.mark.parametrize("value", ["--split", "--margin", "--cache", "--base"])
def test_options_on_samples_need_samples(harness: Cli, value: str) -> None:
    mistake(harness("report", ".", value, "7"), f"{value}`: only with --samples")


def test_doctor_names_a_package_that_is_too_old(harness: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import version

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("harness.cli.doctor.version", lambda name: "4.1" if name == "transformers" else version(name))
    ended = harness("doctor")
    assert ended.code == 1
    assert "4.1: pip install 'transformers" in " ".join(ended.out.split())


def test_doctor_looks_at_the_studys_own_data(harness: Cli, tmp_path: Path, train_and_test: list[str]) -> None:
    ended = harness("doctor", "--methods", "sft", "--workers", "2", *train_and_test)
    assert ended.code == 0, ended
    assert "".join(f"here: {train_and_test[3]}".split()) in "".join(ended.out.split()) and "2b: " not in ended.out
    assert "x 2 cells at a time" in ended.out and "grpo:" not in ended.out


def test_training_data_is_the_split_train_whatever_else_the_folder_has(
    harness: Cli, tmp_path: Path, train_and_test: list[str]
) -> None:
    folder = Path(train_and_test[1].removesuffix("#train"))
    shutil.copytree(folder, tmp_path / "mine")
    shutil.copy(tmp_path / "mine" / "train.jsonl", tmp_path / "mine" / "dev.jsonl")
    options = ("--methods", "sft", "--data", "mine", *train_and_test[2:])
    ended = harness("doctor", *options)
    assert "mine, split train" in " ".join(ended.out.split()), ended
    ended = harness("compare", *options, "--dry-run")
    assert ended.code == 0, ended


def test_list_has_every_plugin_group_and_show_every_kind(harness: Cli) -> None:
    ended = harness("list")
    assert ended.code == 0, ended
    for group in registry.GROUPS:
        assert f"\n{group} " in ended.out and all(f"\n  {name} " in ended.out for name in registry.names(group))
    for group in ("algorithms", "rewards", "benchmarks", "samplers"):
        ended = harness("show", registry.names(group)[0])
        assert ended.code == 0 and f"{group}, " in ended.out, ended
