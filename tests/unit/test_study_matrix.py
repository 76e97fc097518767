"""The matrix: what identifies a cell, and what is left to do of it."""

import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from harness.config.study import StudyConfig
from harness.errors import UserError
from harness.io import read_json, write_json
from harness.plugins import registry
from harness.study.finished import write_finished
from harness.study.matrix import (
    Cell,
    CellDocument,
    CellWork,
    cells_of,
    launch_order,
    read_matrix,
    remaining_work,
    write_cell,
    write_matrix,
)
from harness.study.status import State, Status, read_status, write_status
from harness.vsibench import prompts

SOURCE = """
from pydantic import Field
from harness.api import Algorithm, Needs, StrictConfig

class Config{name}(StrictConfig):
    beta: float = Field({beta}, description="A number.")
    rollouts: int = Field({rollouts}, description="Samples.")

class {name}(Algorithm):
    Config = Config{name}

    @property
    def needs(self):
        return Needs(rollouts=self.config.rollouts)

    def experience(self, groups):
        return []

    def loss(self, batch):
        return batch.policy.sum(-1), {{}}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Register methods whose source files the test writes."""
    monkeypatch.syspath_prepend(str(tmp_path))
    found: dict[str, EntryPoint] = {}
    others = registry._entries

    def entries(group: str) -> dict[str, EntryPoint]:
        return found if group == "algorithms" else others(group)

    monkeypatch.setattr(registry, "_entries", entries)

    def write(name: str, beta: float = 0.5, rollouts: int = 0, more: str = "") -> None:
        module = f"study_matrix_{name.lower()}"
        (tmp_path / f"{module}.py").write_text(SOURCE.format(name=name, beta=beta, rollouts=rollouts) + more)
        sys.modules.pop(module, None)
        sys.path_importer_cache.clear()
        for cached in (tmp_path / "__pycache__").glob(f"{module}.*"):
            cached.unlink()
        found[name.lower()] = EntryPoint(name.lower(), f"{module}:{name}", "harness.algorithms")

    return write


def study(**changes: object) -> StudyConfig:
    document: dict = {
        "name": "s",
        "methods": ["plain", "sampler"],
        "seeds": 2,
        "budget": {"kind": "steps", "amount": 4},
    }
    return StudyConfig(**(document | changes))


def cells(one: StudyConfig, model: str = "m", data: str = "d", questions: str = "bench") -> list[Cell]:
    return cells_of(one, model_digest=model, train_digest=data, questions={"vsibench": questions})


def ids(one: StudyConfig, **digests: str) -> list[str]:
    return [cell.id for cell in cells(one, **digests)]


@pytest.fixture
def methods(install: Callable[..., None]) -> Callable[..., None]:
    install("Plain")
    install("Sampler", rollouts=8)
    return install


def test_base_once_then_methods_by_seeds(methods: Callable[..., None]) -> None:
    found = cells(study(first_seed=3))
    assert [(c.method, c.seed) for c in found] == [
        ("base", 0),
        ("plain", 3),
        ("plain", 4),
        ("sampler", 3),
        ("sampler", 4),
    ]
    assert len({cell.id for cell in found}) == 5
    assert all(cell.id == f"{cell.method}-tiny-s{cell.seed}-{cell.hash8}" for cell in found)


def test_costly_cells_start_first(methods: Callable[..., None]) -> None:
    works = [CellWork(one, Status(), False, False) for one in cells(study())]
    order = [(work.cell.method, work.cell.seed) for work in launch_order(works)]
    assert order == [("sampler", 0), ("sampler", 1), ("plain", 0), ("plain", 1), ("base", 0)]


@pytest.mark.parametrize(
    "changes",
    [
        {"runtime": {"workers": 2, "decoders": 3, "cache": "elsewhere"}},
        {"evaluation": {"max_new_tokens": 99, "batch": 3}},
        {"prompt": {"evaluation": "think"}},
        {"data": {"benchmark": "world:dev"}},
        {"name": "other"},
        {"methods": ["sampler", "plain"]},
    ],
    ids=str,
)
def test_what_does_not_change_the_weights_does_not_change_the_id(
    methods: Callable[..., None], changes: dict[str, object]
) -> None:
    assert set(ids(study())) == set(ids(study(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"plain": {"beta": 0.1}, "sampler": {"beta": 0.1}}},
        {"train": {"learning_rate": 1e-6}},
        {"method": {"plain": {"train": {"warmup_steps": 1}}, "sampler": {"train": {"warmup_steps": 1}}}},
        {"budget": {"kind": "steps", "amount": 5}},
        {"budget": {"kind": "examples", "amount": 4}},
        {"prompt": {"train": "think"}},
        {"reward": {"weights": {"mra": 1.0}}},
        {"rollout": {"temperature": 0.7}},
        {"data": {"limit": 9}},
        {"runtime": {"threads": 3}},
    ],
    ids=str,
)
def test_what_changes_training_changes_the_methods_but_not_the_base(
    methods: Callable[..., None], changes: dict[str, object]
) -> None:
    before, after = ids(study()), ids(study(**changes))
    assert before[0] == after[0]
    assert not set(before[1:]) & set(after[1:])


def test_the_model_changes_every_cell_and_the_data_all_but_the_base(methods: Callable[..., None]) -> None:
    before = ids(study())
    assert not set(before) & set(ids(study(), model="other"))
    data = ids(study(), data="other")
    assert data[0] == before[0]
    assert not set(before[1:]) & set(data[1:])


def test_a_changed_default_changes_the_method_alone(methods: Callable[..., None]) -> None:
    before = ids(study())
    methods("Plain", beta=0.6)
    after = ids(study())
    assert [b == a for b, a in zip(before, after, strict=True)] == [True, False, False, True, True]


