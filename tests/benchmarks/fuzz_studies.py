"""Fuzz targets about studies: their files and settings, run directories, commands."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzz_mutations import (
    ODD_TEXT,
    Input,
    encoded,
    json_text,
    mutated_bytes,
    mutated_document,
    odd_value,
    require,
    special_file,
)
from study_kit import finish_cell, prepare_cells, small_study

from harness.cli import app as cli
from harness.config.study import StudyConfig, load_study
from harness.config.variants import SECTIONS
from harness.console import Console
from harness.errors import UserError
from harness.io import toml_text, write_json
from harness.study.dry_run import print_dry_run
from harness.study.plan import print_plan
from reports.collect import collect
from reports.comparison import Comparison
from reports.page import fairness_card, methods_section
from reports.results import results_of
from reports.statistics import learning_curves, training_metrics
from reports.tables import build_tables

RAN_ON = {"python": "3.11.7", "platform": "Linux", "device": "cpu", "threads": 1, "packages": {"torch": "2.13.0"}} | {
    "argv": ["cell.py", "run", "cell"]
}


def make_seeds(folder: Path) -> None:
    """A finished run."""
    study = small_study(folder / "study", methods=("sft", "dpo"), seeds=2)
    run_dir = folder / "study" / "run"
    _, cells = prepare_cells(study, run_dir)
    right = dict(zip(map(str, range(9)), ["4", "B", "23.5"] * 3, strict=True))
    wrong = right | {"0": "9", "1": "C", "5": "99"}
    for cell in cells.values():
        finish_cell(run_dir, cell, wrong if cell.is_base else right, step=0 if cell.is_base else 2)
        place = cell.folder(run_dir)
        write_json(place / "env.json", RAN_ON)
        write_json(place / "timing.json", {"start": 1.0, "train": 2.0, "evaluate": 3.0})
        lines = [{"step": step, "examples": 2 * step, "seconds": 0.5, "loss": 1.0 / step} for step in (1, 2)]
        if not cell.is_base:
            (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(
        run_dir / ".harness.lock",
        {"holder": {"host": "h", "pid": 1}, "since": "s", "command": "harness compare", "held": True},
    )


# ------------------------------------------------------------------------------------------------------------ studies


@functools.cache
def _whole_document(preset: str) -> dict[str, Any]:
    document: dict[str, Any] = load_study(preset).model_dump(mode="json")
    return document


def study_files(given: Input) -> None:
    """A study's file: a whole document or one that extends a preset."""
    rng, file = given.rng, given.folder / "study.toml"
    preset = rng.choice(("tiny", "2b", "paper-2b"))
    document = _whole_document(preset)
    if rng.random() < 0.5:
        names = rng.sample(sorted(document), 3)
        document = {name: document[name] for name in names} | {"extends": preset, "name": "mine"}
    changed = mutated_document(rng, document)
    if rng.random() < 0.05:
        changed["extends"] = rng.choice(("study.toml", "./study.toml", "/dev/null", "..", "tiny.toml", ""))
    try:
        text = toml_text(changed)
    except (TypeError, AttributeError, ValueError):  # not a table, or a key that is no text
        text = f"{toml_text(document)}\nodd = {json.dumps(odd_value(rng), default=str)[:1000]}\n"
    data = encoded(rng, text)
    file.write_bytes(mutated_bytes(rng, data) if rng.random() < 0.3 else data)
    if rng.random() < 0.03:
        special_file(rng, file)
    check_study(load_study(file), given.folder)


@functools.cache
def _keys() -> tuple[str, ...]:
    """Every key of a study, dotted, and of its methods."""

    def walk(node: Any, path: str) -> Iterator[str]:
        for key, value in node.items():
            yield f"{path}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{path}{key}.")

    document = _whole_document("tiny")
    methods = ("grpo.beta", "grpo.group_size", "sft.learning_rate", "dpo.beta", "grpo.train.learning_rate", "dpo.pairs")
    return (*walk(document, ""), *methods, "grpo", "nonsense", "", ".", "train.", ".train", "name.x", "seeds.x")


_SETTINGS = (
    "1", "2", "3", "8", "0", "0.5", "1e-5", "0.99", "1e400", "nan", "inf", "-1", "true", "false", '"x"', "[1]", "[]",
    "{}", "{a = 1}", "1979-05-27", "0x10", "1_0", "adamw", "full", "lora", "bf16", "official", "think", "steps", "low",
)  # fmt: skip


