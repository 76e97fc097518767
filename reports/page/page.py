"""The page of a comparison: one file that needs no network, with the verdict first and every answer at the end."""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from harness.config.study import BASE
from harness.data.reader import Dataset
from harness.io import write_text
from harness.vsibench.types import TASKS
from reports.collect import Collected
from reports.page.browser import browser_data, script_json
from reports.page.drawing import Drawing, Palette, save_figure
from reports.page.figures import (
    TRAINING,
    compute_plot,
    forest,
    learning_curve,
    logged,
    task_bars,
    task_forest,
    training_curve,
)
from reports.page.verdicts import Verdict, tally
from reports.results import Results, Tables
from reports.statistics.contrast import OVERALL, level
from reports.statistics.curves import LEVEL, learning_curves, score_intervals, training_metrics
from reports.tables.blocks import Block, to_latex, to_markdown
from reports.tables.escape import clean
from reports.tables.fairness import fairness_card

PAGE = "index.html"
BADGES = {"equivalent": "equivalent", "undecided": "undecided", "untested": "not tested"}
_BASELINES = ("constant", "text-prior")

Drawings = dict[str, list[Drawing]]


def write_page(
    folder: Path,
    results: Results,
    tables: Tables,
    *,
    benchmark: Dataset | None = None,
    collected: Collected | None = None,
    run_dir: Path | None = None,
    methods: Sequence[Block] = (),
) -> list[Path]:
    """Write ``index.html``, ``figures/*.svg`` and ``.pdf``, and the methods section.

    The page holds dates and timings, so it is not a function of the answers alone as the tables are.

    Args:
        folder: Where to.
        results: What was answered.
        tables: What was tested, from :func:`reports.results.build_tables`.
        benchmark: Where the videos are; without it the sample browser shows no frames.
        collected: Of a run directory: adds learning curves and fairness card.
        run_dir: Of a run directory: adds what training logged and consumed.
        methods: The methods section, see :mod:`reports.page.methods`; none when empty.

    Returns:
        The page, then the methods section's files, then the figures.
    """
    labels = {method: clean(label) for method, label in results.short_labels.items()}
    palette = Palette(list(labels))
    for stale in (folder / "figures").glob("*.*"):
        if stale.suffix in (".svg", ".pdf"):
            stale.unlink()
    drawings = _draw(folder / "figures", results, tables, labels, palette, collected, run_dir)
    data = browser_data(results.records, results.answers, labels, benchmark.video_path if benchmark else None)
    for method in data["methods"]:
        method["colour"] = palette.variable(method["name"])
    context: dict[str, Any] = {
        "title": _title(results, labels),
        "lead": _lead(results, collected),
        "warnings": _warnings(results),
        "verdicts": _grouped(tables.verdicts),
        "tally": tally(tables.verdicts),
        "labels": labels,
        "variables": {method: palette.variable(method) for method in labels},
        "badges": BADGES,
        "tables": tables,
        "drawings": drawings,
        "level": level(1 - LEVEL),
        "pairs_level": level(results.report.alpha),
        "frames_note": _frames_note(data),
        "sample_json": script_json(data),
        "footer": _footer(),
        "fairness": "" if collected is None else _html(fairness_card(collected)),
        "methods": methods,
    }
    written = [folder / PAGE]
    if methods:
        texts = {"markdown": to_markdown(methods), "latex": to_latex(methods)}
        context |= texts
        for name, text in (("methods.md", texts["markdown"]), ("methods.tex", texts["latex"])):
            write_text(folder / name, text)
            written.append(folder / name)
    context["sections"] = _sections(context)
    write_text(folder / PAGE, _render(context))
    return [*written, *sorted((folder / "figures").iterdir())]


def _html(markdown: str) -> str:
    """Markdown whose text comes from data and is escaped as Markdown: HTML in it stays text."""
    rendered: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return rendered


def _draw(
    folder: Path,
    results: Results,
    tables: Tables,
    labels: Mapping[str, str],
    palette: Palette,
    collected: Collected | None,
    run_dir: Path | None,
) -> Drawings:
    """Every figure that the results allow, saved."""
    drawings: Drawings = {"scores": [], "differences": [], "learning": [], "training": []}

    def add(section: str, name: str, caption: str, figure: Figure) -> None:
        drawings[section].append(save_figure(figure, folder, name, caption))

    scores = {m: score_intervals(results.answers[results.answers["method"] == m]) for m in results.present}
    caption = (
        f"Score by task with {level(1 - LEVEL)} intervals over rooms, of each score alone: whether two methods differ "
        "is told above. Lines across: answers that need no video."
    )
    for name, wide in (("tasks", True), ("tasks-narrow", False)):
        add("scores", name, caption, task_bars(scores, _baselines(tables), palette, labels, wide=wide))
    contrasts = tables.contrasts
    if not contrasts.empty:
        add("differences", "forest", "Overall score: difference of every pair.", forest(contrasts, labels))
        for a, b in contrasts[["a", "b"]].drop_duplicates().itertuples(index=False):
            named = f"{labels[b]} minus {labels[a]}, overall and by task."
            figure = task_forest(contrasts, a, b, palette.colour(b))
            add("differences", f"forest-{_file_name(b)}-{_file_name(a)}", named, figure)
    if collected is not None:
        for name, caption, figure in _learning(collected, run_dir, palette, labels):
            add("learning", name, caption, figure)
        metrics = training_metrics(run_dir, collected.cells)
        for key in logged(metrics):
            add("training", f"training-{key}", TRAINING[key][1], training_curve(metrics, key, palette, labels))
    return drawings


