"""The report of a comparison: page, tables and fairness card, from a run directory or from files of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from harness.api.benchmark import Benchmark
from harness.config.evaluation import DEVELOPMENT
from harness.config.study import BASE, ReportSection, StudyConfig
from harness.console import Console, Text
from harness.data.reader import Dataset
from harness.errors import UserError
from harness.io import json_text
from harness.locks import WAIT, hold
from harness.outputs import Outputs, inside
from harness.plugins import registry
from harness.study.setup import benchmark_source
from harness.visible import clean
from reports.collect import CellResult, Collected, Evaluated, collect
from reports.page import PAGE, methods_section, page_files, possible_files, samples_section
from reports.results import Results, compare_results, results_of
from reports.samples import parse_sources, results_from, score_file
from reports.settled import settled
from reports.several import pooled, pooled_sentence, read_studies, several_page, several_tables
from reports.statistics import Layout, default_pairs, default_spread, layout_of, overall, spread_from, vsi_bench_layout
from reports.tables import (
    Table,
    Tables,
    additional_table,
    advice,
    against_compute,
    build_tables,
    csv_text,
    holds_on,
    latex_document,
    power_table,
    superscript,
    tally,
)
from reports.text import escape_markdown

REPORT, REPORT_LIST = "report", ".harness-report"
"""The folder of a run directory's report, and the list of its files; see :class:`harness.outputs.Outputs`."""
FORMATS = ("md", "tex", "csv", "json")


