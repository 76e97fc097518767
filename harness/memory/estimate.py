"""Whether a study fits into this machine's memory, and the settings with which it would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from harness.api.algorithm import Algorithm, Method
from harness.api.types import Completion, Group
from harness.config.study import StudyConfig, load_study
from harness.config.variants import parse_variant
from harness.console import Console, Text
from harness.data.video.frames import smart_resize
from harness.engine.activation_reuse import can_reuse
from harness.memory.footprint import Footprint, footprint
from harness.memory.trace import MANY_VIDEOS, Load, policy_outline
from harness.models.loading import choose_precision, model_sizes

VIDEO_SIZE = (480, 640)
"""Height and width of VSI-Bench's videos, assumed where the training videos are not known yet."""

TEXT_TOKENS = 128
"""Tokens of a prompt's words, about what VSI-Bench's longest questions take."""

WRITTEN_TOKENS = 16
"""Tokens of an answer that the data set gives."""

SMALL = 50_000_000
"""Models with fewer parameters are not estimated at the start of a run."""


@dataclass(frozen=True)
class MemoryLimit:
    """The memory that a study may use.

    Attributes:
        device: Its device, for people.
        bytes: How much there is for the cells of the study.
        cells: Cells that share it.
        cuda: Whether it is that of an NVIDIA GPU.
    """

    device: str
    bytes: float
    cells: int
    cuda: bool

    def holds(self, account: Footprint) -> bool:
        return account.peak * self.cells <= self.bytes


def this_machine(study: StudyConfig) -> MemoryLimit:
    """All memory of the first GPU, else what is free of the machine's."""
    if torch.cuda.is_available():
        _, total = torch.cuda.mem_get_info(0)
        return MemoryLimit(f"cuda:0 ({torch.cuda.get_device_name(0)})", total, study.runtime.workers, True)
    import psutil

    return MemoryLimit("this machine (CPU)", psutil.virtual_memory().available, study.runtime.workers, False)


def account_for(
    study: StudyConfig,
    method: str,
    limit: MemoryLimit,
    *,
    size: tuple[int, int] = VIDEO_SIZE,
    videos: int = MANY_VIDEOS,
    config: Any = None,
) -> Footprint:
    """Estimate the memory that one method of a study takes.

    Args:
        study: The resolved study.
        method: One of its methods.
        limit: The memory there is.
        size: Height and width of the videos.
        videos: How many different videos there are.
        config: The model's configuration, if it is already loaded.

    Raises:
        UserError: The model cannot be found.
    """
    config = config or model_sizes(study.model.name)
    own, algorithm = study.for_method(method), study.algorithm(method)
    train = own.train
    patches = _patches(study, config.vision_config, size)
    rollouts, prompts, sampled = algorithm.needs.rollouts, train.prompts_per_step, own.rollout.batch
    if rollouts and not isinstance(algorithm, Algorithm):
        # A guest's loop repeats a prompt for each of its completions and samples all of a step at once.
        prompts *= rollouts
        rollouts, sampled = 1, prompts
    device = torch.device("cuda" if limit.cuda else "cpu")
    precision = choose_precision(study.model, device)
    reused = isinstance(algorithm, Algorithm) and can_reuse(
        policy_outline(config, study.model, precision, device), algorithm.needs, train.updates_per_batch
    )
    load = Load(
        prompt=patches // config.vision_config.spatial_merge_size**2 + TEXT_TOKENS,
        patches=patches,
        completions=trained_completions(algorithm),
        length=own.rollout.max_new_tokens if rollouts else WRITTEN_TOKENS,
        micro_batch=train.micro_batch,
        step=prompts,
        rollouts=rollouts,
        sampled=sampled if rollouts else 0,
        evaluated=study.evaluation.batch,
        videos=videos,
        reused=prompts if reused else 0,
    )
    reference = algorithm.needs.reference or algorithm.needs.offline
    return footprint(
        config, study.model, precision, load, reference=reference, optimizer=train.optimizer, cuda=limit.cuda
    )


def _patches(study: StudyConfig, vision: Any, size: tuple[int, int]) -> int:
    """Patches of one video: the frames' size follows the study's bounds."""
    side, data = vision.patch_size, study.data
    height, width = smart_resize(
        *size, factor=side * vision.spatial_merge_size, min_pixels=data.min_pixels, max_pixels=data.max_pixels
    )
    return data.frames // vision.temporal_patch_size * (height // side) * (width // side)


def trained_completions(algorithm: Method) -> int:
    """How many completions of one prompt a method trains on, found by giving it a group whose rewards all differ.

    1 for a guest, whose loop does not share prompts.
    """
    if not isinstance(algorithm, Algorithm):
        return 1
    needs = algorithm.needs

    def one(number: int, source: Any) -> Completion:
        known = (-1.0,)
        return Completion("p", (number + 1,), str(number), float(number), {}, source, known, known)

    sampled = [one(number, "base" if needs.offline else "policy") for number in range(needs.rollouts)]
    shuffled = [one(number, "shuffled") for number in range(needs.shuffled)]
    corrupted = [one(0, "corrupted") for _ in range(needs.corrupted)]
    gold = [one(1, "gold")] if needs.gold else []
    try:
        return max(1, len(algorithm.experience([Group("p", (*sampled, *shuffled, *gold, *corrupted))])))
    except Exception:  # a plugin may need more of a group than this; then the whole group counts
        return max(1, len(sampled) + len(gold) + len(corrupted))


