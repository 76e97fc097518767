"""Nonsense in every option of every command, and in every key of a study, is refused and named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Cli, mistake
from test_cli_options import COMMANDS

from harness.config.study import StudyConfig, load_study
from harness.errors import UserError
from harness.models.presets import TINY

COUNT = ["0", "-1", "1.5", "many", "99999999999999999999"]
NONSENSE: dict[str, list[str]] = {
    "--methods": ["sft,,grpo", "nonsense", "SFT", "sft,sft", ",", "sft:", "base", "sft dpo"],
    "--model": ["nonsense", "./nonsense", "paper-2b"],
    "--seeds": COUNT,
    "--seed": COUNT[1:],
    "--study": ["nonsense", "nonsense.toml", "."],
    "--set": ["nonsense", "=1", "nonsense=1", "train=1", "train.=1", "train..warmup_steps=1", "learning_rate=1"],
    "--plugin": ["nonsense", "nonsense.py", "."],
    "--data": ["nonsense", "world:nonsense", "world:test@0", "world:test@many", "nonsense#train"],
    "--benchmark-data": ["nonsense", "world:nonsense", "world:test@0", "nonsense#test"],
    "--benchmarks": ["nonsense", "vsibench,nonsense", "vsibench,", "vsibench=x", "vsibench,vsibench", "general"],
    "--split": ["nonsense"],
    "--limit": COUNT,
    "--workers": COUNT,
    "--decoders": COUNT,
    "--engine": ["nonsense", "SHARED"],
    "--pilot": ["nonsense", "."],
    "--trials": COUNT,
    "--development": ["nonsense", "world:nonsense"],
    "--scorer": ["nonsense"],
    "--margin": ["0", "-1", "nan", "inf", "1e9", "wide"],
    "--benchmark": ["nonsense", "world:nonsense", "vsibench=nonsense"],
    "--samples": ["nonsense", "a@b=nonsense", "="],
    "--from": ["nonsense", "./nonsense"],
    "--field": ["nonsense", "=x", "x="],
    "--scannet": ["nonsense"],
    "--scenes": COUNT,
    "--size": ["0", "-28", "85", "big"],
    "--train-scenes": COUNT,
    "--test-scenes": COUNT,
    "--minutes": ["0", "-1", "nan", "soon"],
    "--scale": ["0", "-1", "nan", "big"],
    "--shards": COUNT,
    "--threads": COUNT,
    "--device": ["nonsense"],
    "--folder": ["nonsense"],
    "--world": [],
    "--tower": ["nonsense"],
}
"""Values that each option refuses, whichever command takes it."""

ANYTHING = {"--out", "--cache", "--base", "--picture", "--work"}
"""Options whose value is any name or folder."""

GIVEN = {
    "compare": ["--dry-run"],
    "plan": [],
    "train": ["sft"],
    "tune": ["--dry-run", "--development", "DEV"],
    "evaluate": [TINY.location, "--study", "tiny"],
    "score": ["answers.jsonl", "--benchmark", "TEST"],
    "report": ["--samples", "answers.jsonl", "--benchmark", "TEST"],
    "show": ["grpo"],
    "check": ["grpo"],
}
"""What else a command needs."""

TRIED = [
    (name, option.opts[0], value)
    for name, command in COMMANDS.items()
    for option in command.params
    if option.param_type_name == "option"
    for value in (NONSENSE.get(option.opts[0], []) if name.split()[0] not in ("doctor", "world", "data") else [])
]


def test_every_option_is_tried() -> None:
    valued = {o.opts[0] for c in COMMANDS.values() for o in c.params if o.param_type_name == "option" and not o.is_flag}
    assert valued == NONSENSE.keys() | ANYTHING
    assert len(TRIED) > 200


@pytest.mark.parametrize(("name", "option", "value"), TRIED)
def test_nonsense_is_refused(
    harness: Cli, tmp_path: Path, train_and_test: list[str], name: str, option: str, value: str
) -> None:
    _, train, _, test = train_and_test
    (tmp_path / "answers.jsonl").write_text('{"id": 0, "answer": "4"}\n')
    given = [{"TEST": test, "DEV": train}.get(one, one) for one in GIVEN.get(name, [])]
    if option in given:
        del given[given.index(option) : given.index(option) + 2]
    takes = {one.opts[0] for one in COMMANDS[name].params}
    for flag, text in (("--data", train), ("--benchmark-data", test)):
        given += [flag, text] if flag in takes and flag != option else []
    ended = harness(*name.split(), *given, option, value)
    mistake(ended)
    words = [option, value, *filter(None, re.split("[=,#:]", value))]
    assert any(word in ended.err for word in words), ended.err


@pytest.mark.parametrize("option", ["--minutes", "--scale"])
def test_a_pre_training_without_end_is_refused(harness: Cli, tmp_path: Path, option: str) -> None:
    mistake(harness("world", "pretrain", option, "nan"), option)
    assert not list(tmp_path.iterdir())


def test_a_split_of_a_single_file_is_refused(harness: Cli, tmp_path: Path, train_and_test: list[str]) -> None:
    (tmp_path / "answers.jsonl").write_text('{"id": 0, "answer": "4"}\n')
    file = f"{train_and_test[3]}/test.jsonl"
    mistake(harness("score", "answers.jsonl", "--benchmark", file, "--split", "nonsense"), "nonsense")


def test_an_empty_argument_is_refused(harness: Cli) -> None:
    for arguments in (["compare", "--out", ""], ["compare", "--study="], ["report", " "]):
        mistake(harness(*arguments), "is empty")


# ------------------------------------------------------------------ -s and study files

VALUES = ["{low=1}", "[[]]", "[1]", "-1", "nonsense", "'  '", "true", "1e30", "9999999999", "1979-05-27"]


def keys(model: Any = StudyConfig, prefix: str = "") -> Iterator[str]:
    """All keys of a study, sections included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        yield from keys(field.annotation, f"{prefix}{name}.") if hasattr(field.annotation, "model_fields") else ()