class Comparison:
    """Writes a report; its tables are a function of the answers alone, its page also says when and how.

    Attributes:
        summary: One line for ``harness list``.
    """

    summary: ClassVar[str] = (
        "scores, runs, pairs, score against compute, scorers and fairness card as Markdown, LaTeX, CSV and JSON"
    )

    def write(
        self, run_dir: Path, console: Console, *, with_published: bool = False, out: Path | None = None
    ) -> list[Path]:
        """Write every file of a report, print the verdicts and tables and return the paths, the page first.

        Args:
            run_dir: The run directory.
            console: Where to print.
            with_published: Show published results next to ours even if the study does not.
            out: Where the files go, by default ``RUN_DIR/report``.

        Raises:
            UserError: Nothing has finished, or the cells were not evaluated alike.
        """
        collected = collect(run_dir)
        results = results_of(collected)
        tables = tables_of(collected, results, with_published=with_published)
        files = table_files(tables)
        for name, table in tables.additional.items():
            files |= _formats(f"additional-{name}", [table])
        curves = {"checkpoints": collected.headline}
        curves |= {f"additional-{name}-checkpoints": one for name, one in collected.additional.items()}
        curves |= {f"{DEVELOPMENT}-checkpoints": collected.development} if collected.development else {}
        for name, evaluated in curves.items():
            files[f"{name}.csv"] = csv_text(checkpoint_curve(evaluated, collected.cells)).encode()
        page = page_files(
            results,
            tables,
            benchmark=collected.test,
            collected=collected,
            methods=methods_section(collected, tables.contrasts),
        )
        written = _publish(out or _report_folder(run_dir), files, page)
        show(console, tables)
        return written

    def write_several(self, run_dirs: Sequence[Path], console: Console, *, out: Path) -> list[Path]:
        """Write and print the report on several studies; return its files, the page first.

        Args:
            run_dirs: Their run directories.
            console: Where to print.
            out: Where the files go.

        Raises:
            UserError: As :meth:`write`, of any of them; or two hold the same run.
        """
        studies = read_studies(run_dirs)
        alpha = min(one.results.report.alpha for one in studies)
        found = pooled(studies, alpha)
        tables = several_tables(studies, found, alpha)
        files = {name: text for one, table in tables.items() for name, text in _formats(one, [table]).items()}
        written = _publish(out, files, several_page(studies, found, tables, alpha))
        for name, table in tables.items():
            if name != "studies":  # too wide for a terminal; where studies differ, the combined table says so
                console.print(table)
                console.print()
        for one in found:
            console.print(Text(clean(pooled_sentence(one, alpha)), style="bold"))
        return written

    def check_output(self, run_dir: Path, study: StudyConfig) -> None:
        """Refuse, before a study is run, a run directory whose report could not be written.

        Raises:
            UserError: As :meth:`harness.outputs.Outputs.check`.
        """
        more = [f"additional-{name}" for name in study.evaluation.more]
        more += ["holds"] if more else []
        names = [
            f"{name}.{kind}"
            for name in ("scores", "runs", "pairs", "sensitivity", "compute", *more)
            for kind in FORMATS
        ]
        more += [DEVELOPMENT] if DEVELOPMENT in study.evaluation.asked else []
        names += [f"{name}.csv" for name in ("checkpoints", *(f"{one}-checkpoints" for one in more))]
        Outputs(_report_folder(run_dir), REPORT_LIST).check([*names, *possible_files(study)])

    def write_samples(
        self,
        console: Console,
        sources: Sequence[str],
        benchmark: Dataset,
        rules: Benchmark,
        folder: Path,
        *,
        base: str | None = None,
        scorer: str | None = None,
        settings: ReportSection | None = None,
        command: str = "",
    ) -> list[Path]:
        """Report on answers made elsewhere: write the tables below ``folder``, print them, return the paths.

        Args:
            console: Where to print.
            sources: ``FILE``, ``NAME=FILE`` or ``NAME@SEED=FILE``, see :mod:`reports.samples`.
            benchmark: What was asked.
            rules: What it is scored by.
            folder: Where the files go.
            base: The name of the untrained model among the sources.
            scorer: The scorer of the headline.
            settings: Margin, level, pairs; the defaults unless given.
            command: What was typed, for the methods section.

        Raises:
            UserError: A source is wrong, or two sources answer different questions.
        """
        settings = settings or ReportSection()
        results = results_from(sources, benchmark, rules, base=base, scorer=scorer, settings=settings)
        tables = build_tables(results)
        methods = samples_section(parse_sources(sources), results, benchmark, tables.contrasts, command)
        page = page_files(results, tables, benchmark=benchmark, methods=methods)
        written = _publish(folder, table_files(tables), page)
        show(console, tables)
        return written

    def score(
        self, answers: Path, benchmark: Dataset, rules: Benchmark, scorers: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """The scores of a file of answers, see :func:`reports.samples.score_file`."""
        return score_file(answers, benchmark.records, rules, scorers)

    def files_of(self, sources: Sequence[str]) -> list[Path]:
        """The files that ``FILE``, ``NAME=FILE`` and ``NAME@SEED=FILE`` name.

        Raises:
            UserError: As :func:`reports.samples.parse_sources`.
        """
        return [source.path for source in parse_sources(sources)]

    def settled(self, study: StudyConfig, benchmark: Dataset) -> ReportSection:
        """The study's tests, with the pairs and the margin worked out where it names none."""
        return settled(study.report, [BASE, *study.methods], study.runs, _layout(study, benchmark))

    def undecided(self, run_dir: Path) -> list[tuple[str, str]]:
        """The pairs that a run directory's results leave open at the look that they allow.

        Raises:
            UserError: As :meth:`write`.
        """
        found = overall(compare_results(results_of(collect(run_dir))))
        return [(c.a, c.b) for c in found if c.verdict == "undecided"]

    def plan(self, console: Console, study: StudyConfig, benchmark: Dataset | None, pilot: Path | None) -> int:
        """Print what a study could find, before it is run.

        Args:
            console: Where to print.
            study: Methods, seeds, level and pairs.
            benchmark: What will be asked; the full VSI-Bench when None.
            pilot: A run directory to take the spread of scores from, instead of the stated defaults.

        Returns:
            The number of questions planned for.

        Raises:
            UserError: The pilot is not a run directory, or has too few results.
        """
        spread, layout = default_spread(), vsi_bench_layout()
        if pilot is not None:
            collected = collect(pilot)
            found = collected.headline
            spread = spread_from(found.reported, found.benchmark, str(pilot))
            spread = replace(spread, source=f"{spread.source}, on {found.benchmark.described.title}")
        if benchmark is not None:
            layout = _layout(study, benchmark)
            if layout.rooms < 2:
                raise UserError(
                    f"`harness plan`: the {layout.questions} questions are about one {layout.cluster}; ask about more"
                )
        tests = len(study.report.pairs or default_pairs([BASE, *study.methods]))
        seeds = sorted({3, 5, 8, 10, *study.looks, study.runs + 1})
        alpha = study.report.alpha
        console.print(power_table(spread, layout, seeds, alpha, tests))
        for sentence in advice(spread, layout, study.runs, alpha, tests):
            console.say(sentence)
        return layout.questions


def _layout(study: StudyConfig, benchmark: Dataset) -> Layout:
    """The layout of the questions that a study asks."""
    rules: Benchmark = registry.create("benchmarks", study.evaluation.benchmark)
    asked = rules.question_scores(benchmark.records, {}, rules.default_scorer)
    title = rules.title(benchmark.records, benchmark_source(study.data))
    return layout_of(title, rules, [one.type for one in asked], [one.cluster for one in asked])


def tables_of(collected: Collected, results: Results, *, with_published: bool = False) -> Tables:
    """Every table of a run directory.

    Args:
        collected: The run directory.
        results: Its headline benchmark's.
        with_published: Show published results next to ours even if the study does not.
    """
    tables = build_tables(results, with_published=with_published)
    others = {name: results_of(collected, one) for name, one in collected.additional.items()}
    return replace(
        tables,
        additional={name: additional_table(one) for name, one in others.items()},
        holds=holds_on(results, tables.contrasts, others),
        compute=against_compute(collected, results, tables.rows, tables.contrasts),
    )


def table_files(tables: Tables) -> dict[str, bytes]:
    """Scores, runs, pairs, score against compute and sensitivity to the scorer in every format, by name of file."""
    files = _formats("scores", [tables.scores]) | (_formats("runs", tables.runs.tables) if tables.runs else {})
    if tables.pairs is not None:
        said = [f"- {escape_markdown(' '.join((v.sentence, *v.notes)))}\n" for v in tables.verdicts]
        said += [f"\n{escape_markdown(sentence)}\n" for sentence in tables.common]
        files |= _formats("pairs", [table for table in (tables.pairs, tables.tasks) if table], head="".join(said))
        files |= _records("pairs", pd.DataFrame(tables.contrasts))
    if tables.compute is not None:
        files |= _formats("compute", tables.compute.tables) | _records("compute", tables.compute.frame)
    if tables.holds is not None:
        said = [f"- {escape_markdown(sentence)}\n" for sentence in tables.holds.sentences]
        files |= _formats("holds", [tables.holds.table], head="".join(said))
    return files | (_formats("sensitivity", tables.sensitivity) if tables.sensitivity else {})


def show(console: Console, tables: Tables) -> None:
    """Print the score tables, then one line a pair, then what they need to be judged, each remark once."""
    for table in (tables.scores, *tables.additional.values()):
        console.print(table)
        console.print()
    if counted := tally(tables.verdicts):
        console.print(counted)
    notes = list(dict.fromkeys(note for verdict in tables.verdicts for note in verdict.notes))
    for verdict in tables.verdicts:
        numbers = " ".join(superscript(notes.index(note) + 1) for note in verdict.notes)
        console.print(Text(f"{clean(verdict.sentence)}{numbers}", style="bold"))
    if tables.verdicts:
        console.print()
    numbered = (f"{superscript(number)} {note}" for number, note in enumerate(notes, 1))
    for text in (*numbered, *tables.common, *(tables.holds.sentences if tables.holds else ())):
        console.print(Text(clean(text), style="dim"))


def checkpoint_curve(evaluated: Evaluated, cells: Sequence[CellResult]) -> pd.DataFrame:
    """Overall and task scores of every checkpoint, and which are reported; description only."""
    reported = {(cell.method, cell.seed, step) for cell in cells for step in cell.reported}
    rows: list[dict[str, Any]] = []
    for (method, seed, step), by in evaluated.points.items():
        figures = by[evaluated.scorer].figures
        where = {"method": method, "seed": seed, "step": step, "reported": (method, seed, step) in reported}
        rows.append({**where, "overall": figures.overall, **figures.tasks})
    return pd.DataFrame(rows)


def _formats(name: str, tables: Sequence[Table], head: str = "") -> dict[str, bytes]:
    texts = (
        "\n".join([head] * bool(head) + [table.to_markdown() for table in tables]),
        latex_document([table.to_latex() for table in tables]),
        tables[0].to_csv(),
        tables[0].to_json(),
    )
    return {f"{name}.{kind}": text.encode() for kind, text in zip(FORMATS, texts, strict=True)}


def _records(name: str, frame: pd.DataFrame) -> dict[str, bytes]:
    """A frame as CSV and JSON, for numbers of more than one table."""
    whole = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return {f"{name}.csv": csv_text(frame).encode(), f"{name}.json": json_text(whole).encode()}


def _report_folder(run_dir: Path) -> Path:
    """A run directory's own report; not one behind a link."""
    return inside(run_dir, f"{REPORT}/{PAGE}").parent


def _publish(folder: Path, tables: Mapping[str, bytes], page: Mapping[str, bytes]) -> list[Path]:
    """Write a report in place of an earlier one; return its files, the page first."""
    with hold(folder, "report", WAIT):
        Outputs(folder, REPORT_LIST).publish({**tables, **page})
    first, *others = page
    return [folder / name for name in (first, *tables, *others)]
