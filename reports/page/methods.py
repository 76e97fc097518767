"""The methods section of a paper, written from what was run: one content, as Markdown, LaTeX and HTML blocks."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from harness.config.study import BASE, ReportSection, StudyConfig
from harness.config.variants import SECTIONS
from harness.data.reader import Dataset
from harness.io import read_json, sha256_file
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from reports.collect import CellResult, Collected
from reports.results import Results
from reports.samples import Source
from reports.statistics.contrast import OVERALL, SEEDS_FOR_METHODS, level
from reports.tables.blocks import Block, heading, paragraph, table

DIGITS = 16
"""Hex digits shown of a SHA-256."""


def methods_section(collected: Collected, contrasts: pd.DataFrame, run_dir: Path | None) -> list[Block]:
    """What was trained, evaluated and tested, how to do it again, and on what it ran.

    Args:
        collected: The study's results.
        contrasts: What :func:`reports.statistics.paired.compare_all` returned.
        run_dir: For the command that began the run.
    """
    study = collected.study
    overall = contrasts[contrasts["task"] == OVERALL]
    return [
        heading("Training"),
        paragraph(_training(collected)),
        paragraph(_optimisation(study)),
        heading("Evaluation"),
        paragraph(_evaluation(collected)),
        heading("Statistics"),
        *(paragraph(" ".join(sentences)) for sentences in _statistics(study.report, overall)),
        heading("Configuration of each method"),
        table(("Method", "Settings"), *_configuration(study)),
        heading("Commands"),
        Block("code", [(command,) for command in _commands(collected, run_dir)]),
        heading("Versions"),
        paragraph(_versions(collected.cells)),
        heading("Weights"),
        table(("Cell", "Seed", "Weights (SHA-256)", "State"), *map(_weights, collected.cells)),
    ]


def samples_section(
    sources: Sequence[Source], results: Results, benchmark: Dataset, contrasts: pd.DataFrame, command: str
) -> list[Block]:
    """What was scored and tested of answers made elsewhere, from which files.

    Args:
        sources: The files.
        results: What they answered.
        benchmark: What was asked.
        contrasts: What :func:`reports.statistics.paired.compare_all` returned.
        command: What was typed; empty when it is not known.
    """
    overall = contrasts[contrasts["task"] == OVERALL]
    names = ("numpy", "scipy", "statsmodels", "vlm-harness")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return [
        heading("Evaluation"),
        paragraph(
            f"The answers were made elsewhere and read from the files below; how they were made is not part of this "
            f"report. Every file answers the same {_questions(results.records)} ({benchmark.root}, split "
            f"{benchmark.split}, SHA-256 {benchmark.digest[:DIGITS]}). {_scoring(results.scorer)}"
        ),
        heading("Statistics"),
        *(paragraph(" ".join(sentences)) for sentences in _statistics(results.report, overall)),
        *([heading("Commands"), Block("code", [(command,)])] if command else []),
        heading("Versions"),
        paragraph(f"Python {platform.python_version()}, {packages}."),
        heading("Answers"),
        table(
            ("Method", "Seed", "SHA-256", "File"),
            *((one.name, str(one.seed), sha256_file(one.path)[:DIGITS], str(one.path)) for one in sources),
        ),
    ]


def _training(collected: Collected) -> str:
    study, train = collected.study, collected.train
    model = study.model
    tuning = "all weights" if model.tuning == "full" else f"LoRA (rank {model.lora_rank}, alpha {model.lora_alpha})"
    vision = "the vision tower was frozen" if model.freeze_vision else "the vision tower was trained too"
    finished = {m: sum(c.method == m and c.state == "done" for c in collected.cells) for m in study.methods}
    short = [f"{study.label(m)} {n} of {study.seeds}" for m, n in finished.items() if n < study.seeds]
    seeds = [str(study.first_seed + number) for number in range(study.seeds)]
    sentences = [
        f"We compare {_listed([study.label(m) for m in study.methods])}, each trained from the same base model "
        f"{model.name} ({tuning}; {vision}; precision {model.precision}) with "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {_listed(seeds)}.",
        f"Runs that did not finish are left out: finished are {_listed(short)}." if short else "",
        f"Each run had a budget of {study.budget.amount:g} {_UNITS[study.budget.kind]} and drew from "
        f"{len(train.records):,} training records ({study.data.train}, SHA-256 {train.digest[:DIGITS]}) in an order "
        "that depends on the seed and not on the method.",
        f"The training prompt was “{study.prompt.train}”; of each video {study.data.frames} frames were used.",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _optimisation(study: StudyConfig) -> str:
    train, rollout = study.train, study.rollout
    rewards = ", ".join(f"{name} with weight {weight:g}" for name, weight in study.reward.weights.items())
    return (
        f"Unless the table below says otherwise, the optimiser was {train.optimizer} (learning rate "
        f"{train.learning_rate:g}, linear warm-up over {train.warmup_steps} steps, then constant; betas "
        f"{train.adam_beta1:g} and {train.adam_beta2:g}; weight decay {train.weight_decay:g}; gradient norm clipped at "
        f"{train.max_grad_norm:g}) with {train.prompts_per_step} prompts a step. Methods that sample answers did so at "
        f"temperature {rollout.temperature:g} with at most {rollout.max_new_tokens} tokens and were rewarded by "
        f"{rewards}, as far as a reward applies to a question. The reported checkpoint is the last, as declared "
        "beforehand."
    )


def _evaluation(collected: Collected) -> str:
    study, benchmark = collected.study, collected.benchmark
    identity = next((cell.identity for cell in collected.cells if cell.identity), {})
    return (
        f"Every checkpoint answered the same {_questions(benchmark.records)} "
        f"({study.data.benchmark}, SHA-256 {benchmark.digest[:DIGITS]}) with the prompt "
        f"“{study.prompt.evaluation}”; decoding: {identity.get('decoding', 'unknown')}; engine: "
        f"{identity.get('engine', 'unknown')}; frame settings: SHA-256 {identity.get('frames', 'unknown')[:DIGITS]}. "
        f"{_scoring(study.evaluation.scorer)}"
    )


def _questions(records: Sequence[Record]) -> str:
    rooms = len({record.room for record in records})
    return f"{len(records):,} question{'s' * (len(records) != 1)} about {rooms:,} room{'s' * (rooms != 1)}"


def _scoring(scorer: str) -> str:
    return (
        f"Answers were scored by “{scorer}” (version {SCORERS[scorer].version}). "
        "The score of a task is the mean over its questions, the three levels of relative direction being averaged "
        "first; the overall score is the plain mean of the tasks."
    )


def _statistics(report: ReportSection, overall: pd.DataFrame) -> Iterator[list[str]]:
    if overall.empty:
        yield ["No two methods have answers, so nothing was tested."]
        return
    claims = set(overall["claim"])
    yield [
        "Methods are compared in pairs over the same questions. Each side is averaged over its seeds, and the "
        "differences of the questions are regressed on the question types by least squares with standard errors "
        "clustered by room, which gives the difference of the overall score and of each task with their covariance.",
        f"With at least {SEEDS_FOR_METHODS} finished seeds a method the variance between training runs is added, with "
        "Welch-Satterthwaite degrees of freedom, and the claim is about methods; with fewer the claim is about the "
        "trained checkpoints only." + ("" if len(claims) > 1 else f" Here all claims are about {next(iter(claims))}."),
        f"Tests are two-sided t-tests at {report.alpha:g}; intervals are {level(report.alpha)} and not corrected.",
    ]
    sentences = [
        f"The p-values of the overall score are corrected by Holm's procedure over the {len(overall)} declared "
        f"pair{'s' * (len(overall) > 1)}; those of the tasks, which are exploratory, over the tasks of a pair.",
        "Two methods are called equivalent if two one-sided tests place the difference within "
        f"{_count(report.margin, 'point')}; what is neither different nor equivalent is undecided, with the minimum "
        "detectable effect at 80% power beside it.",
    ]
    draws = int(overall["resamples"].max())
    if draws:
        sentences.append(
            f"As checks, rooms were permuted between the methods and resampled (BCa bootstrap), {draws:,} draws each, "
            f"random seed {int(overall['resampling_seed'].max())}."
        )
    yield sentences


def _configuration(study: StudyConfig) -> Iterator[tuple[str, str]]:
    """Each method's hyper-parameters, and the shared settings that it overrides."""
    for method in study.methods:
        own = study.for_method(method).model_copy(update={"train": study.train_for(method)})
        changed = {
            f"{section}.{key}": value
            for section in SECTIONS
            for key, value in getattr(own, section).model_dump().items()
            if value != getattr(getattr(study, section), key)
        }
        settings = study.algorithm(method).config.model_dump() | changed
        yield study.label(method), ", ".join(f"{key} = {value}" for key, value in settings.items()) or "none"


