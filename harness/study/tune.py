"""Fair tuning: the same number of random trials for every method, scored on a development split, never the benchmark.

Each trial is a variant of its method in an ordinary study, so tuning can be resumed, isolates failures and keeps every
trial's answers.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from harness.config.sections import TuneRange
from harness.config.study import BASE, StudyConfig
from harness.config.variants import get, merge, parse_variant, variants_by_method
from harness.console import Console
from harness.errors import UserError
from harness.io import toml_text
from harness.outputs import Outputs
from harness.seeds import seed_for
from harness.study.compare import compare
from harness.study.sources import check_development

TRIALS_FILE = "trials.csv"
TUNED_FILE = "tuned.toml"


def draw(space: TuneRange, seed: int, key: str, trial: int) -> float:
    """Draw one value of a hyper-parameter, to two significant digits.

    It depends on the hyper-parameter's name and the trial only, so other ranges and methods do not affect it.
    """
    share = np.random.default_rng(seed_for(seed, "tune", key, trial)).random()
    if space.scale == "log":
        value = math.exp(math.log(space.low) + share * (math.log(space.high) - math.log(space.low)))
    else:
        value = space.low + share * (space.high - space.low)
    return float(f"{value:.2g}")


def trials_of(study: StudyConfig, method: str) -> list[str]:
    """The variants of a method to try; the study's own settings are not among them unless drawn.

    Raises:
        UserError: No range is declared for the method.
    """
    ranges = ranges_of(study, parse_variant(method).method).items()
    if not ranges:
        raise UserError(f"`tune.ranges`: no range for {method}; declare [tune.ranges.all] or [tune.ranges.{method}]")
    return [
        ":".join([method, *(f"{key}={draw(space, study.first_seed, key, trial):g}" for key, space in ranges)])
        for trial in range(study.tune.trials)
    ]


def ranges_of(study: StudyConfig, method: str) -> dict[str, TuneRange]:
    """The ranges that a method is tuned over, by key."""
    return {**study.tune.ranges.get("all", {}), **study.tune.ranges.get(method, {})}


def tuning_study(study: StudyConfig) -> StudyConfig:
    """The study of all trials, with the smaller budget, on the development split.

    Raises:
        UserError: Two variants of one method are to be tuned: a study has one set of settings for each method.
    """
    if several := variants_by_method(study.methods):
        raise UserError(
            f"`harness tune`: {', '.join(several[0])} are variants of one method, and the file of chosen settings has "
            "one place for each; tune one of them at a time"
        )
    document = study.model_dump(mode="json")
    document["name"] = f"{study.name[:70]}-tune"
    document["methods"] = [trial for method in study.methods for trial in trials_of(study, method)]
    document["seeds"] = 1
    document["data"] |= {"benchmark": study.tune.development, "split": None}
    amount = study.budget.amount * study.tune.budget_share
    document["budget"]["amount"] = amount if study.budget.kind == "seconds" else math.ceil(amount)
    document["train"]["checkpoints"] = 1
    document["evaluation"] = study.evaluation.of_last().model_dump(mode="json")
    document["report"]["pairs"] = [[BASE, trial] for trial in document["methods"]]
    return StudyConfig(**document)


def tune(study: StudyConfig, run_dir: Path, *, dry_run: bool, console: Console) -> int:
    """Run every method's trials, choose each method's best and write a study file with the winners.

    Returns:
        The exit code of the trials' comparison; failed trials are not chosen.

    Raises:
        UserError: As :func:`harness.study.compare.compare` and :func:`harness.study.sources.check_development`; or no
            trial of a method is complete.
    """
    trial_study = tuning_study(study)
    if not dry_run:
        Outputs(run_dir).check([TRIALS_FILE, TUNED_FILE])
    check_development(study, "tune.development", study.tune.development, console, build=not dry_run)
    code = compare(trial_study, run_dir, dry_run=dry_run, console=console)
    if dry_run:
        return code
    trials = _scored_trials(study, run_dir)
    outputs = Outputs(run_dir)
    outputs.write(TRIALS_FILE, trials.to_csv(index=False).encode())
    outputs.write(TUNED_FILE, tuned_file(study, trials).encode())
    table = Table(title="Trials on the development split", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("Method", "Trial", "Overall", ""):
        table.add_column(name, justify="right" if name == "Overall" else "left", overflow="fold")
    for method, trial, score, chosen in trials.itertuples(index=False):
        shown = "failed" if math.isnan(score) else f"{score:.2f}"
        table.add_row(method, trial.removeprefix(f"{method}:"), shown, "chosen" if chosen else "")
    console.print(table)
    console.say(str(run_dir / TUNED_FILE))
    return code


def _scored_trials(study: StudyConfig, run_dir: Path) -> pd.DataFrame:
    """All trials: method, trial, overall (of its last checkpoint; NaN if it failed) and whether it is chosen."""
    checkpoints = pd.read_csv(run_dir / "report" / "checkpoints.csv", float_precision="round_trip")
    last = checkpoints.sort_values("step", kind="stable").groupby("method")["overall"].last()
    names = [(method, trial) for method in study.methods for trial in trials_of(study, method)]
    trials = pd.DataFrame(names, columns=["method", "trial"])
    trials["overall"] = trials["trial"].map(last).astype(float)
    trials["chosen"] = False
    for method, scores in trials.groupby("method", sort=False)["overall"]:
        if scores.isna().all():
            raise UserError(f"no trial of {method} is complete, so none can be chosen; see the reasons above")
        trials.loc[scores.idxmax(), "chosen"] = True
    return trials


def tuned_file(study: StudyConfig, trials: pd.DataFrame) -> str:
    """The study with each method's best settings, the number of trials and their table, as TOML."""
    document = study.model_dump(mode="json")
    for winner in map(parse_variant, trials["trial"][trials["chosen"]]):
        document["method"][winner.method] = merge(document["method"].get(winner.method, {}), winner.settings)
        chosen = {key: get(winner.settings, key) for key in ranges_of(study, winner.method)}
        document["tune"]["done"][winner.method] = {"trials": study.tune.trials, "chosen": chosen}
    text = toml_text(document)
    assert StudyConfig(**tomllib.loads(text))
    table = "".join(
        f"#   {'failed' if math.isnan(score) else f'{score:6.2f}'}  {trial}{'  chosen' * chosen}\n"
        for _, trial, score, chosen in trials.itertuples(index=False)
    )
    return (
        f"# Chosen by `harness tune`: {study.tune.trials} trials per method on {study.tune.development}, "
        f"each with {study.tune.budget_share:g} of the budget.\n{table}\n{text}"
    )