def sensible(key: str, value: str) -> bool:
    """Whether a value that a key takes says something that it can mean."""
    default: Any = load_study("tiny").model_dump()
    for part in key.split("."):
        default = default[part]
    text = default is None or isinstance(default, (str, Path))
    return {
        "[1]": key == "seeds",
        "nonsense": text,
        "true": isinstance(default, bool),
        "1e30": isinstance(default, float) or key == "data.stills_rate",
        "9999999999": isinstance(default, float) or key == "data.stills_rate",
    }.get(value, False)


@pytest.mark.parametrize("key", list(keys()))
def test_a_key_refuses_nonsense_and_is_named(key: str) -> None:
    for value in VALUES:
        try:
            load_study("tiny", overrides=[f"{key}={value}"])
        except UserError as error:
            assert key.split(".")[-1] in str(error) and "Value error" not in str(error), error
            assert len(str(error)) < 700
        else:
            assert sensible(key, value), value
    with pytest.raises(UserError, match=key.split(".")[-1]):
        load_study("tiny", overrides=[f"{key}.nonsense=1"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train = 3", "study.toml.train"),
        ("[[train]]\nlearning_rate = 1.0", "study.toml.train"),
        ("method = 3", "study.toml.method"),
        ("[method]\ngrpo = 3", "study.toml.method.grpo"),
        ("[method.grpo]\ntrain = 3", "method.grpo.train"),
        ("[method.grpo]\ntrain = {learning_rate = {low = 1}}", "method.grpo.train.learning_rate"),
        ("[method.grpo]\nbeta = true", "grpo.beta"),
        ('methods = "grpo"', "study.toml.methods"),
        ("methods = [1]", "study.toml.methods"),
        ("learning_rate = 1e-3", "did you mean train.learning_rate"),
        ("[model]\nlearning_rate = 1e-3", "did you mean train.learning_rate"),
        ("[train]\nlearning_rates = 1e-3", "did you mean learning_rate"),
        ("[runtime]\nplugins = [3]", "runtime.plugins"),
        ('[runtime]\nplugins = "x.py"', "runtime.plugins"),
        ("runtime = 3", "runtime"),
        ("report = 3", "report"),
        ("[report]\npairs = 3", "report.pairs"),
        ('[report]\npairs = [["sft", "dpo", "grpo"]]', "report.pairs"),
        ("[tune.ranges.gpro.beta]\nlow = 0.1\nhigh = 1.0", "did you mean grpo"),
        ("[tune.ranges.all.beta]\nlow = 2.0\nhigh = 1.0", "low must be below high"),
        ("[tune.done.gpro]\ntrials = 3\nchosen = { beta = 0.1 }", "did you mean grpo"),
        ("[budget]\namount = 10.5", "whole number of examples"),
        ("[reward.weights]\ndistance = true", "reward.weights"),
        ("[data]\nvideos = ''", "data.videos"),
        ("name = '..'", "study.toml.name"),
        ("[model]\nname = 3", "model.name"),
        ("extends = 3", "extends"),
        ("extends = ''", "extends"),
    ],
)
def test_study_files_that_say_nonsense(harness: Cli, tmp_path: Path, text: str, words: str) -> None:
    head = "" if text.startswith("extends") else 'extends = "tiny"\n'
    (tmp_path / "study.toml").write_text(f"{head}{text}\n")
    mistake(harness("compare", "--study", "study.toml", "--dry-run"), words)