def _learning(
    collected: Collected, run_dir: Path | None, palette: Palette, labels: Mapping[str, str]
) -> Iterator[tuple[str, str, Figure]]:
    lines, bands = learning_curves(collected, run_dir)
    trained = bands[bands["method"] != BASE]
    for key, axis, caption in (
        ("examples", "training examples", "Score against training examples, the base model at 0."),
        ("seconds", "device seconds of training", "Score against device time, evaluation excepted."),
    ):
        if trained[key].notna().any():
            yield f"learning-{key}", caption, learning_curve(lines, bands, key, axis, palette, labels)
    if trained["seconds"].notna().any():
        caption = "Score of the last checkpoint against what training it cost. Small: every seed."
        yield "compute", caption, compute_plot(lines, bands, palette, labels)


def _baselines(tables: Tables) -> dict[str, dict[str, float]]:
    """Scores of what needs no video, by its label, as the score table has them."""
    table = tables.scores
    columns = [(column.keys[0], place) for place, column in enumerate(table.columns)]
    found = {}
    for row in table.rows:
        if row.cells[0].values[0] in _BASELINES:
            values = {name: row.cells[place].values[0] for name, place in columns if name in (OVERALL, *TASKS)}
            label = row.cells[0].shown(table.columns[0])
            found[label] = {name: float(value) for name, value in values.items() if value is not None}
    return found


def _title(results: Results, labels: Mapping[str, str]) -> str:
    names = [labels[method] for method in results.present if method != BASE] or [labels[m] for m in results.present]
    listed = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    return f"{listed} on {results.benchmark}"


def _lead(results: Results, collected: Collected | None) -> str:
    rooms = len({record.room for record in results.records})
    parts = [f"{_count(len(results.records), 'question')} about {_count(rooms, 'room')}"]
    parts.append(f"scorer “{results.scorer}”")
    if collected is not None:
        study = collected.study
        parts += [f"model {study.model.name}", f"{study.budget.amount:g} {study.budget.kind} of budget a run"]
        parts += [f"{_count(study.seeds, 'seed')} a method", f"study {study.name}"]
    return clean(" · ".join(parts))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _warnings(results: Results) -> list[str]:
    """What is missing, said before anything else."""
    missing = [cell for cell in results.cells if cell.state != "done"]
    if not missing:
        return []
    states = ", ".join(f"{count} {state}" for state, count in Counter(cell.state for cell in missing).items())
    absent = [m for m in results.labels if m not in results.present]
    gone = f" No answers at all: {', '.join(results.short_labels[m] for m in absent)}." if absent else ""
    part = f"{len(missing)} of {_count(len(results.cells), 'run')} {'is' if len(missing) == 1 else 'are'} not part"
    return [f"{part} of this report ({states}); the reasons are below.{gone}"]


def _grouped(verdicts: list[Verdict]) -> list[tuple[str, list[Verdict]]]:
    """Methods with each other, then each with the base model; empty without any."""
    if not verdicts:
        return []
    return [
        ("Between methods", [verdict for verdict in verdicts if verdict.a != BASE]),
        ("Against the base model", [verdict for verdict in verdicts if verdict.a == BASE]),
    ]


def _frames_note(data: Mapping[str, Any]) -> str:
    lacking = sum(not sheet for _, sheet in data["scenes"])
    frames = "" if not lacking else f"Frames of {lacking:,} of {len(data['scenes']):,} videos cannot be shown. "
    return f"{frames}Long answers are cut in the middle to {data['limit']:,} characters."


def _footer() -> str:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"Written on {now} by vlm-harness {version('vlm-harness')}. This file needs no network and holds all it shows."
    )


def _sections(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    drawings = context["drawings"]
    shown = {
        "verdict": True,
        "differences": drawings["differences"],
        "scores": True,
        "beside": context["tables"].beside,
        "learning": drawings["learning"],
        "training": drawings["training"],
        "samples": True,
        "fairness": context["fairness"],
        "methods": context["methods"],
    }
    return [(name, name.capitalize()) for name, there in shown.items() if there]


def _render(context: Mapping[str, Any]) -> str:
    assets = resources.files("reports.page").joinpath("assets")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports.page", "assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["minus"] = lambda text: re.sub(r"(?<![\w.-])-(?=\d|$)", "\N{MINUS SIGN}", text)
    environment.filters["together"] = lambda text: re.sub(
        r"\bp ([=<]) ", "p\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text
    )
    own = {kind: assets.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")}
    # Only this very script may run in the page, whatever else came into it.
    digest = base64.b64encode(hashlib.sha256(own["js"].encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(**context, **own, js_digest=digest)


def _file_name(method: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", method)
