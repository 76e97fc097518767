"""The methods section of a paper, written from what was run."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator, Sequence
from importlib.metadata import version

import pandas as pd

from harness.api.benchmark import Benchmark
from harness.config.study import BASE, ReportSection, StudyConfig
from harness.data.reader import Dataset
from harness.io import sha256_file
from harness.locks import command_of
from harness.study.setup import Environment
from reports.collect import CellResult, Collected
from reports.declared import declared_blocks
from reports.looks import tests_of
from reports.page.fairness import budget_in_words, settings_of_methods
from reports.results import Results
from reports.samples import Source
from reports.statistics import FEW_CLUSTERS, SEEDS_FOR_METHODS, Contrast, level, overall
from reports.text import Block, Document, count, heading, lines, listed, paragraph, text_table

DIGITS = 16
"""Hex digits shown of a SHA-256."""


def methods_section(collected: Collected, contrasts: Sequence[Contrast]) -> Document:
    """What was trained, evaluated and tested, how to repeat it, and on what it ran."""
    study = collected.study
    blocks = [
        heading("Training"),
        paragraph(*_training(collected)),
        paragraph(*_optimisation(study)),
        heading("Evaluation"),
        paragraph(*_evaluation(collected)),
        heading("Statistics"),
        *_statistics(tests_of(collected), contrasts, collected.headline.benchmark.cluster),
        *declared_blocks(collected.declared),
        heading("Settings of each method"),
        text_table(("Method", "Settings"), *settings_of_methods(collected)),
        heading("Commands"),
        lines("code", _commands(collected)),
        heading("Versions"),
        paragraph(_versions(collected.cells)),
        heading("Weights"),
        text_table(("Cell", "Seed", "Weights (SHA-256)", "State"), *map(_weights, collected.cells)),
    ]
    return Document("Methods", blocks)


def samples_section(
    sources: Sequence[Source], results: Results, benchmark: Dataset, contrasts: Sequence[Contrast], command: str
) -> Document:
    """What was scored and tested of answers generated elsewhere, and from which files.

    Args:
        sources: The files.
        results: What they answered.
        benchmark: What was asked.
        contrasts: What was tested.
        command: The command line; empty when it is not known.
    """
    names = ("numpy", "scipy", "statsmodels", "vlm-harness")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    blocks = [
        heading("Evaluation"),
        paragraph(
            "The answers were generated elsewhere and read from the files listed below; how they were generated is "
            "outside this report.",
            f"Every file answers the same {questions_asked(results.answers, results.benchmark)} ({benchmark.root}, "
            f"split {benchmark.split}, SHA-256 {benchmark.digest[:DIGITS]}).",
            _scoring(results.scorer, results.benchmark),
        ),
        heading("Statistics"),
        *_statistics(results.report, contrasts, results.benchmark.cluster),
        *([heading("Commands"), lines("code", [command])] if command else []),
        heading("Versions"),
        paragraph(f"Python {platform.python_version()}, {packages}."),
        heading("Answers"),
        text_table(
            ("Method", "Seed", "SHA-256", "File"),
            *((one.name, str(one.seed), sha256_file(one.path)[:DIGITS], str(one.path)) for one in sources),
        ),
    ]
    return Document("Methods", blocks)


def _training(collected: Collected) -> Iterator[str]:
    study, train, model = collected.study, collected.train, collected.study.model
    tuning = "all weights" if model.tuning == "full" else f"LoRA (rank {model.lora_rank}, alpha {model.lora_alpha})"
    tower = "frozen" if model.freeze_vision else "trained"
    finished = {m: sum(c.method == m and c.state == "done" for c in collected.cells) for m in study.methods}
    short = [f"{n} of {collected.seeds} for {collected.label(m)}" for m, n in finished.items() if n < collected.seeds]
    seeds = [str(study.first_seed + number) for number in range(collected.seeds)]
    yield (
        f"We compare {listed([collected.label(m) for m in study.methods])}, each trained from the same base model, "
        f"{model.name} ({tuning}; vision tower {tower}; precision {model.precision}), with "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {listed(seeds)}."
    )
    if short:
        yield f"Unfinished runs are left out; the finished ones are {listed(short)}."
    yield (
        f"Runs drew from {count(train.n, 'training record')} ({study.data.train}, SHA-256 {train.digest[:DIGITS]}) in "
        f"an order that depends on the seed but not on the method. {budget_in_words(study.budget)}"
    )
    yield f"The training prompt was “{study.prompt.train}”, with {count(study.data.frames, 'frame')} per video."


def _optimisation(study: StudyConfig) -> Iterator[str]:
    train, rollout = study.train, study.rollout
    rewards = [f"{name} (weight {weight:g})" for name, weight in study.reward.weights.items()]
    yield (
        f"Unless stated otherwise below, the optimiser was {train.optimizer} (learning rate {train.learning_rate:g}, "
        f"linear warm-up over {count(train.warmup_steps, 'step')}, then constant; betas {train.adam_beta1:g} and "
        f"{train.adam_beta2:g}; weight decay {train.weight_decay:g}; gradient norm clipped at {train.max_grad_norm:g}) "
        f"with {count(train.prompts_per_step, 'prompt')} per step."
    )
    yield (
        f"Methods that sample completions did so at temperature {rollout.temperature:g} with at most "
        f"{count(rollout.max_new_tokens, 'token')}; the rewards were {listed(rewards)}, each on the questions it "
        "applies to."
    )
    yield f"Reported is {study.evaluation.rule}."


def _evaluation(collected: Collected) -> Iterator[str]:
    study, test, headline = collected.study, collected.test, collected.headline
    identity = next((cell.identity for cell in collected.cells if cell.identity), {})
    yield (
        f"Every checkpoint answered the same {questions_asked(headline.answers, headline.benchmark)} "
        f"({study.data.benchmark}, SHA-256 {test.digest[:DIGITS]}) with the prompt "
        f"“{study.prompt.evaluation}”; decoding: {identity.get('decoding', 'unknown')}; engine: "
        f"{identity.get('engine', 'unknown')}; frame settings: SHA-256 {identity.get('frames', 'unknown')[:DIGITS]}."
    )
    yield _scoring(headline.scorer, headline.benchmark)


def questions_asked(answers: pd.DataFrame, benchmark: Benchmark) -> str:
    """How many questions were answered, and about how many clusters such as rooms."""
    clusters = count(answers["cluster"].nunique(), benchmark.cluster)
    return f"{count(answers['question'].nunique(), 'question')} about {clusters}"


def _scoring(scorer: str, benchmark: Benchmark) -> str:
    return (
        f"Answers were scored by “{scorer}” (version {benchmark.scorers[scorer].version}). The score of a task "
        f"is the mean over its questions; the overall score is {benchmark.average}."
    )


def _statistics(report: ReportSection, contrasts: Sequence[Contrast], cluster: str) -> Iterator[Block]:
    tested = overall(contrasts)
    if not tested:
        yield paragraph("Fewer than two methods have answers, so nothing was tested.")
        return
    claims = {c.claim for c in tested}
    yield paragraph(
        "Methods are compared in pairs on the same questions. Each side is averaged over its seeds, and the "
        "per-question differences are regressed on the question types by least squares with standard errors clustered "
        f"by {cluster}, which gives the differences in the overall score and in each task with their covariance.",
        f"With at least {SEEDS_FOR_METHODS} finished seeds per method, the variance between training runs is added, "
        "with Welch-Satterthwaite degrees of freedom, and the claim is about methods; with fewer, it is about the "
        "trained checkpoints only. That variance is estimated from the pair's own runs, and from the runs of all "
        "trained methods as a median-unbiased estimate; the larger p-value and the wider interval count.",
        "Variants of one method share starting weights and order of data, so that their runs of equal seeds are "
        "compared as pairs."
        if any(c.paired_seeds for c in tested)
        else "",
        f"Where {cluster}s are few or unequal (fewer than {FEW_CLUSTERS:g} effective ones by Kish's formula), the "
        f"larger p-value of the t-test and of sign flips over {cluster}s counts."
        if any(c.effective_rooms < FEW_CLUSTERS for c in tested)
        else "",
        f"Here all claims are about {next(iter(claims))}." if len(claims) == 1 else "",
        f"Tests are two-sided t-tests at level {report.alpha:g}; intervals are {level(report.alpha)} confidence "
        "intervals, not corrected for multiple comparisons.",
    )
    draws = max(c.resamples for c in tested)
    checks = (
        f"As checks, a permutation test that swaps the methods within {cluster}s and a BCa bootstrap over {cluster}s "
        f"were run, with {draws:,} draws each and random seed {max(c.resampling_seed for c in tested)}."
    )
    yield paragraph(
        "The p-values of the overall score are corrected by Holm's procedure over the "
        f"{count(len(tested), 'pair')}; those of the tasks, which are exploratory, over all tasks of all "
        "pairs.",
        "Two methods are called equivalent if two one-sided tests place their difference within "
        f"{count(tested[0].margin, 'point')}; pairs that are neither different nor equivalent are undecided and "
        "reported with the minimum detectable effect at 80% power, after correction.",
        checks if draws else "",
    )


def _commands(collected: Collected) -> list[str]:
    """The command that started the run, the one that repeats it from its resolved study, and that of one cell."""
    started = command_of(collected.run_dir)
    arguments = next((cell.environment.argv for cell in collected.cells if cell.environment), None)
    single = shlex.join(["python", "-m", "harness.study.cell", *arguments[1:]]) if arguments else ""
    return [command for command in (started, "harness compare --study study.toml", single) if command]


def _versions(cells: Sequence[CellResult]) -> str:
    """What the cells ran on; a sentence for each machine when there are several."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.environment:
            found.setdefault(_machine(cell.environment), []).append(cell.cell)
    if len(found) == 1:
        return f"{next(iter(found))}."
    return " ".join(f"{machine}: {', '.join(names)}." for machine, names in found.items()) or "Unknown."


def _machine(environment: Environment) -> str:
    packages = [f"{name} {number}" for name, number in environment.packages.items()]
    python = ", ".join([f"Python {environment.python}", *packages])
    ran_on = f"device {environment.device}", f"CPU threads: {environment.threads}", environment.platform
    return "; ".join([python, *ran_on, *environment.commits])


def _weights(cell: CellResult) -> tuple[str, ...]:
    state = f"{cell.state}: {cell.reason}" if cell.reason else cell.state
    seed = "" if cell.method == BASE else str(cell.seed)
    return cell.cell, seed, cell.identity.get("weights", "")[:DIGITS], state