_LIKELY = {
    bool: ("true", "false"),
    int: ("1", "2", "4", "16", "100", "1e3", "0", "-1", "1000000000000"),
    float: ("0.5", "0.01", "1", "1e-5", "1e-300", "2", "0", "-1", "inf"),
}


def _value_of(key: str) -> Any:
    """What the preset sets a dotted key to."""
    node: Any = _whole_document("tiny")
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def settings(given: Input) -> None:
    """Values of ``-s``, and methods with changes."""
    rng = given.rng
    overrides = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        key = rng.choice(_keys())
        likely = _LIKELY.get(type(_value_of(key)), _SETTINGS)
        value = rng.choice((rng.choice(likely), rng.choice(_SETTINGS), str(rng.choice((*ODD_TEXT, odd_value(rng))))))
        overrides.append(f"{key}={value}" if rng.random() < 0.97 else rng.choice((key, value)))
    methods = None
    if rng.random() < 0.3:
        key = rng.choice(("beta", "group_size", "train.learning_rate", "reward.weights", "x", ""))
        change = f"{key}={rng.choice((*_SETTINGS, *ODD_TEXT))}"
        methods = ["sft", rng.choice(("grpo", "grpo:think", f"grpo:{change}", f"grpo:{change}:{change}", *ODD_TEXT))]
    study = load_study(rng.choice(("tiny", "2b")), overrides=overrides, methods=methods)
    check_study(study, given.folder)
    section, _, key = overrides[0].partition("=")[0].partition(".")
    if len(overrides) == 1 and section in SECTIONS and key in type(getattr(study, section)).model_fields:
        for method in study.methods if methods is None else ():
            ours, theirs = (getattr(getattr(one, section), key) for one in (study, study.for_method(method)))
            require(ours == theirs, f"a setting without effect: -s {overrides[0]} for {method}")


def check_study(study: StudyConfig, folder: Path) -> None:
    """What holds for every study that was accepted: finite numbers, and it is the same when written and read."""
    document = study.model_dump(mode="json")
    for value in _leaves(document):
        require(not isinstance(value, float) or math.isfinite(value), f"a setting that is not finite: {value}")
    again = StudyConfig(**json.loads(json.dumps(document, allow_nan=False)))
    require(again == study, "a study that changes when written as JSON and read")
    file = folder / "again.toml"
    file.write_text(toml_text(document), encoding="utf-8")
    require(load_study(file) == study, "a study that changes when written as TOML and read")
    for method in study.methods:
        study.for_method(method)
        for value in _leaves(study.algorithm(method).config.model_dump()):
            require(not isinstance(value, float) or math.isfinite(value), f"an option of {method} that is not finite")
        study.label(method).encode()


