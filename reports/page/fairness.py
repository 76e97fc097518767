"""The fairness card: what was the same for every method, what each consumed, and how they differed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from harness.config.study import BASE, BudgetSection
from harness.study.declared import value_in_words
from harness.study.description import DescribedMethod
from harness.study.lookalikes import noted_lookalikes
from reports.checkpoints import rule_told
from reports.collect import CellResult, Collected
from reports.tables import MISSING
from reports.text import Block, Document, count, heading, lines, listed, paragraph, text_table

CONSUMED = {
    "updates": "Optimiser steps",
    "examples": "Prompts",
    "tokens_sampled": "Tokens sampled",
    "tokens_trained": "Tokens trained",
    "forward_passes": "Forward passes",
    "seconds": "Device seconds",
    "peak_memory": "Peak memory (MiB)",
}


def fairness_card(collected: Collected) -> Document:
    """The card. It holds timings, so unlike the score tables it differs between runs."""
    study = collected.study
    blocks = [
        heading("The same for every method"),
        paragraph("Except where a method's own settings, listed further below, say otherwise."),
        text_table(("Setting", "Value"), *_shared(collected)),
        heading("What each method consumed (training only)"),
        paragraph(budget_in_words(study.budget), "Means over finished seeds."),
        text_table(("Method", "Seeds", *CONSUMED.values()), *_consumption(collected), align="lr" + "r" * len(CONSUMED)),
        heading("How the methods differed"),
        text_table(("Method", "Settings"), *settings_of_methods(collected)),
        *_guests(collected),
        heading("Cells"),
        text_table(
            ("Cell", "State", "Reported step", "Weights", "Reason"),
            *(
                (cell.cell, cell.state, listed(list(map(str, cell.reported))), _weights(cell), cell.reason)
                for cell in collected.cells
            ),
        ),
        *_chosen(collected),
    ]
    if notes := dict.fromkeys(note for cell in collected.cells if cell.environment for note in cell.environment.notes):
        blocks += [heading("Notes on the model"), lines("list", list(notes))]
    if skipped := Counter([*collected.train.skipped, *collected.test.skipped]):
        texts = [f"{line} ({times} times)" if times > 1 else line for line, times in skipped.items()]
        blocks += [heading("Records left out"), lines("list", texts)]
    if found := noted_lookalikes(collected.run_dir):
        blocks += [heading("Training videos that look like the benchmark's"), lines("list", found)]
    if notes := dict.fromkeys((*collected.train.notes, *collected.test.notes)):
        blocks += [heading("Notes on the data"), lines("list", list(notes))]
    return Document(f"Fairness card: {study.name}", blocks)


def budget_in_words(budget: BudgetSection) -> str:
    """Where every run ended, and whether that limits its cost."""
    amount = f"{budget.amount:,.15g}"
    if budget.kind == "seconds":
        return f"Each run ended after {amount} device seconds, whatever it spent them on."
    unit = "prompts" if budget.kind == "examples" else "optimiser steps"
    cost = "What rollouts, reference passes and updates cost was metered, not limited."
    return f"Each run ended after {amount} {unit}. {cost}"


def settings_of_methods(collected: Collected) -> Iterator[tuple[str, str]]:
    """Each method's label, and its hyper-parameters with the shared settings that it overrides."""
    yield from ((one.label, one.settings) for one in _trained(collected))


def _trained(collected: Collected) -> list[DescribedMethod]:
    """The methods without the base model."""
    return [one for method, one in collected.description.methods.items() if method != BASE]


