"""One cell as its process runs it: what it leaves, and how bad input and bad luck end it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from study_kit import prepare_cells, small_study

from harness.cli.options import StudyOptions
from harness.cli.studies import evaluate
from harness.config.study import StudyConfig
from harness.data.encode import EncodedPrompt, PromptEncoder
from harness.errors import UserError
from harness.io import read_json, write_json
from harness.locks import hold
from harness.models.presets import TINY
from harness.study import work
from harness.study.cell import main
from harness.study.evaluation import read_samples
from harness.study.matrix import Cell, remaining_work
from harness.study.status import State, Status, read_status, recorded_status, write_status
from harness.study.work import evaluate_checkpoint
from harness.train import run as run_module
from harness.train.checkpoint import list_checkpoints
from harness.vsibench import prompts


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of small studies, written once; tests that damage it copy it."""
    root = tmp_path_factory.mktemp("shared")
    small_study(root)
    return root


@pytest.fixture(autouse=True)
def handler_kept() -> Iterator[None]:
    """A cell takes SIGTERM over, which the test process wants back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(run_dir: Path, cell: Cell) -> tuple[int, Status]:
    code = main([str(run_dir), cell.id])
    return code, recorded_status(cell.folder(run_dir))


def start(study: StudyConfig, run_dir: Path, name: str = "sft-0") -> tuple[int, Status, Path]:
    _, cells = prepare_cells(study, run_dir)
    return (*run(run_dir, cells[name]), cells[name].folder(run_dir))


def test_a_cell_leaves_all_that_a_table_needs(data: Path, tmp_path: Path) -> None:
    study = small_study(data)
    plan, cells = prepare_cells(study, tmp_path)
    for name in ("base-0", "sft-0"):
        code, status = run(tmp_path, cells[name])
        assert (code, status.state, status.reason) == (0, State.DONE, "")
        assert status.numbers["of"] == 9  # questions: what later estimates divide the time of evaluation by
    folder = cells["sft-0"].folder(tmp_path)
    steps = ["step-000001", "step-000002"]
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == steps
    manifests = [read_json(folder / "vsibench" / step / "manifest.json") for step in steps]
    saved = [read_json(folder / "checkpoints" / step / "manifest.json") for step in steps]
    planned = cells["sft-0"].evaluation["vsibench"]
    assert [one["identity"] for one in manifests] == [planned.of(one["digest"]) for one in saved]
    base = cells["base-0"].folder(tmp_path) / "vsibench" / "step-000000"
    assert read_json(base / "manifest.json")["identity"]["weights"] == cells["base-0"].identity["model"]["digest"]
    assert len(read_samples(base)) == len(read_samples(folder / "vsibench" / steps[-1])) == 9
    assert read_json(folder / "compute.json")["steps"] == 2
    environment = read_json(folder / "env.json")
    assert environment["threads"] == 1 and environment["quantisation"] == "none"
    works = remaining_work(tmp_path, plan.cells)
    assert all(work.complete for work in works)


def test_a_finished_cell_that_is_run_again_changes_nothing(data: Path, tmp_path: Path) -> None:
    _, cells = prepare_cells(small_study(data), tmp_path)
    run(tmp_path, cells["sft-0"])
    folder = cells["sft-0"].folder(tmp_path)

    def stamps() -> dict[str, int]:
        parts = [*(folder / "checkpoints").rglob("*"), *(folder / "vsibench").rglob("*")]
        return {str(path): path.stat().st_mtime_ns for path in parts if path.is_file()}

    before = stamps()
    (folder / f".status.json.{'ab' * 16}.tmp").write_text("what a kill may leave")
    assert run(tmp_path, cells["sft-0"])[0] == 0
    assert stamps() == before and not list(folder.glob(".*.tmp"))


def test_a_prompt_without_video_features_is_refused_and_never_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = PromptEncoder.encode

    def without(self: PromptEncoder, record: Any, mode: str, path: Path) -> EncodedPrompt:
        prompt = encode(self, record, mode, path)
        rows = prompt.video.pixel_values[: len(prompt.video.pixel_values) // 2]
        grid = torch.tensor([[1, *prompt.video.grid_thw[0, 1:].tolist()]])
        return replace(prompt, video=replace(prompt.video, pixel_values=rows, grid_thw=grid, digest="half"))

    monkeypatch.setattr(PromptEncoder, "encode", without)
    for name in ("sft", "grpo"):
        study = small_study(data, methods=(name,), model={"tuning": "lora"})
        code, status, folder = start(study, tmp_path / name, f"{name}-0")
        assert code == 1 and status.state is State.FAILED
        assert "video tokens" in status.reason and "refused" in status.reason and "train_" in status.reason
        assert not (folder / "checkpoints").exists() and not (folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize("damage", ["truncated", "noise", "gone"])
def test_a_bad_training_video_is_named(data: Path, tmp_path: Path, capfd: Any, damage: str) -> None:
    shutil.copytree(data / "data", tmp_path / "data")
    study = small_study(tmp_path)
    if damage == "gone":
        _, cells = prepare_cells(study, tmp_path / "run")
    for path in (tmp_path / "data" / "world").glob("train_*.mp4"):
        content = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(content[:-300] if damage == "truncated" else b"no video" * 100)
    if damage != "gone":
        _, cells = prepare_cells(study, tmp_path / "run")
    code, status = run(tmp_path / "run", cells["sft-0"])
    assert code == 1 and status.state is State.FAILED
    assert "train_00000" in status.reason and ".mp4" in status.reason
    assert "train" in status.reason and ("record" in status.reason or "line" in status.reason)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("what", "file"),
    [
        ("the model", "model/config.json"),
        ("the model", "model/generation_config.json"),
        ("the training data or its videos", "data/world/train_000000.mp4"),
        ("the benchmark, its videos, code or installed versions", "data/world/test_000001.mp4"),
    ],
)
def test_what_changes_between_the_plan_and_the_start_is_named(data: Path, tmp_path: Path, what: str, file: str) -> None:
    """A video is replaced by another of the same size and time of modification, under the same name."""
    shutil.copytree(data / "data", tmp_path / "data")
    shutil.copytree(TINY.location, tmp_path / "model")
    _, cells = prepare_cells(small_study(tmp_path, model={"name": str(tmp_path / "model")}), tmp_path / "run")
    path = tmp_path / file
    if path.suffix == ".mp4":
        before = path.stat()
        other = path.read_bytes()
        path.write_bytes(other[:-1] + bytes([other[-1] ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        write_json(path, read_json(path) | {"remark": 1})
    code, status = run(tmp_path / "run", cells["sft-0"])
    assert code == 1 and f": {what} changed since the study was planned; run the same command" in status.reason
    assert not (cells["sft-0"].folder(tmp_path / "run") / "metrics.jsonl").exists()


def test_the_second_process_on_a_cell_is_told_and_does_no_harm(data: Path, tmp_path: Path, capsys: Any) -> None:
    _, cells = prepare_cells(small_study(data), tmp_path)
    folder = cells["sft-0"].folder(tmp_path)
    running = write_status(folder, Status(state=State.RUNNING, phase="train", step=1, steps=2))
    with hold(folder, "cell"):
        code, status = run(tmp_path, cells["sft-0"])
    assert code == 1 and status == running
    assert f"process {os.getpid()}" in capsys.readouterr().err


def test_a_cell_answers_what_was_planned_or_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers to other prompts would be taken for those that the plan asks for."""
    _, cells = prepare_cells(small_study(data), tmp_path)
    monkeypatch.setattr(prompts, "SYSTEM", "Answer in rhymes.")
    code, status = run(tmp_path, cells["base-0"])
    assert code == 1 and "changed since the study was planned" in status.reason
    assert not (cells["base-0"].folder(tmp_path) / "vsibench").exists()
    _, again = prepare_cells(small_study(data), tmp_path)
    assert run(tmp_path, again["base-0"])[0] == 0 and again["base-0"].id == cells["base-0"].id