def fitting_settings(study: StudyConfig, method: str, limit: MemoryLimit, **known: Any) -> tuple[list[str], Footprint]:
    """Settings in ``-s`` form with which a method fits, the least costly first, and the estimate with them.

    If nothing more can be saved, the estimate still does not fit.
    """
    account = account_for(study, method, limit, **known)
    changes: dict[str, str] = {}
    while not limit.holds(account) and (step := _next_saving(study, method, account, limit)):
        texts = {key: str(value).lower() for key, value in step.items()}
        changes |= texts
        study = load_study(study, overrides=[f"{key}={text}" for key, text in texts.items()])
        account = account_for(study, method, limit, **known)
    return [f"-s {key}={text}" for key, text in changes.items()], account


def _next_saving(study: StudyConfig, method: str, account: Footprint, limit: MemoryLimit) -> dict[str, Any] | None:
    """One change that saves memory where most is needed."""
    model, own = study.model, study.for_method(method)
    train, rollout = own.train, own.rollout
    phases = account.phases
    largest = max(phases, key=lambda name: phases[name])
    if limit.cells > 1 and study.runtime.workers > 1:
        return {"runtime.workers": 1}
    if account.always * limit.cells > 0.8 * limit.bytes or largest == "video":
        if model.tuning == "full":
            return {"model.tuning": "lora"}
        if model.quantisation == "none":
            return {"model.quantisation": "4bit"}
    if largest == "evaluation" and study.evaluation.batch > 1:
        return {"evaluation.batch": study.evaluation.batch // 2}
    if largest == "sampling" and rollout.batch > 1 and (key := _settable(study, method, "rollout.batch")):
        return {key: rollout.batch // 2}
    if not model.gradient_checkpointing:
        return {"model.gradient_checkpointing": True}
    if train.micro_batch > 1 and (key := _settable(study, method, "train.micro_batch")):
        return {key: train.micro_batch // 2}
    if model.quantisation == "none" and model.tuning == "lora":
        return {"model.quantisation": "4bit"}
    if study.data.max_pixels >= 2 * 28 * 28 * 4:
        return {"data.max_pixels": study.data.max_pixels // 2, "data.min_pixels": min(study.data.min_pixels, 28 * 28)}
    return None


def _settable(study: StudyConfig, method: str, key: str) -> str:
    """What ``-s`` takes to change a setting of a method: the shared key, or its own; "" where a variant sets it."""
    own = f"{parse_variant(method).method}.{key}"
    return key if not study.nearer(method, key) else "" if study.nearer(method, f"method.{own}") else own


# ---------------------------------------------------------------------- printed


def size_text(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 0.1 * 2**30 else f"{count / 2**20:.0f} MiB"


def print_summary(study: StudyConfig, console: Console, *, size: tuple[int, int] = VIDEO_SIZE) -> None:
    """Print one line at the start of a run, needed and available memory; more if it does not fit.

    Nothing is refused: if memory runs out later, the micro-batch is halved.
    """
    config, limit = model_sizes(study.model.name), this_machine(study)
    if _about(config) < SMALL:
        return
    accounts = {method: account_for(study, method, limit, size=size, config=config) for method in study.methods}
    method = max(accounts, key=lambda name: accounts[name].peak)
    need = f"about {size_text(accounts[method].peak)}" + (
        f" for each of {limit.cells} cells" if limit.cells > 1 else ""
    )
    line = f"Memory: {need} ({method}) of {size_text(limit.bytes)} on {limit.device}"
    if limit.holds(accounts[method]):
        console.say(line)
        return
    settings, least = fitting_settings(study, method, limit, size=size, config=config)
    found = "It would fit with" if limit.holds(least) else f"It would still take {size_text(least.peak)} with"
    console.say(f"{line}: too little. {found} {' '.join(settings)}", style="yellow")
    console.say(f"The calculation: harness doctor --model {study.model.name}")


def _about(config: Any) -> int:
    """A rough count of a model's parameters."""
    text = config.text_config
    width, inner = text.hidden_size, text.intermediate_size
    return int(text.vocab_size * width + text.num_hidden_layers * width * (4 * width + 3 * inner))


def print_estimates(study: StudyConfig, console: Console, *, size: tuple[int, int] = VIDEO_SIZE) -> bool:
    """Print the whole calculation for every method of a study; return whether all fit."""
    config, limit = model_sizes(study.model.name), this_machine(study)
    fits = True
    for method in study.methods:
        account = account_for(study, method, limit, size=size, config=config)
        title = (
            f"{method}: {account.parameters:,} parameters, {account.trained:,} trained, videos of {size[0]}x{size[1]}"
        )
        console.print(_table(account, title))
        whole = f"at most {size_text(account.peak)}" + (f" x {limit.cells} cells at a time" if limit.cells > 1 else "")
        if limit.holds(account):
            console.say(f"  {whole} of {size_text(limit.bytes)} on {limit.device}: fits\n", style="green")
            continue
        fits = False
        settings, least = fitting_settings(study, method, limit, size=size, config=config)
        console.say(f"  {whole} of {size_text(limit.bytes)} on {limit.device}: too little", style="bold red")
        verdict = "fits with" if limit.holds(least) else "does not fit even with"
        console.say(f"  {verdict} {' '.join(settings)}: {size_text(least.peak)}\n")
    return fits


def _table(account: Footprint, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 2), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for phase in ("always", *account.phases):
        for part in (part for part in account.parts if part.phase == phase):
            table.add_row(part.name, size_text(part.bytes), part.arithmetic)
        total = account.always if phase == "always" else account.phases[phase]
        table.add_row(Text(f"= {phase}", style="bold"), Text(size_text(total), style="bold"), "")
    most = max(account.phases, key=lambda name: account.phases[name])
    table.add_row(Text("peak", style="bold"), Text(size_text(account.peak), style="bold"), f"always + {most}")
    return table
