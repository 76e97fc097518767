"""The page of a comparison: one file that needs no network, from the verdicts down to every answer."""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from typing import Any

import jinja2
from matplotlib.figure import Figure

from harness.config.study import BASE, StudyConfig
from harness.data.reader import Dataset
from harness.io import digest_of, read_text
from harness.visible import clean, visible
from reports.collect import Collected
from reports.page.browser import BrowserData, browser_data, script_json
from reports.page.fairness import fairness_card
from reports.page.figures import (
    TRAINING,
    Drawing,
    Palette,
    drawn,
    forest,
    learning_curve,
    task_bars,
    task_forest,
    training_curve,
)
from reports.page.methods import questions_asked
from reports.page.run_figures import run_dots
from reports.results import Results
from reports.statistics import COSTS, LEVEL, OVERALL, learning_curves, level, score_intervals, training_metrics
from reports.tables import AgainstCompute, Tables, Verdict, tally
from reports.text import Document, amount, count, listed

PAGE = "index.html"
FAIRNESS, METHODS = "fairness.md", ("methods.md", "methods.tex")
BADGES = {"equivalent": "equivalent", "undecided": "undecided", "untested": "not tested"}

Drawings = dict[str, list[Drawing]]


def page_files(
    results: Results,
    tables: Tables,
    *,
    benchmark: Dataset | None = None,
    collected: Collected | None = None,
    methods: Document | None = None,
) -> dict[str, bytes]:
    """``index.html``, the fairness card and the methods section, ``figures/*.svg`` and ``.pdf``, by their names.

    These hold dates and timings, so unlike the tables they depend on more than the answers.

    Args:
        results: What was answered.
        tables: What was tested, from :func:`reports.tables.build_tables`.
        benchmark: Where the videos are; without it the sample browser shows no frames.
        collected: Of a run directory: adds learning curves, what training logged and the fairness card.
        methods: The methods section, see :mod:`reports.page.methods`.
    """
    labels = {method: clean(label) for method, label in results.short_labels.items()}
    palette = Palette(list(labels))
    drawings = _draw(results, tables, labels, palette, collected)
    videos = benchmark.video_path if benchmark else None
    shown = collected.headline.shown if collected else results.answers
    data = browser_data(results.records, shown, labels, results.benchmark, videos)
    colours = {visible(method): palette.variable(method) for method in labels}
    for method in data["methods"]:
        method["colour"] = colours[method["name"]]
    fairness = fairness_card(collected) if collected else None
    texts = {FAIRNESS: fairness.to_markdown()} if fairness else {}
    texts |= dict(zip(METHODS, (methods.to_markdown(), methods.to_latex()), strict=True)) if methods else {}
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
        "cluster": results.benchmark.cluster,
        "rule": collected.study.evaluation.rule if collected else "",
        "frames_note": _frames_note(data, collected is not None and collected.study.evaluation.last is not None),
        "sample_json": script_json(data),
        "footer": footer(),
        "fairness": fairness,
        "methods": methods,
        "texts": texts,
    }
    texts = {PAGE: render("page.html.j2", context | {"sections": _sections(context)}), **texts}
    figures = {name: data for some in drawings.values() for one in some for name, data in one.files.items()}
    return {name: text.encode() for name, text in texts.items()} | {
        f"figures/{name}": figures[name] for name in sorted(figures)
    }


def possible_files(study: StudyConfig) -> list[str]:
    """The files that :func:`page_files` may make of a study's results."""
    methods = [BASE, *study.methods]
    names = ["tasks", "tasks-narrow", "runs", "forest", "learning-examples", *(f"compute-{cost}" for cost in COSTS)]
    names += [f"training-{key}" for key in TRAINING]
    names += [_forest_name(a, b) for a in methods for b in methods if a != b]
    return [PAGE, FAIRNESS, *METHODS, *(f"figures/{name}.{kind}" for name in names for kind in ("svg", "pdf"))]


def _draw(
    results: Results,
    tables: Tables,
    labels: Mapping[str, str],
    palette: Palette,
    collected: Collected | None,
) -> Drawings:
    """Draw every figure that the results allow."""
    drawings: Drawings = {"scores": [], "runs": [], "differences": [], "learning": [], "compute": [], "training": []}

    def add(section: str, name: str, caption: str, figure: Figure) -> None:
        drawings[section].append(drawn(figure, name, caption))

    answers, titles = results.answers, {task.name: clean(task.title) for task in results.tasks}
    scores = {m: score_intervals(answers[answers["method"] == m], results.benchmark) for m in results.present}
    caption = (
        f"Score by task with its {level(1 - LEVEL)} confidence interval over {results.benchmark.cluster}s; differences "
        "between methods are shown above. Horizontal lines: baselines that need no video."
    )
    shown = {OVERALL, *titles}
    baselines = {
        clean(row.label): {name: score for name, score in row.runs[0].items() if name in shown}
        for row in tables.rows
        if row.kind == "baseline"
    }
    for name, wide in (("tasks", True), ("tasks-narrow", False)):
        bars = task_bars(scores, baselines, palette, labels, titles, wide=wide)
        add("scores", name, caption, bars)
    if tables.runs and any(method != BASE for method in tables.runs.scores):
        hollow = " Hollow: collapsed runs." if any(one.seeds for one in tables.runs.collapsed.values()) else ""
        caption = f"Overall score of every run, and its mean by method.{hollow}"
        add("runs", "runs", caption, run_dots(tables.runs, palette, labels))
    contrasts = tables.contrasts
    if contrasts:
        add("differences", "forest", "Difference in overall score of every pair.", forest(contrasts, labels))
    for a, b in dict.fromkeys((c.a, c.b) for c in contrasts):
        caption = f"{labels[b]} minus {labels[a]}, overall and by task."
        figure = task_forest([c for c in contrasts if c.task in shown], a, b, palette.colour(b), titles)
        add("differences", _forest_name(a, b), caption, figure)
    if collected is not None:
        for section, name, caption, figure in _curves(collected, tables.compute, palette, labels):
            add(section, name, caption, figure)
        metrics = training_metrics(collected)
        for key, (_, caption) in TRAINING.items():
            if key in metrics and metrics[key].notna().any():
                add("training", f"training-{key}", caption, training_curve(metrics, key, palette, labels))
    return drawings


