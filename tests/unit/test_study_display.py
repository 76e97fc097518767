"""What the user watches, as text."""

import io
from pathlib import Path

import pytest

from harness.config.study import StudyConfig
from harness.console import Console
from harness.io import write_json
from harness.study.display import MatrixDisplay, describe, duration
from harness.study.matrix import Cell, CellWork
from harness.study.status import State, Status, write_status
from harness.study.time_estimate import Estimate, estimate, makespan


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def cell(method: str, seed: int = 0) -> Cell:
    return Cell(method, "tiny", seed, "1a2b3c4d", {}, {})


def works(*cells: Cell, complete: bool = False) -> list[CellWork]:
    return [CellWork(one, Status(state=State.DONE) if complete else Status(), complete, complete) for one in cells]


def training(step: int, **numbers: float) -> Status:
    return Status(state=State.RUNNING, phase="train", step=step, steps=60, numbers=numbers)


def screen(width: int, height: int = 30) -> Console:
    return Console(width=width, height=height, force_terminal=True, file=io.StringIO(), record=True)


def text_of(display: MatrixDisplay, console: Console) -> str:
    console.print(display)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_progress_and_fits(width: int) -> None:
    clock, console = Clock(), screen(width)
    grpo, sft, dpo = cell("grpo"), cell("sft", 1), cell("dpo")
    display = MatrixDisplay(
        console, "study tiny", works(cell("base"), complete=True) + works(grpo, sft, dpo), clock=clock
    )
    display.update(grpo, training(20, reward=0.1))
    clock.now = 100.0
    display.update(grpo, training(30, reward=0.4321, loss=-0.01, examples_per_second=3.21))
    display.update(sft, Status(state=State.RUNNING, phase="evaluate", numbers={"done": 320, "of": 640}))
    display.update(dpo, Status(state=State.FAILED, reason="loss is not finite", phase="train", step=13, steps=60))
    text = text_of(display, console)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert all(word in lines["grpo"] for word in ("running", "train", "30/60", "reward 0.432", "3.2", "5m00s"))
    assert all(word in lines["sft"] for word in ("1", "evaluate", "320/640"))
    assert "failed" in lines["dpo"] and "loss is not finite" in text
    assert "reused" in lines["base"]
    assert "1m40s elapsed" in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_answers_that_leave_the_scored_form_are_a_warning_that_stays() -> None:
    console, grpo = screen(80), cell("grpo", 3)
    display = MatrixDisplay(console, "study", works(grpo))
    display.update(grpo, training(20, reward=0.9, missed=0.426))
    assert "the scorer cannot read 43% of the sampled answers" in describe(grpo, training(20, missed=0.426))
    display.update(grpo, Status(state=State.RUNNING, phase="evaluate", numbers={"done": 1, "of": 640}))
    assert "grpo seed 3: the scorer cannot read 43% of the sampled answers" in text_of(display, console)


def test_rows_that_do_not_fit_the_screen_are_counted() -> None:
    console = screen(80, height=16)
    cells = [cell("sft", seed) for seed in range(40)]
    display = MatrixDisplay(console, "study", works(*cells))
    display.update(cells[39], training(1))
    text = text_of(display, console)
    assert "running" in text
    assert "32 rows not shown" in text
    assert len(text.splitlines()) < 16


def test_without_a_terminal_each_change_is_one_line() -> None:
    clock, out = Clock(), io.StringIO()
    grpo = cell("grpo", 2)
    with MatrixDisplay(Console(file=out, width=80), "study tiny", works(grpo), clock=clock) as display:
        for step in range(20):
            clock.now = float(step)
            display.update(grpo, training(step))
        clock.now = 40.0
        display.update(grpo, training(21, loss=0.5))
        display.update(grpo, Status(state=State.FAILED, reason="its process was killed by SIGKILL " + "x" * 80))
    lines = [line.split(" ", 1)[1] for line in out.getvalue().splitlines()]
    assert lines[0] == "study tiny: 1 cells, 0 already done"
    assert lines[1] == "grpo seed 2: running, train 0/60"
    assert lines[2] == "grpo seed 2: running, train 21/60, loss 0.500, 1m14s left"
    assert lines[3].startswith("grpo seed 2: failed, its process was killed by SIGKILL xxx")
    assert len(lines) == 4


def test_a_live_display_can_be_entered_and_left() -> None:
    console = screen(80)
    with MatrixDisplay(console, "study tiny", works(cell("sft"))) as display:
        display.update(cell("sft"), Status(state=State.DONE, numbers={"overall": 31.25}))
    assert "overall 31.2" in console.export_text()


def test_a_cell_that_is_done_needs_few_words() -> None:
    assert describe(cell("base"), Status(state=State.DONE)) == "base: done"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3600, "1h00m"), (7260, "2h01m"), (90000, "1d01h"), (-3, "0s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def finished(folder: Path, *, train: float, evaluate: float, steps: int, questions: int, checkpoints: int) -> None:
    write_json(folder / "timing.json", {"start": 5.0, "train": train, "evaluate": evaluate})
    write_json(folder / "compute.json", {"steps": steps})
    study = {"method": {}, "train": {"checkpoints": checkpoints}}
    write_json(folder / "config.json", {"method": "sft", "study": study})
    write_status(folder, Status(state=State.DONE, numbers={"of": questions}))


def test_time_is_estimated_from_finished_cells_of_the_same_kind(tmp_path: Path) -> None:
    """By hand: 5 s start + 100 steps at 2 s + 3 checkpoints x 50 questions at 0.1 s = 220 s."""
    cells = tmp_path / "runs" / "earlier" / "cells"
    finished(cells / "sft-tiny-s0-aaaaaaaa", train=40.0, evaluate=8.0, steps=20, questions=40, checkpoints=2)
    one = StudyConfig(
        name="now", methods=("sft", "dpo"), budget={"kind": "steps", "amount": 100}, train={"checkpoints": 3}
    )
    run_dir = tmp_path / "runs" / "now"
    missing = CellWork(cell("sft"), Status(), trained=False, evaluated=False)
    found = estimate(missing, one, run_dir, questions=50)
    assert found.seconds == pytest.approx(220.0)
    assert found.unknown == ()
    evaluation_only = CellWork(cell("sft"), Status(), trained=True, evaluated=False)
    assert estimate(evaluation_only, one, run_dir, questions=50).seconds == pytest.approx(20.0)
    other = estimate(CellWork(cell("dpo"), Status(), False, False), one, run_dir, questions=50)
    assert other == Estimate(0.0, ("training", "evaluation"))


def test_makespan_fills_the_free_worker() -> None:
    assert makespan([Estimate(10.0), Estimate(4.0), Estimate(4.0), Estimate(4.0)], 2) == 12.0
    assert makespan([Estimate(3.0), Estimate(4.0)], 1) == 7.0


def test_a_reason_of_many_lines_forges_none_and_a_narrow_screen_has_lines() -> None:
    for width in (60, 100):
        console = screen(width)
        with MatrixDisplay(console, "study", works(cell("sft")), clock=Clock()) as display:
            display.update(cell("sft"), Status(state=State.FAILED, reason="loss\x1b[2J\nerror: forged"))
        text = console.export_text()
        assert r"loss\x1b[2J" in text and not any(line.startswith("error:") for line in text.splitlines())
        assert ("elapsed" in text) == (width == 100)  # the live table, which would lose numbers
