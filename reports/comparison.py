"""The report of a comparison: score table, pair table and fairness card, from a run directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from rich.console import Console

from harness.config import BASE
from harness.data.prompts import MODE_LETTER
from harness.io import write_json, write_text
from reports.baselines import constant_answers, text_prior_answers
from reports.collect import Collected, collect, methods_of
from reports.fairness import fairness_card
from reports.paired import compare_all, default_pairs
from reports.table import Table, latex_document
from reports.tables import RunScore, ScoreRow, pairs_table, scores_table
from reports.vsibench import VSIBench, score_answers


class Comparison:
    """Writes ``report/`` from what the cells left; the tables are a function of the answers alone.

    Attributes:
        summary: One line for ``harness list``.
    """

    summary: ClassVar[str] = "score table, pair table and fairness card as Markdown, LaTeX, CSV and JSON"

    def write(self, run_dir: Path) -> list[Path]:
        """Write every file of the report and return their paths, the main table first.

        Raises:
            UserError: Nothing has finished, or the cells were not evaluated alike.
        """
        collected = collect(run_dir)
        scores, pairs, contrasts = build_tables(collected)
        folder = run_dir / "report"
        written = _write_table(folder, "scores", scores)
        if pairs is not None:
            written += _write_table(folder, "pairs", pairs)
            records = contrasts.astype(object).where(contrasts.notna(), None).to_dict(orient="records")
            write_json(folder / "pairs.json", records)
        write_text(folder / "checkpoints.csv", checkpoint_curve(collected).to_csv(index=False))
        write_text(folder / "fairness.md", fairness_card(collected))
        return [*written, folder / "checkpoints.csv", folder / "fairness.md"]

    def render(self, console: Console, run_dir: Path) -> None:
        """Print the score table and the pair table."""
        scores, pairs, _ = build_tables(collect(run_dir))
        console.print(scores)
        if pairs is not None:
            console.print()
            console.print(pairs)


def build_tables(collected: Collected) -> tuple[Table, Table | None, pd.DataFrame]:
    """The score table, the pair table (None when only one method has answers), and the contrasts."""
    answers = collected.reported
    present = [method for method in methods_of(collected) if method in set(answers["method"])]
    pairs = default_pairs(present)
    contrasts = compare_all(answers, pairs)
    rows = [_method_row(collected, method) for method in methods_of(collected)]
    rows += _baseline_rows(collected)
    scorer = collected.study.evaluation.scorer
    scores = scores_table(rows, contrasts if pairs else None, scorer=scorer)
    labels = {row.name: row.label.removeprefix("+ ") for row in rows}
    return scores, pairs_table(contrasts, labels=labels) if pairs else None, contrasts


def checkpoint_curve(collected: Collected) -> pd.DataFrame:
    """Overall and task scores of every checkpoint; description only, the reported one is the last."""
    rows: list[dict[str, Any]] = []
    for (method, seed, step), group in collected.answers.groupby(["method", "seed", "step"], sort=False):
        figures = VSIBench().aggregate(group.rename(columns={"type": "question_type"}))
        rows.append({"method": method, "seed": seed, "step": step, "overall": figures["overall"], **figures["tasks"]})
    return pd.DataFrame(rows)


def _method_row(collected: Collected, method: str) -> ScoreRow:
    answers = collected.reported
    mine = answers[answers["method"] == method]
    runs = [_run_score(group) for _, group in mine.groupby("seed", sort=True)]
    missing = [cell for cell in collected.cells if cell.method == method and cell.state != "done"]
    reasons = "; ".join(f"seed {cell.seed} {cell.state}: {cell.reason or 'not run yet'}" for cell in missing)
    model = collected.study.model.name
    return ScoreRow(
        method,
        f"{model} (base)" if method == BASE else f"+ {method.upper()}",
        "base" if method == BASE else "method",
        runs,
        MODE_LETTER[collected.study.prompt.evaluation],
        1 if method == BASE else collected.study.seeds,
        reasons,
    )


def _run_score(answers: pd.DataFrame) -> RunScore:
    figures = VSIBench().aggregate(answers.rename(columns={"type": "question_type"}))
    return RunScore(
        figures["tasks"],
        100 * (1 - float(answers["parsed"].mean())),
        100 * float(answers["truncated"].astype(bool).mean()) if "truncated" in answers else float("nan"),
    )


def _baseline_rows(collected: Collected) -> list[ScoreRow]:
    """Answers that need no video: a reader sees at once what a score is worth."""
    train, test = collected.train.records, collected.benchmark.records
    rows = []
    for name, label, answers in (
        ("constant", "Constant answer", constant_answers(train, test)),
        ("text-prior", "Text only, no video", text_prior_answers(train, test)),
    ):
        scored = score_answers(test, answers, [collected.study.evaluation.scorer])
        frame = scored.rename(columns={"question_type": "type"})
        rows.append(ScoreRow(name, label, "baseline", [_run_score(frame)]))
    return rows


def _write_table(folder: Path, name: str, table: Table) -> list[Path]:
    files: Sequence[tuple[str, str]] = (
        ("md", table.to_markdown()),
        ("tex", latex_document([table.to_latex()])),
        ("csv", table.to_csv()),
        ("json", table.to_json()),
    )
    for suffix, text in files:
        write_text(folder / f"{name}.{suffix}", text)
    return [folder / f"{name}.{suffix}" for suffix, _ in files]