def test_a_full_disk_fails_the_cell_with_the_reason(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cells = prepare_cells(small_study(data), tmp_path)
    save, saved = run_module.ckpt.save_checkpoint, []

    def full(*arguments: Any) -> Any:
        if saved:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")
        saved.append(save(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(run_module.ckpt, "save_checkpoint", full)
        code, status = run(tmp_path, cells["sft-0"])
    assert code == 1 and status.state is State.FAILED and "No space left on device" in status.reason
    folder = cells["sft-0"].folder(tmp_path)
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == ["step-000001"]
    assert run(tmp_path, cells["sft-0"])[1].state is State.DONE


def test_a_status_that_cannot_be_written_is_not_a_traceback_of_its_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    _, cells = prepare_cells(small_study(data), tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(work, "run_cell", full)
    monkeypatch.setattr("harness.study.status.record_state", full)
    assert main([str(tmp_path), cells["sft-0"].id]) == 1
    assert capsys.readouterr().err.rstrip().endswith("failed: OSError: [Errno 28] No space left on device")


def test_a_loss_that_is_not_finite_fails_the_cell_and_keeps_its_checkpoint(data: Path, tmp_path: Path) -> None:
    code, status, folder = start(small_study(data, train={"learning_rate": 1e30}), tmp_path)
    assert code == 1 and status.state is State.FAILED
    assert "TrainingError" in status.reason and "step 2" in status.reason
    assert len(list_checkpoints(folder / "checkpoints")) == 1
    assert not (folder / "vsibench").exists()


def test_a_method_that_learns_from_rewards_asks_for_one(data: Path, tmp_path: Path) -> None:
    code, status, _ = start(small_study(data, methods=("grpo",), reward={"weights": {}}), tmp_path, "grpo-0")
    assert code == 1 and "`reward.weights` is empty, but grpo" in status.reason


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_how_a_cell_ended_is_recorded(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    _, cells = prepare_cells(small_study(data), tmp_path)

    def ends(folder: Path) -> None:
        write_status(folder, Status(state=State.RUNNING, phase="train", step=1, steps=2))
        raise error("a reason")

    monkeypatch.setattr(work, "run_cell", ends)
    code, status = run(tmp_path, cells["sft-0"])
    expected = (130, State.INTERRUPTED) if error is KeyboardInterrupt else (1, State.FAILED)
    assert (code, status.state) == expected and (status.phase, status.step) == ("train", 1)
    assert status.reason and (error is KeyboardInterrupt or status.reason == "RuntimeError: a reason")


def test_sigterm_interrupts_a_cell_and_the_next_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cells = prepare_cells(small_study(data), tmp_path)
    report = work._report

    def killed(folder: Path, phase: Any, step: int, steps: int, numbers: Any) -> None:
        report(folder, phase, step, steps, numbers)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(work, "_report", killed)
        code, status = run(tmp_path, cells["sft-0"])
    assert (code, status.state, status.phase, status.step) == (130, State.INTERRUPTED, "train", 1)
    assert run(tmp_path, cells["sft-0"])[1].state is State.DONE
    assert read_status(cells["sft-0"].folder(tmp_path)).state is State.DONE


def test_evaluate_gives_a_cells_own_answers_again(data: Path, tmp_path: Path) -> None:
    """By `harness evaluate`: full weights, adapters, a plain folder; and adapters on other weights are refused."""
    study = small_study(data, model={"tuning": "lora"}, train={"learning_rate": 1e-2, "checkpoints": 1})
    code, _, folder = start(study, tmp_path / "run")
    assert code == 0
    checkpoint = folder / "checkpoints" / "step-000002"
    evaluate_checkpoint(checkpoint, study, tmp_path / "again")
    assert read_samples(tmp_path / "again") == read_samples(folder / "vsibench" / "step-000002")
    evaluate(checkpoint, StudyOptions(settings=["evaluation.max_new_tokens=1"], limit=4), tmp_path / "short")
    short = read_samples(tmp_path / "short")
    assert len(short) == 3 < len(read_samples(tmp_path / "again")) and {answer.tokens for answer in short} == {1}
    with pytest.raises(UserError, match=r"evaluation\.max_new_tokens"):
        evaluate(checkpoint, StudyOptions(settings=["evaluation.max_new_tokens=none"]))
    limited = study.model_copy(update={"data": study.data.model_copy(update={"benchmark_limit": 4})})
    numbers = evaluate_checkpoint(checkpoint, limited, tmp_path / "part")
    assert len(read_samples(tmp_path / "part")) == 3 and 0 <= numbers["overall"] <= 100, "rooms of three, whole"
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    plain = AutoModelForImageTextToText.from_pretrained(TINY.location)
    with torch.no_grad():
        plain.model.language_model.norm.weight.mul_(1.5)
    plain.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(TINY.location).save_pretrained(tmp_path / "other")
    assert evaluate_checkpoint(tmp_path / "other", limited, tmp_path / "plain")
    moved = study.model_copy(update={"model": study.model.model_copy(update={"name": str(tmp_path / "other")})})
    with pytest.raises(UserError, match="trained from other weights"):
        evaluate_checkpoint(checkpoint, moved, tmp_path / "refused")
