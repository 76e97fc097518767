"""The work of one cell: train a method on a seed, evaluate every checkpoint."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, Literal

from harness.api.guest import GuestTrainer
from harness.api.types import Needs
from harness.config.study import BASE, StudyConfig
from harness.data.contents import content_digest
from harness.engine.sampler import make_sampler
from harness.errors import UserError
from harness.io import remove_leftovers, write_json
from harness.locks import hold
from harness.models.loading import check_model, model_digest
from harness.outputs import inside
from harness.study.asked import SAMPLES, EvaluationManifest
from harness.study.evaluation import evaluate
from harness.study.finished import write_finished
from harness.study.identity import EvaluationIdentity, evaluation_identities, question_digests, training_identity
from harness.study.matrix import CONFIG_FILE, CellDocument
from harness.study.process import EXIT_FAILED, EXIT_INTERRUPTED, is_first_rank, start_ranks
from harness.study.scored import SCORES
from harness.study.setup import ENVIRONMENT_FILE, Setup, build_rewards, environment, prepare, trained_rooms
from harness.study.status import State, Status, record_state, write_status
from harness.train.checkpoint import MANIFEST, read_checkpoint, restore_weights, trained_checkpoints
from harness.train.groups import GroupBuilder
from harness.train.ranks import Ranks
from harness.train.run import CHECKPOINTS, TrainingRun
from harness.train.tracking import MISSED
from harness.train.trainer import Trainer


def run_cell(cell_dir: Path) -> None:
    """Complete a cell's training and its evaluation.

    Raises:
        UserError: Data, model or a checkpoint cannot be used.
        TrainingError: Training cannot continue; earlier checkpoints are kept.
    """
    remove_leftovers(cell_dir, below=True)
    cell = CellDocument.read(cell_dir)
    study, is_base = cell.study, cell.method == BASE
    _report(cell_dir, "", 0, 0, {})
    ranks = _start_further_ranks(cell_dir, 1 if is_base else study.train.processes)
    setup = prepare(study, with_train=not is_base, seed=cell.seed)
    _check_unchanged(cell, setup)
    write_json(cell_dir / ENVIRONMENT_FILE, environment(setup).model_dump(mode="json"))
    if is_base:
        _evaluate(setup, cell_dir, "step-000000", cell.base_digest, cell.evaluation)
        write_finished(cell_dir, cell.method, cell.seed, {"step-000000": cell.base_digest}, cell.evaluation)
        return
    try:
        train_cell(setup, cell.method, cell_dir, cell.seed, cell.base_digest, ranks, training=cell.training)
    except RuntimeError:
        if ranks.size > 1:  # a lost connection: the watcher of the process that caused it records why and ends this one
            time.sleep(10)
        raise
    checkpoints = trained_checkpoints(cell_dir / CHECKPOINTS, cell.training)
    for checkpoint in checkpoints:
        restore_weights(setup.policy.model, checkpoint)
        _evaluate(setup, cell_dir, checkpoint.folder.name, checkpoint.digest, cell.evaluation)
    weights = {one.folder.name: one.digest for one in checkpoints}
    write_finished(cell_dir, cell.method, cell.seed, weights, cell.evaluation)


def _start_further_ranks(cell_dir: Path, processes: int) -> Ranks:
    def failed(code: int) -> None:
        if code != EXIT_INTERRUPTED:
            reason = f"one of its {processes} processes ended with exit code {code}; see the log"
            record_state(cell_dir, State.FAILED, reason)
            os._exit(EXIT_FAILED)

    if processes > 1:
        start_ranks(cell_dir.parent.parent, cell_dir.name, processes, failed)
    return Ranks.join()


def _check_unchanged(cell: CellDocument, setup: Setup) -> None:
    """Refuse anything but what was planned, once all is loaded: the recorded identity is what results belong to."""
    changed = []
    if model_digest(cell.study.model.name) != cell.base_digest:
        changed.append("the model")
    if setup.train and content_digest(setup.train, setup.frames) != cell.identity["data"]["digest"]:
        changed.append("the training data or its videos")
    if cell.method != BASE:
        found = training_identity(cell.study, cell.method, cell.study.algorithm(cell.method))
        if not found.items() <= cell.identity.items():
            changed.append("the code of the method, its rewards or its sampler")
    if _evaluation_identities(setup) != cell.evaluation:
        changed.append("the benchmark, its videos, code or installed versions")
    if changed:
        raise UserError(
            f"{cell.cell}: {'; '.join(changed)} changed since the study was planned; run the same command again"
        )


def _evaluation_identities(setup: Setup) -> dict[str, EvaluationIdentity]:
    asked, chosen_by = content_digest(setup.benchmark, setup.frames), None
    if setup.development is not None:
        chosen_by = setup.development, content_digest(setup.development, setup.frames)
    return evaluation_identities(setup.study, question_digests(setup.study, setup.benchmark, asked, chosen_by))


def train_share(cell_dir: Path) -> None:
    """Train a cell as one of the further ranks: on a share of each step's prompts.

    The first rank writes statuses and checkpoints, and evaluates.
    """
    ranks, cell = Ranks.join(), CellDocument.read(cell_dir)
    setup = prepare(cell.study, seed=cell.seed)
    train_cell(setup, cell.method, cell_dir, cell.seed, cell.base_digest, ranks, training=cell.training)


def evaluate_checkpoint(checkpoint: Path, study: StudyConfig, out: Path) -> dict[str, float]:
    """Evaluate one checkpoint on a study's benchmarks; the answers go to ``out``.

    Args:
        checkpoint: The folder of a cell's checkpoint, or of a plain model.
        study: The resolved :class:`~harness.config.study.StudyConfig`.
        out: Folder for ``samples.jsonl`` and ``manifest.json``.

    Returns:
        The benchmarks' headline numbers.

    Raises:
        UserError: The checkpoint or the data cannot be used, or ``out`` holds other files of these names, or another
            process writes it.
    """
    study = study.model_copy(update={"evaluation": study.evaluation.of_last()})
    for name in ("", *study.evaluation.more):
        _check_answers(out, name)
    if not (checkpoint / MANIFEST).is_file():
        study = study.model_copy(update={"model": study.model.model_copy(update={"name": str(checkpoint)})})
    check_model(study.model)
    with hold(out, "folder of answers"):  # which makes the folder
        return _evaluate_checkpoint(checkpoint, study, out)


def _check_answers(out: Path, name: str) -> None:
    """Refuse a folder with answers, a manifest or scores that no evaluation wrote, or behind a link."""
    folder = inside(out, str(PurePath(name, SAMPLES))).parent
    with suppress(UserError):  # not ours: its advice is to delete the folder, which may be the user's
        EvaluationManifest.read(folder)
        return
    if strangers := [str(folder / one) for one in (MANIFEST, SAMPLES, SCORES) if os.path.lexists(folder / one)]:
        raise UserError(f"`{strangers[0]}`: no evaluation wrote it. Move it away, or choose another folder with --out")


def _evaluate_checkpoint(checkpoint: Path, study: StudyConfig, out: Path) -> dict[str, float]:
    setup = prepare(study, with_train=False)
    digest = model_digest(study.model.name)
    if (checkpoint / MANIFEST).is_file():
        folder = checkpoint.resolve().parent.parent
        cell = CellDocument.read(folder) if (folder / CONFIG_FILE).is_file() else None
        trained = cell and cell.study.model_copy(update={"runtime": study.runtime})
        if trained and (warning := trained_rooms(trained, setup.benchmark)):
            logging.getLogger(__name__).warning("%s. %s.", checkpoint, warning)
        opened = read_checkpoint(checkpoint, cell.training if cell else None)
        if opened.base != digest:
            raise UserError(
                f"`{checkpoint}`: it was trained from other weights, another tokenizer or other settings than the "
                f"present ones of the model {study.model.name}; name the right model in the study"
            )
        restore_weights(setup.policy.model, opened)
        digest = opened.digest
    numbers: dict[str, float] = {}
    for name, identity in _evaluation_identities(setup).items():
        folder = out if name == study.evaluation.benchmark else out / name
        overall = evaluate(setup, name, identity.of(digest), folder)
        numbers["overall" if name == study.evaluation.benchmark else name] = overall
    return numbers


def train_cell(
    setup: Setup,
    method: str,
    cell_dir: Path,
    seed: int,
    base_digest: str,
    ranks: Ranks | None = None,
    *,
    training: str = "",
) -> list[Path]:
    """Train a method to the end of the budget; return its checkpoints.

    With several ranks, each calls this, and all return when all are done.

    Args:
        setup: Model and data of the study as the method sees it.
        method: As the study names it.
        cell_dir: Where checkpoints and metrics go; a run that it contains is resumed.
        seed: The repetition.
        base_digest: What identifies the base model's weights, for the checkpoints' manifests.
        ranks: The processes that train together.
        training: What identifies this training; a checkpoint of another one is refused.

    Raises:
        UserError: The method cannot be trained with these settings.
        TrainingError: Training cannot continue; earlier checkpoints are kept.
    """
    ranks, study = ranks or Ranks(), setup.study
    algorithm = study.algorithm(method)
    guest = isinstance(algorithm, GuestTrainer)
    if guest and ranks.size > 1:
        raise UserError(f"`train.processes` = {ranks.size}: {method} brings its own trainer, which runs in one process")
    if algorithm.needs.rollouts and not study.reward.weights:
        raise UserError(f"`reward.weights` is empty, but {method} learns from rewards; name one, see `harness list`")
    # A guest computes its reference log-probabilities itself.
    needs = replace(algorithm.needs, reference=False, behaviour=False) if guest else algorithm.needs
    about = {"cell": cell_dir.name, "training": training, "method": method, "seed": seed, "base": base_digest}
    run = _training_run(setup, needs, cell_dir, about | {"model": study.model.model_dump()}, ranks)
    _report(cell_dir, "train", 0, 0, {})
    if guest:
        algorithm.train(run)
        return run.checkpoints()
    checkpoints = Trainer(run, algorithm).train()
    ranks.leave()
    return checkpoints


def _training_run(setup: Setup, needs: Needs, cell_dir: Path, about: dict[str, Any], ranks: Ranks) -> TrainingRun:
    study = setup.study
    reference = setup.policy.reference() if needs.reference or needs.offline else setup.policy
    groups = GroupBuilder(
        policy=setup.policy,
        reference=reference,
        sampler=make_sampler(reference if needs.offline else setup.policy, study.rollout, study.rollout.batch),
        rewards=build_rewards(study),
        needs=needs,
        rollout=study.rollout,
        mode=study.prompt.train,
        seed=about["seed"],
        # A whole group at least, whose prompt then runs once: a reference pass keeps no activations.
        micro_batch=max(study.train.micro_batch, needs.rollouts),
    )
    return TrainingRun(
        policy=setup.policy,
        groups=groups,
        prompts=setup.training_prompt,
        size=len(setup.training.records),
        settings=study.train,
        budget=study.budget,
        seed=about["seed"],
        folder=cell_dir,
        about=about,
        progress=lambda step, steps, numbers: _report(cell_dir, "train", step, steps, numbers),
        ranks=ranks,
    )


def _evaluate(
    setup: Setup, cell_dir: Path, name: str, digest: str, identities: Mapping[str, EvaluationIdentity]
) -> None:
    """Run every benchmark on one checkpoint; the headline last, so that its score stays in the status."""
    step = int(name.split("-")[1])
    headline = setup.study.evaluation.benchmark

    def progress(done: int, total: int) -> None:
        _report(cell_dir, "evaluate", step, 0, {"done": done, "of": total})

    for benchmark in (*(one for one in identities if one != headline), headline):
        progress(0, len(setup.questions(benchmark)[0].records))
        folder = cell_dir / benchmark / name
        overall = evaluate(setup, benchmark, identities[benchmark].of(digest), folder, progress)
    total = len(setup.benchmark.records)
    # Later estimates divide the time of evaluation by the number of questions.
    _report(cell_dir, "evaluate", step, 0, {"overall": overall, "done": total, "of": total})


def _report(
    cell_dir: Path, phase: Literal["", "train", "evaluate"], step: int, steps: int, numbers: dict[str, float]
) -> None:
    if not is_first_rank():
        return
    kept = ("loss", "reward", MISSED, "done", "of", "overall")
    shown = {key: value for key, value in numbers.items() if key in kept}
    if numbers.get("seconds"):
        shown["examples_per_second"] = numbers["examples"] / step / numbers["seconds"]
    write_status(cell_dir, Status(state=State.RUNNING, phase=phase, step=step, steps=steps, numbers=shown))