def _shared(collected: Collected) -> Iterator[tuple[str, str]]:
    study, plan = collected.study, collected.declared
    identity = next(cell.identity for cell in collected.cells if cell.identity)
    environment = next((cell.environment for cell in collected.cells if cell.environment), None)
    train, benchmark, headline = collected.train, collected.test, collected.headline
    tower = "frozen" if study.model.freeze_vision else "trained"
    yield "Model", f"{study.model.name}, {study.model.tuning} tuning, vision tower {tower}"
    yield "Quantisation", environment.quantisation if environment else study.model.quantisation
    yield "Training records", f"{study.data.train}: {train.n}, digest {train.digest[:12]}"
    yield "Benchmark", f"{study.data.benchmark}: {len(benchmark.records)} questions, digest {benchmark.digest[:12]}"
    yield "Additional benchmarks", ", ".join(study.evaluation.more) or "none"
    yield (
        "Frames",
        f"{study.data.frames} of {study.data.min_pixels:,} to {study.data.max_pixels:,} pixels, digest "
        f"{identity.get('frames', 'unknown')[:12]}",
    )
    yield "Training prompt", study.prompt.train
    yield "Evaluation prompt", identity.get("prompts", "unknown")[: len(study.prompt.evaluation) + 13]
    yield "Decoding", identity.get("decoding", "unknown")
    yield "Answers end at", " or ".join(environment.ends if environment else ()) or "unknown"
    yield "Scorer", f"{headline.scorer}, {headline.benchmark.scorers[headline.scorer].version}"
    yield "Engine", identity.get("engine", "unknown")
    yield "Tuning", _tuning(collected)
    yield "Data order", "by seed, the same for every method"
    yield "Reported checkpoint", f"{study.evaluation.rule}, {rule_told(plan)}"
    yield "Learning-rate schedule", "warm-up, then constant"
    yield "Reward", ", ".join(f"{name} × {weight:g}" for name, weight in study.reward.weights.items())
    yield "Equivalence margin", f"{count(plan.current['report.margin'], 'point')}, {plan.words('report.margin')}"
    yield "Level of the tests", f"{plan.current['report.alpha']:g}, {plan.words('report.alpha')}"
    yield "Pairs tested", f"{len(study.report.pairs or ())}, {plan.words('report.pairs')}"
    yield "Seeds", f"{value_in_words('seeds', plan.current['seeds'])}, {plan.words('seeds')}"
    yield "CPU threads per cell", str(environment.threads if environment else "unknown")


def _tuning(collected: Collected) -> str:
    """From how many trials the settings of each method and variant were chosen."""
    found = {one.label: one.tuning or "none recorded" for one in _trained(collected)}
    development = collected.study.tune.development
    words = set(found.values())
    told = (
        f"{words.pop()} for every method"
        if len(words) == 1
        else "unequal: " + "; ".join(f"{label} {one}" for label, one in found.items())
    )
    return f"{told}; trials on {development}" if "trial" in told else told


def _consumption(collected: Collected) -> Iterator[tuple[str, ...]]:
    for method in collected.study.methods:
        cells = [cell for cell in collected.cells if cell.method == method and cell.state == "done"]
        consumed = [cell.consumed for cell in cells if cell.consumed]
        means = []
        for key in CONSUMED:
            scale = 2**20 if key == "peak_memory" else 1
            means.append(
                f"{sum(getattr(one, key) for one in consumed) / len(consumed) / scale:,.0f}" if consumed else MISSING
            )
        yield collected.label(method), str(len(consumed)), *means


def _weights(cell: CellResult) -> str:
    return cell.identity.get("weights", "")[:12]


def _chosen(collected: Collected) -> Sequence[Block]:
    """Where checkpoints are chosen by development records: each run's choice, and what the last would have been."""
    if (found := collected.development) is None:
        return ()
    rows = []
    for cell in collected.cells:
        scores = {
            step: score
            for (method, seed, step), score in found.overall.items()
            if (method, seed) == (cell.method, cell.seed) and method != BASE
        }
        if cell.reported and scores:
            (step,), last = cell.reported, max(scores)
            rows.append((cell.cell, str(step), f"{scores[step]:.2f}", str(last), f"{scores[last]:.2f}"))
    source = collected.study.evaluation.development
    asked = f"{count(len(found.benchmark.described.questions), 'question')} of {source}"
    return (
        heading("Checkpoints chosen"),
        paragraph(
            f"By the score on {asked}, on other {found.benchmark.cluster}s than the benchmark's; the scores of all "
            "checkpoints are in development-checkpoints.csv."
        ),
        text_table(("Cell", "Chosen step", "Score there", "Last step", "Score of the last"), *rows, align="lrrrr"),
    )


def _guests(collected: Collected) -> Sequence[Block]:
    """Foreign trainers among the methods: where they differ from the methods besides their settings."""
    rows = [(one.label, remark) for one in _trained(collected) for remark in one.remarks]
    if not rows:
        return ()
    return (
        heading("Guests: foreign trainers with their own training loop"),
        paragraph(
            "Records, data order, prompts, frames, rewards, optimiser, schedule, gradient clipping, budget, "
            "checkpoints and evaluation are those of every method."
        ),
        text_table(("Guest", "Difference"), *rows),
    )