def _forest_name(a: str, b: str) -> str:
    """The name of a pair's figure, which no other pair has, no longer than file systems allow."""
    text = f"forest-{b}-{a}"
    name = re.sub(r"[^A-Za-z0-9.+_-]+", "_", text)[:100]
    return name if name == text else f"{name}-{digest_of([a, b])[:8]}"


def _curves(
    collected: Collected, compute: AgainstCompute | None, palette: Palette, labels: Mapping[str, str]
) -> Iterator[tuple[str, str, str, Figure]]:
    """Section, name, caption and figure of score against examples and against each cost."""
    lines, bands = learning_curves(collected)
    if bands.loc[bands["method"] != BASE, "examples"].notna().any():
        caption = "Score against training examples; the base model is at 0."
        yield "learning", "learning-examples", caption, learning_curve(lines, bands, "examples", palette, labels)
    for one in compute.equal if compute else ():
        caption = (
            f"Score against {COSTS[one.cost]} of training, the base model at 0. Dotted: {amount(one.at)}, the most "
            "that every run used. Grey steps: the Pareto front of the reported scores."
        )
        front = list(compute.fronts[one.cost].values()) if compute else []
        figure = learning_curve(lines, bands, one.cost, palette, labels, at=one.at, front=front)
        yield "compute", f"compute-{one.cost}", caption, figure


def _title(results: Results, labels: Mapping[str, str]) -> str:
    names = [labels[method] for method in results.present if method != BASE] or [labels[m] for m in results.present]
    return f"{listed(names)} on {results.title}"


def _lead(results: Results, collected: Collected | None) -> str:
    parts = [questions_asked(results.answers, results.benchmark), f"scorer “{results.scorer}”"]
    if collected is not None:
        study = collected.study
        parts += [f"model {study.model.name}", f"{study.budget.amount:g} {study.budget.kind} per run"]
        parts += [f"{count(collected.seeds, 'seed')} per method", f"study {study.name}"]
    return clean(" · ".join(parts))


def _warnings(results: Results) -> list[str]:
    """What is missing, shown before anything else."""
    missing = [cell for cell in results.cells if cell.state != "done"]
    if not missing:
        return []
    states = ", ".join(f"{number} {state}" for state, number in Counter(cell.state for cell in missing).items())
    absent = [results.short_labels[m] for m in results.labels if m not in results.present]
    none = f" No answers from {listed(absent)}." if absent else ""
    verb = "is" if len(missing) == 1 else "are"
    return [
        f"{len(missing)} of {count(len(results.cells), 'run')} {verb} missing from this report ({states}); the reasons "
        f"are below.{none}"
    ]


def _grouped(verdicts: Sequence[Verdict]) -> list[tuple[str, list[Verdict]]]:
    """Methods with each other, then each with the base model; empty without any."""
    groups = {
        "Between methods": [verdict for verdict in verdicts if verdict.a != BASE],
        "Against the base model": [verdict for verdict in verdicts if verdict.a == BASE],
    }
    return [(heading, members) for heading, members in groups.items() if members]


def _frames_note(data: BrowserData, mean: bool) -> str:
    missing, videos = sum(not sheet for _, sheet in data["scenes"]), len(data["scenes"])
    frames = f"Frames are not available for {missing:,} of {count(videos, 'video')}. " if missing else ""
    last = "Answers and their scores here are those of each run's last checkpoint. " if mean else ""
    return f"{frames}{last}Answers longer than {data['limit']:,} characters are cut in the middle."


def _sections(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    drawings = context["drawings"]
    shown = {
        "verdict": True,
        "differences": drawings["differences"],
        "scores": True,
        "runs": drawings["runs"],
        "additional": context["tables"].additional,
        "holds": context["tables"].holds,
        "learning": drawings["learning"],
        "compute": context["tables"].compute,
        "training": drawings["training"],
        "samples": True,
        "fairness": context["fairness"],
        "methods": context["methods"],
    }
    return [(name, name.capitalize()) for name, there in shown.items() if there]


def footer() -> str:
    """When and by what a page was written."""
    return (
        f"Written on {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M UTC} by vlm-harness "
        f"{version('vlm-harness')}. This file is self-contained and needs no network."
    )


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page from one of the templates beside it."""
    assets = resources.files("reports.page").joinpath("assets")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports.page", "assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,  # not what is safe markup already
    )
    environment.filters["minus"] = lambda text: re.sub(r"(?<![\w.-])-(?=\d|$)", "\N{MINUS SIGN}", text)
    environment.filters["together"] = lambda text: re.sub(
        r"\bp ([=<]) ", "p\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text
    )
    own = {kind: read_text(assets.joinpath(f"page.{kind}")) for kind in ("css", "js")}
    # Only this script may run in the page, whatever text from data it holds.
    digest = base64.b64encode(hashlib.sha256(own["js"].encode()).digest()).decode()
    return environment.get_template(template).render(**context, **own, js_digest=digest)
