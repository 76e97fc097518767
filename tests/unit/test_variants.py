"""Variants of a method: how they are written, what they change, which cells they are, and what tables call them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.cli.options import StudyOptions
from harness.cli.resolve import resolve_study
from harness.config.study import StudyConfig, load_study
from harness.config.variants import parse_variant
from harness.errors import UserError
from harness.io import read_json, write_json
from harness.study.finished import write_finished
from harness.study.matrix import Cell, cells_of, remaining_work, write_cell
from harness.study.shared_training import reuse_training, training_rounds
from harness.study.status import State, Status, write_status


def study(*methods: str, **changes: Any) -> StudyConfig:
    document: dict[str, Any] = {"name": "s", "methods": methods, "budget": {"kind": "steps", "amount": 4}}
    return StudyConfig(**document | changes)


def cells(one: StudyConfig) -> list[Cell]:
    return cells_of(one, model_digest="m", train_digest="d", questions={"vsibench": "bench"})[1:]


# ------------------------------------------------------------------ how they are written


def test_changes_are_toml_and_nested() -> None:
    variant = parse_variant(" grpo : beta = 0 : scale=none: train.learning_rate=1e-6 ")
    assert (variant.name, variant.method) == ("grpo:beta = 0:scale=none:train.learning_rate=1e-6", "grpo")
    assert variant.settings == {"beta": 0, "scale": "none", "train": {"learning_rate": 1e-6}}


def test_a_prompt_mode_stands_for_training_and_evaluation_in_it() -> None:
    assert parse_variant("grpo:think").settings == {"prompt": {"train": "think", "evaluation": "think"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grpo:", "write key=value or a prompt mode"),
        ("grpo:thnk", "grpo:think"),
        ("grpo:beta=", "key=value"),
        (":beta=0", "the method's name is missing"),
        ("grpo:beta=0:beta=1", "beta is set twice"),
        ("grpo:think:prompt.train=vanilla", "prompt.train is set twice"),
    ],
)
def test_what_is_not_a_variant_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_variant(text)
    with pytest.raises(ValidationError, match=words):
        study(text)


def test_the_command_line_takes_them() -> None:
    one = resolve_study(StudyOptions(model="tiny", methods="sft, grpo,grpo:beta=0:group_size=4,grpo:think"))
    assert one.methods == ("sft", "grpo", "grpo:beta=0:group_size=4", "grpo:think")
    table = "grpo:reward.weights={mra=1.0, choice=1.0}"
    assert resolve_study(StudyOptions(methods=f"{table},sft")).methods == (table, "sft")


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ("grpo,grpo:bta=0", r"`grpo\.bta`: no such key; did you mean beta\?"),
        ("grpo,grpo:beta=-1", r"`grpo\.beta` = -1"),
        ("gpro:beta=0", r"`--methods gpro:beta=0`: no such name; did you mean grpo\?"),
        ("base:think", "always part of the comparison"),
        ("grpo:beta=0,grpo:beta=0", "named twice"),
        ("grpo,grpo:beta=0.0001", r"`grpo:beta=0\.0001` and `grpo` have the same settings"),
        ("grpo:train.lr=1", r"`grpo:train\.lr=1\.train\.lr`: no such key"),
        ("grpo:evaluation.scorer=tolerant", "may change only max_new_tokens"),
        ("grpo:train=3", r"set one of its keys, as train\.KEY=VALUE"),
    ],
)
def test_mistakes_name_the_key(methods: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve_study(StudyOptions(model="tiny", methods=methods))


# ------------------------------------------------------------------ what they change


def test_a_variant_adds_to_its_methods_table() -> None:
    one = study("grpo", "grpo:beta=0", method={"grpo": {"group_size": 4, "beta": 0.5, "train": {"warmup_steps": 1}}})
    assert one.algorithm("grpo").config.beta == 0.5
    config = one.algorithm("grpo:beta=0").config
    assert (config.beta, config.group_size) == (0, 4)
    assert one.for_method("grpo:beta=0").train.warmup_steps == one.for_method("grpo").train.warmup_steps == 1
    assert one.for_method("grpo:train.learning_rate=1.0").train.learning_rate == 1.0


def test_a_mode_changes_both_prompts_and_leaves_room_to_think() -> None:
    one = study("grpo", "grpo:think", "grpo:prompt.train=think", rollout={"max_new_tokens": 256})
    assert one.for_method("grpo") == one
    own = one.for_method("grpo:think")
    assert (own.prompt.train, own.prompt.evaluation, own.evaluation.max_new_tokens) == ("think", "think", 256)
    own = one.for_method("grpo:prompt.train=think")
    assert (own.prompt.train, own.prompt.evaluation, own.evaluation.max_new_tokens) == ("think", "official", 16)
    own = one.for_method("grpo:think:evaluation.max_new_tokens=99:rollout.max_new_tokens=300")
    assert (own.evaluation.max_new_tokens, own.rollout.max_new_tokens) == (99, 300)


def test_a_method_may_have_its_own_prompts_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "tiny"\nmethods = ["sft", "grpo"]\n[method.grpo.prompt]\ntrain = "think"\n')
    one = load_study(file)
    assert [one.for_method(m).prompt.train for m in one.methods] == ["vanilla", "think"]
    assert one.algorithm("grpo").config.group_size == 8


# ------------------------------------------------------------------ which cells they are


def test_a_cell_is_what_its_values_are_and_not_how_they_were_written() -> None:
    (plain,), (written,), (other,) = cells(study("grpo")), cells(study("grpo:beta=0.0001")), cells(study("grpo:beta=0"))
    assert plain.id == written.id != other.id
    assert (written.method, written.algorithm) == ("grpo:beta=0.0001", "grpo")
    assert other.id.startswith("grpo-tiny-s0-") and ":" not in other.id and "=" not in other.id


def test_seeds_and_budget_are_shared() -> None:
    found = cells(study("grpo", "grpo:beta=0", seeds=2))
    assert [(c.method, c.seed) for c in found] == [("grpo", 0), ("grpo", 1), ("grpo:beta=0", 0), ("grpo:beta=0", 1)]
    assert len({c.id for c in found}) == 4
    assert len({str(c.identity["budget"]) for c in found}) == 1


def test_a_variants_cell_holds_its_own_view_of_the_study(tmp_path: Path) -> None:
    one = study("grpo", "grpo:think")
    for cell in cells(one):
        write_cell(tmp_path, one, cell)
    plain, think = (read_json(cell.folder(tmp_path) / "config.json") for cell in cells(one))
    assert plain["study"]["prompt"] == one.prompt.model_dump()
    assert plain["evaluation"]["vsibench"]["prompts"].startswith("official/")
    assert think["study"]["prompt"] == {"train": "think", "evaluation": "think"}
    answers = think["evaluation"]["vsibench"]
    assert answers["prompts"].startswith("think/") and answers["benchmark"] == "bench"
    assert think["identity"]["prompt"] == {"train": "think"}


def test_a_changed_parent_changes_the_methods_that_inherit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cells(study("sft", "rft", "dpo"))
    read = Path.read_bytes
    more = b"\nRULE = 1\n"
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + more * (path.name == "sft.py"))
    after = cells(study("sft", "rft", "dpo"))
    assert [b.id == a.id for b, a in zip(before, after, strict=True)] == [False, False, True]


# ------------------------------------------------------------------ trained once, evaluated twice


def test_one_training_in_two_evaluations(tmp_path: Path) -> None:
    one = study("grpo:prompt.train=think", "grpo:think", "grpo:observe")
    official, think, observe = cells(one)
    assert official.training == think.training != observe.training
    assert think.id == f"{official.id}-think16"
    assert training_rounds([official, think, observe]) == [[official, observe], [think]]
    assert not reuse_training(tmp_path, think, [official, think, observe])  # nothing is trained yet

    source = official.folder(tmp_path)
    (source / "checkpoints" / "step-000004").mkdir(parents=True)
    (source / "checkpoints" / "step-000004" / "weights").write_bytes(b"w")
    (source / "metrics.jsonl").write_text("{}\n")
    write_json(source / "compute.json", {"steps": 3})
    assert not reuse_training(tmp_path, think, [official, think, observe])  # not to the end
    write_json(source / "compute.json", {"steps": 4})
    assert not reuse_training(tmp_path, observe, [official, think, observe])
    assert reuse_training(tmp_path, think, [official, think, observe])
    folder = think.folder(tmp_path)
    assert (folder / "checkpoints" / "step-000004" / "weights").read_bytes() == b"w"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "compute.json", "metrics.jsonl"]
    (work,) = remaining_work(tmp_path, [think])
    assert (work.trained, work.evaluated) == (True, False)
    write_cell(tmp_path, one, think)
    write_status(folder, Status(state=State.DONE))
    write_finished(folder, think.method, 0, {"step-000004": "w"}, [])
    (work,) = remaining_work(tmp_path, [think])
    assert work.complete
    assert not reuse_training(tmp_path, think, [official])  # it has its own by now


# ------------------------------------------------------------------ what tables call them


def test_labels_say_what_differs() -> None:
    one = study("grpo", "grpo:beta=0", "grpo:think", "dr-grpo", "dapo:clip_high=0.4:group_size=4", "sft")
    labels = ["GRPO", "GRPO (beta=0)", "GRPO (think)", "Dr. GRPO", "DAPO (clip_high=0.4, group_size=4)", "SFT"]
    assert [one.label(method) for method in one.methods] == labels
    assert study("my-Sft").label("my-Sft") == "my-Sft"  # a report of a method that is not installed here