def _leaves(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        for value in node.values():
            yield from _leaves(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _leaves(value)
    else:
        yield node


# -------------------------------------------------------------------------------------------- runs and the command line


def run_directories(given: Input) -> None:
    """A finished run with one or two of its documents damaged, as reported, planned from and resumed."""
    rng, source, run_dir = given.rng, given.seeds / "study" / "run", given.folder / "run"
    shutil.copytree(source, run_dir)
    study_file = run_dir / "study.json"
    text = study_file.read_text().replace(str(given.seeds / "study" / "cache"), str(given.folder / "cache"))
    study_file.write_text(text)
    if rng.random() < 0.2:  # code that reading a run directory must not run: the guard sees that
        (run_dir / "planted.py").write_text("planted = True\n")
        document = json.loads(text)
        document["runtime"]["plugins"] = [str(run_dir / "planted.py")]
        study_file.write_text(text := json.dumps(document))
    study = StudyConfig(**json.loads(text))
    for _ in range(rng.choice((1, 1, 2))):
        files = sorted(path for path in run_dir.rglob("*") if path.is_file() and path.suffix in (".json", ".jsonl"))
        file = rng.choice([*files, run_dir / ".harness.lock", run_dir / "matrix.json", study_file])
        _damage_document(given, file)
    console = Console(file=io.StringIO(), width=120)
    door = rng.random()
    if door < 0.15:
        print_dry_run(study, run_dir, console)
        return
    if door < 0.25:
        print_plan(study, run_dir, pilot=run_dir, console=console)
        return
    collected = collect(run_dir)
    results = results_of(collected)
    if door < 0.3:
        Comparison().write(run_dir, console)
    tables = build_tables(results)
    for table in (tables.scores, tables.pairs):
        if table is not None:
            console.print(table)
            json.loads(table.to_json(), parse_constant=lambda name: require(False, f"{name} in a table"))
    fairness_card(collected), methods_section(collected, tables.contrasts)
    learning_curves(collected), training_metrics(collected)
    scores = results.answers.groupby("method")["score"].mean()
    require(bool(scores.between(0, 1).all()), f"scores of {dict(scores)}")
    if collected.study == study and all(cell.state == "done" for cell in collected.cells):
        full = {"base": 6 / 9, "sft": 1.0, "dpo": 1.0}
        same = all(abs(float(value) - full[str(name)]) < 1e-9 for name, value in scores.items())
        require(same, f"other scores than those of the answers: {dict(scores)}")


def _damage_document(given: Input, file: Path) -> None:
    if file.is_symlink() or (file.exists() and not file.is_file()):  # damaged already: nothing is written through it
        return
    rng, data = given.rng, file.read_bytes() if file.is_file() else b"{}"
    if rng.random() < 0.08:
        file.unlink(missing_ok=True)
        return
    if rng.random() < 0.05:
        special_file(rng, file)
        return
    if rng.random() < 0.2:
        file.write_bytes(mutated_bytes(rng, data))
        return
    lines = [data] if file.suffix != ".jsonl" else data.splitlines()
    at = rng.randrange(len(lines)) if lines else 0
    with contextlib.suppress(ValueError, IndexError):
        document = json.loads(lines[at])
        runtime = document.pop("runtime", None) if file.name == "study.json" else None  # where the study may write
        changed = mutated_document(rng, document)
        if runtime and isinstance(changed, dict):
            changed["runtime"] = runtime
        lines[at] = encoded(rng, json_text(rng, changed))
    file.write_bytes(b"\n".join(lines) + b"\n")


def commands(given: Input) -> None:
    """The command line with odd arguments; nothing is trained. An exit code of 2 with a message is a refusal."""
    rng = given.rng
    (given.folder / "data").symlink_to(given.seeds / "data")
    shutil.copytree(given.seeds / "study" / "run", given.folder / "run")
    (given.folder / "answers.jsonl").write_text('{"id": 0, "answer": "4"}\n{"id": 1, "answer": "B"}\n')
    base: list[list[str]] = [
        ["compare", "--dry-run", "--data", "data#test", "--benchmark-data", "data#test", "-s", "data.frames=4"],
        ["compare", "--dry-run", "--methods", "sft,grpo:beta=0", "--model", "tiny", "--seeds", "2"],
        ["plan", "--study", "2b", "--seeds", "3", "--pilot", "run"],
        ["score", "answers.jsonl", "--benchmark", "data", "--scorer", "tolerant", "--json"],
        ["report", "--samples", "a@0=answers.jsonl", "--benchmark", "data", "--base", "a", "--margin", "1"],
        ["show", "grpo:beta=0"],
        ["data", "prepare", "vsibench", "--from", "data", "--out", "prepared", "--part", "--decoders", "1"],
        ["list"],
    ]
    arguments = list(rng.choice(base))
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.randrange(1, len(arguments) + 1)
        if rng.random() < 0.8 and at < len(arguments):
            arguments[at] = _odd_word(given)
        else:
            arguments[at:at] = [rng.choice(("--study", "--methods", "--limit", "--split", "-s")), _odd_word(given)]
    code, said = _run_command(arguments)
    what = f"`harness {' '.join(arguments)[:300]}` ended with {code}: {said[-1500:]}"
    require(code in (0, 2), what)
    require("Traceback" not in said, what)
    if code == 2:
        require(bool(said.strip()), f"no message: {what}")
        raise UserError(said[-500:])


def _odd_word(given: Input) -> str:
    word = given.rng.choice((*ODD_TEXT, "1", "0", "-1", "1e9", "nan", "data", "run", "tiny", "2b", "sft,sft", "sft"))
    return word.replace("\0", "").encode("utf-8", "replace").decode()  # as a shell could give it


def _run_command(arguments: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    before = sys.argv
    sys.argv = ["harness", *arguments]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            cli.main()
        return 0, said.getvalue()
    except SystemExit as ended:
        return int(ended.code or 0), said.getvalue()
    finally:
        sys.argv = before