def test_a_changed_source_changes_the_method_alone(methods: Callable[..., None]) -> None:
    before = cells(study())
    methods("Sampler", rollouts=8, more="# a remark\n")
    assert ids(study()) == [cell.id for cell in before]
    methods("Sampler", rollouts=8, more="RULE = 2\n")
    after = cells(study())
    assert [b.id == a.id for b, a in zip(before, after, strict=True)] == [True, True, True, False, False]
    assert before[3].identity["hyper_parameters"] == after[3].identity["hyper_parameters"]


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("prompts", {"prompt": {"evaluation": "think"}}),
        ("frames", {"data": {"frames": 4}}),
        ("frames", {"data": {"stills_rate": 2.0}}),
        ("frames", {"data": {"max_pixels": 56 * 56}}),
        ("decoding", {"evaluation": {"max_new_tokens": 99}}),
        ("decoding", {"evaluation": {"batch": 3}}),
        ("decoding", {"evaluation": {"two_turns": True}}),
        ("engine", {"model": {"engine": "naive"}}),
        ("engine", {"model": {"precision": "bf16"}}),
        ("engine", {"runtime": {"threads": 3}}),
        ("", {"evaluation": {"scorer": "tolerant"}}),
        ("", {"rollout": {"max_new_tokens": 99}}),
    ],
)
def test_what_changes_the_answers_changes_their_identity(
    methods: Callable[..., None], part: str, changes: dict[str, object]
) -> None:
    """Of the base model and of every method: all answer alike."""
    for before, after in zip(cells(study()), cells(study(**changes)), strict=True):
        one, other = before.evaluation["vsibench"].model_dump(), after.evaluation["vsibench"].model_dump()
        assert {key for key in one if one[key] != other[key]} == ({part} if part else set())


def test_changed_wordings_and_changed_code_are_other_answers(
    methods: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cells(study())[0].evaluation["vsibench"]
    monkeypatch.setattr(prompts, "SYSTEM", "You are a helpful robot.")
    assert cells(study())[0].evaluation["vsibench"].prompts != before.prompts
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"\nX = 1" * (path.stem == "sampler"))
    assert cells(study())[0].evaluation["vsibench"].sources != before.sources


def test_a_model_that_is_a_path_gives_a_plain_folder_name(methods: Callable[..., None], tmp_path: Path) -> None:
    for name in ("Qwen/Qwen2-VL-2B", "/some/where/Qwen2-VL-2B/", "../Qwen2-VL-2B"):
        cell = cells(study(model={"name": name}))[1]
        assert cell.model == "Qwen2_VL_2B"
        assert cell.folder(tmp_path).parent == tmp_path / "cells"


def test_remaining_work(methods: Callable[..., None], tmp_path: Path) -> None:
    one = study(seeds=1)
    base, plain, sampler = cells(one)
    for cell in (base, plain, sampler):
        write_cell(tmp_path, one, cell)
    write_status(base.folder(tmp_path), Status(state=State.DONE, phase="evaluate"))
    write_finished(base.folder(tmp_path), "base", 0, {"step-000000": "w"}, [])
    write_status(plain.folder(tmp_path), Status(state=State.FAILED, reason="disk"))
    write_json(plain.folder(tmp_path) / "compute.json", {"steps": 4, "examples": 64})
    write_json(sampler.folder(tmp_path) / "compute.json", {"steps": 3, "examples": 48})
    works = remaining_work(tmp_path, [base, plain, sampler])
    assert [(w.trained, w.evaluated, w.complete) for w in works] == [
        (True, True, True),
        (True, False, False),
        (False, False, False),
    ]


def test_another_benchmark_leaves_training_done_and_evaluation_to_do(
    methods: Callable[..., None], tmp_path: Path
) -> None:
    one = study(seeds=1)
    plain = cells(one)[1]
    write_cell(tmp_path, one, plain)
    write_status(plain.folder(tmp_path), Status(state=State.DONE))
    write_finished(plain.folder(tmp_path), plain.method, 0, {"step-000004": "w"}, [])
    (work,) = remaining_work(tmp_path, cells(one, questions="other")[1:2])
    assert (work.trained, work.evaluated) == (True, False)
    rescored = study(seeds=1, evaluation={"scorer": "tolerant"})
    (work,) = remaining_work(tmp_path, cells(rescored)[1:2])
    assert work.complete


def test_a_prepared_cell_is_pending_and_keeps_how_far_it_was(methods: Callable[..., None], tmp_path: Path) -> None:
    one = study()
    cell = cells(one)[1]
    write_status(cell.folder(tmp_path), Status(state=State.FAILED, reason="disk", phase="train", step=3, steps=4))
    write_cell(tmp_path, one, cell)
    found = read_status(cell.folder(tmp_path))
    assert (found.state, found.reason, found.phase, found.step) == (State.PENDING, "", "train", 3)
    document = CellDocument.read(cell.folder(tmp_path))
    assert (document.cell, document.study, document.identity) == (cell.id, one, cell.identity)
    assert document.evaluation == cell.evaluation


def test_study_and_matrix_are_written_and_read(methods: Callable[..., None], tmp_path: Path) -> None:
    one = study()
    write_matrix(tmp_path, one, cells(one), train_digest="d", benchmark_digest="b")
    assert StudyConfig(**tomllib.loads((tmp_path / "study.toml").read_text())) == one
    assert StudyConfig(**read_json(tmp_path / "study.json")) == one
    found = read_matrix(tmp_path)
    assert [row.id for row in found.cells] == ids(one)
    assert found.data == {"train": "d", "benchmark": "b"}


def test_a_folder_that_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run directory .*matrix\.json"):
        read_matrix(tmp_path)