def _commands(collected: Collected, run_dir: Path | None) -> list[str]:
    """How the run was begun, how to do it again from its resolved study, and how a single cell was run."""
    begun = str(read_json(run_dir / ".lock").get("command", "")) if run_dir and (run_dir / ".lock").is_file() else ""
    again = "harness compare --study study.toml"
    cells = [cell for cell in collected.cells if cell.environment.get("argv")]
    single = shlex.join(["python", "-m", "harness.study.cell", *cells[0].environment["argv"][1:]]) if cells else ""
    return [command for command in (begun, again, single) if command]


def _versions(cells: Sequence[CellResult]) -> str:
    """What the cells ran on; more than one sentence when they did not run on the same."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.environment:
            found.setdefault(_machine(cell.environment), []).append(cell.cell)
    if len(found) == 1:
        return f"{next(iter(found))}."
    return " ".join(f"{machine}: {', '.join(names)}." for machine, names in found.items()) or "Unknown."


def _machine(environment: Mapping[str, Any]) -> str:
    packages = [f"{name} {number}" for name, number in environment.get("packages", {}).items()]
    parts = [
        ", ".join([f"Python {environment.get('python', 'unknown')}", *packages]),
        f"device {environment.get('device', 'unknown')}",
        _count(environment.get("threads", "unknown"), "CPU thread"),
        str(environment.get("platform", "unknown platform")),
    ]
    return "; ".join(parts)


def _weights(cell: CellResult) -> tuple[str, ...]:
    state = f"{cell.state}: {cell.reason}" if cell.reason else cell.state
    seed = "" if cell.method == BASE else str(cell.seed)
    return cell.cell, seed, cell.identity.get("weights", "")[:DIGITS], state


def _count(number: Any, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}" if isinstance(number, int | float) else f"{number} {noun}s"


def _listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


_UNITS = {"examples": "examples (prompts)", "steps": "optimiser steps", "seconds": "seconds of device time"}
