"""The tables of several studies: scores and differences in blocks of one study each, and what they say together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from harness.config.study import BASE
from reports.several.studies import OneStudy, Pooled, differing_terms
from reports.statistics import Combined, level
from reports.tables import BASELINES, UNCORRECTED, Cell, Column, Row, Table, Value, number, p_text
from reports.text import count, listed, sentences

OWN_REPORT = (
    "Each block is a study of its own, judged by its own plan and corrected within itself, as in its own report"
)


MARKED = (
    "* corrected p below the study's level, comparing methods; † the same, comparing checkpoints; = equivalent within "
    "the study's margin."
)


def several_tables(studies: Sequence[OneStudy], found: Sequence[Pooled], alpha: float) -> dict[str, Table]:
    """Every table of the report, by the name of its files.

    Args:
        studies: What was read.
        found: What they say together.
        alpha: Level of the combined intervals.
    """
    every = {
        "scores": joint_scores(studies),
        "pairs": joint_pairs(studies),
        "combined": combined_table(found, alpha),
        "studies": studies_table(studies),
    }
    return {name: table for name, table in every.items() if table is not None}


def joint_scores(studies: Sequence[OneStudy]) -> Table:
    """The scores of every study: models as blocks, methods as rows, tasks as columns."""
    titles = list(dict.fromkeys(one.results.title for one in studies))
    caption = sentences(
        f"{OWN_REPORT}, which also has baselines and shares of unreadable answers.",
        "Scores from 0 to 100; with several seeds mean ± standard deviation over seeds; bold: the highest in the "
        "block (not a test). Differences are from the block's own base model.",
        "Scores of different models are not compared.",
        MARKED,
    )
    tables = [one.tables.scores for one in studies]
    return _joined(f"Scores on {listed(titles)}", studies, tables, caption)


def joint_pairs(studies: Sequence[OneStudy]) -> Table | None:
    """The differences within every study; None where no study has two methods."""
    having = [one for one in studies if one.tables.pairs is not None]
    if not having:
        return None
    tables = [one.tables.pairs for one in having if one.tables.pairs is not None]
    caption = sentences(
        f"{OWN_REPORT}.",
        f"Differences are B minus A in points, within one model; their intervals are {UNCORRECTED}.",
        MARKED,
    )
    found = _joined("Paired comparisons within each study", having, tables, caption)
    return replace(found, footnotes=(*found.footnotes, *_said(having)))


def combined_table(found: Sequence[Pooled], alpha: float) -> Table | None:
    """What the studies say together about each pair; None where no pair stands in several studies."""
    if not found:
        return None
    head = f"Combined\n[{level(alpha)} CI]"

    def of(value: Callable[[Combined], Value], text: Callable[[float], str] | None = None) -> Callable[[Pooled], Cell]:
        def cell(one: Pooled) -> Cell:
            found = value(one.found) if one.found else None
            return Cell((found,), text(found) if text and isinstance(found, float) else None)

        return cell

    columns: list[tuple[Column, Callable[[Pooled], Cell]]] = [
        (Column("Comparison\n(B − A)", ("b", "a"), align="left"), _comparison),
        (Column("Over", ("over", "studies"), align="left"), _over_cell),
        (Column("Differences\nfound", ("lowest", "highest"), "{:+z.1f} to {:+z.1f}"), _range),
        (Column(head, ("difference", "ci_low", "ci_high"), "{:+z.1f} [{:z.1f}, {:z.1f}]"), _estimate),
        (Column("SE", ("standard_error",), "{:.2f}"), of(lambda c: c.standard_error)),
        (Column("p", ("p",)), of(lambda c: c.p, p_text)),
        (Column("Holm\np", ("p_holm",)), _p_holm),
        (Column("τ", ("tau",), "{:.1f}"), of(lambda c: c.tau)),
        (Column("I²\n%", ("i2",), "{:.0f}"), of(lambda c: c.i2)),
        (Column("Q's\np", ("q_p",)), of(lambda c: c.q_p, p_text)),
        (
            Column("Errors'\ncorr.", ("correlation",), "{:.2f}"),
            of(lambda c: c.correlation),
        ),
        (Column("Compares", ("claim",), align="left"), of(lambda c: c.claim)),
    ]
    tests = sum(one.found is not None for one in found)
    kept = [one.found for one in found if one.found]
    caption = sentences(
        "The difference to expect of another model, or on another benchmark, like these: random effects (DerSimonian "
        "and Laird), Student's t with as many degrees of freedom as studies less one.",
        "τ: standard deviation of the true differences between studies, in points; I²: share of the variation between "
        "them that is not error; Q: test that they are equal.",
        "“Errors' corr.”: what studies share, questions about the same rooms or the same training runs, estimated and "
        "part of every column.",
        f"Intervals are {UNCORRECTED}, p Holm-corrected over {count(tests, 'combined pair')}. No study's plan declares "
        "these estimates: they are exploratory."
        if tests
        else "",
        "With two studies there is one degree of freedom: a 95% interval reaches 12.7 standard errors to each side, "
        "and neither τ nor Q can show much."
        if any(one.df == 1 for one in kept)
        else "",
    )
    rows = tuple(Row(tuple(cell(one) for _, cell in columns), _place(one)) for one in found)
    return Table("Differences over several studies", tuple(column for column, _ in columns), rows, caption)


def studies_table(studies: Sequence[OneStudy]) -> Table:
    """What each study is, and in what they differ."""
    differing = differing_terms(studies)
    columns = [
        Column("Study", ("study",), align="left"),
        Column("Run directory", ("folder",), align="left"),
        Column("Model", ("model", "model_digest"), "{} ({:.8})", align="left"),
        Column("Benchmark", ("benchmark",), align="left"),
        Column("Cells\ndone", ("done", "cells"), "{} of {}"),
        Column("Declared", ("declared",), align="left"),
        Column("Level", ("alpha",), "{:g}"),
        *(Column(term.capitalize(), (term.replace(" ", "_"),), align="left") for term in studies[0].terms),
    ]
    rows = []
    for one in studies:
        cells = one.collected.cells
        rows.append(
            Row(
                (
                    Cell((one.label,)),
                    Cell((str(one.folder),)),
                    Cell((one.model, one.model_digest)),
                    Cell((one.results.title,)),
                    Cell((sum(cell.state == "done" for cell in cells), len(cells))),
                    Cell((_declared(one),)),
                    Cell((one.results.report.alpha,)),
                    *(Cell((value,), bold=term in differing) for term, value in one.terms.items()),
                )
            )
        )
    caption = (
        f"Bold: the studies differ in {listed(list(differing))}; only studies equal in all of this are combined."
        if differing
        else "The studies are equal in everything to the right of “Level”."
    )
    return Table("The studies", tuple(columns), tuple(rows), caption)


def pooled_sentence(one: Pooled, alpha: float) -> str:
    """What several studies say together about a pair, or why nothing."""
    b, a = one.labels[1], one.labels[0]
    over = f"{b} minus {a} over {_over(one)} ({_place(one)})"
    c = one.found
    if c is None:
        return f"{over}: not combined, because {one.why}."
    p = p_text(one.p_holm)
    p = f"p < {p[1:]}" if p.startswith("<") else f"p = {p}"
    text = (
        f"{over}: {number(c.difference, '+')} points ({level(alpha)} CI {number(c.ci_low)} to {number(c.ci_high)}, "
        f"corrected {p}); the true differences between them vary by an estimated {c.tau:.1f} points (τ), "
        f"I² {c.i2:.0f}%, heterogeneity p {'< 0.001' if c.q_p < 0.001 else f'= {c.q_p:.3f}'}."
    )
    return f"{text} Two {one.over} say very little about others." if c.df == 1 else text


def _declared(one: OneStudy) -> str:
    """When a study was declared, and what was amended with results at hand."""
    plan = one.collected.declared
    amended = plan.amended_knowingly
    return plan.written + (f"; amended with results known: {listed(amended)}" if amended else "")


def _said(studies: Sequence[OneStudy]) -> list[str]:
    """What each study says of all its pairs, and what it amended with results at hand; what all say is said once."""
    said: dict[str, list[str]] = {}
    for one in studies:
        amended = one.collected.declared.amended_knowingly
        own = (
            f"Not as declared: with results known, {listed(amended)} {'was' if len(amended) == 1 else 'were'} amended."
        )
        for sentence in (*one.tables.common, *([own] if amended else [])):
            said.setdefault(sentence, []).append(one.label)
    return [text if len(of) == len(studies) else f"{listed(of)}: {text}" for text, of in said.items()]


def _joined(title: str, studies: Sequence[OneStudy], tables: Sequence[Table], caption: str) -> Table:
    """Tables of single studies as blocks of one; a column that a study does not have is empty there."""
    columns: dict[tuple[str, ...], Column] = {}
    for table in tables:
        for column in table.columns:
            if column.part is None:
                known = columns.setdefault(column.keys, column)
                if known.header != column.header:  # another level of the intervals
                    columns[column.keys] = replace(known, header=re.sub(r"\[.*CI\]", "[CI]", known.header))
    rows = []
    for one, table in zip(studies, tables, strict=True):
        places = {column.keys: at for at, column in enumerate(table.columns)}
        for row in table.rows:
            if row.light or row.group == BASELINES:
                continue
            cells = [
                row.cells[places[keys]] if keys in places else Cell((None,) * len(column.keys))
                for keys, column in columns.items()
            ]
            # Whose base it is, the block says.
            base, first = one.results.short_labels.get(BASE, ""), cells[0]
            cells[0] = replace(first, text=first.text and first.text.replace(base, "base") if base else first.text)
            rows.append(replace(row, cells=tuple(cells), group=one.label))
    notes = dict.fromkeys(note for table in tables for note in table.footnotes)
    return Table(title, tuple(columns.values()), tuple(rows), caption, tuple(notes))


def _comparison(one: Pooled) -> Cell:
    return Cell(
        (one.b, one.a), f"{one.labels[1]} − {one.labels[0]}", note=f"Not combined: {one.why}." if one.why else ""
    )


def _over_cell(one: Pooled) -> Cell:
    return Cell((one.over, len(one.contrasts)), _over(one))


def _over(one: Pooled) -> str:
    return f"{len(one.contrasts)} {one.over if not one.why else 'studies'}"


def _place(one: Pooled) -> str:
    return f"{'on ' if one.over == 'models' else 'model '}{one.where}"


def _range(one: Pooled) -> Cell:
    found = [c.difference for c in one.contrasts.values()]
    return Cell((min(found), max(found)))


def _estimate(one: Pooled) -> Cell:
    c = one.found
    return Cell((c.difference, c.ci_low, c.ci_high) if c else (None, None, None))


def _p_holm(one: Pooled) -> Cell:
    return Cell((one.p_holm,), p_text(one.p_holm)) if one.found else Cell((None,))
