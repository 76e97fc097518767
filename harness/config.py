"""The study: every choice that is not a method's own, as one strict, documented, resolved document."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

from harness import registry
from harness.algorithm import StrictConfig
from harness.errors import UserError, unknown_name
from harness.variants import SECTIONS, Variant, merge, parse_variant, put, toml_value

Section = TypeVar("Section", bound=StrictConfig)

BASE = "base"
"""The name under which the untrained model appears beside the methods."""


class ModelSection(StrictConfig):
    """Which model is trained, and how."""

    name: str = Field("tiny", description="A registered model name, a local folder or a hub id.")
    tuning: Literal["full", "lora"] = Field("lora", description="Train all weights, or LoRA adapters.")
    freeze_vision: bool = Field(True, description="Keep the vision tower as it is.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on a GPU that has it, else fp32."
    )
    engine: Literal["shared", "naive"] = Field(
        "shared", description="shared runs each prompt once for all its answers, exactly; naive once for each."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, about a third slower."
    )
    lora_rank: int = Field(16, ge=1, description="LoRA rank. The paper does not give it; ours.")
    lora_alpha: int = Field(32, ge=1, description="LoRA alpha. The paper does not give it; ours.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout.")


class DataSection(StrictConfig):
    """What is trained on and what is evaluated on."""

    train: str = Field("world:train", description="Training records: world:SPLIT[@SCENES], a folder or a file.")
    benchmark: str = Field("world:test", description="Evaluation records, in VSI-Bench's layout.")
    split: str | None = Field(
        None, description="Split of the benchmark where its source names none: full, debiased, pruned, ..."
    )
    benchmark_limit: int | None = Field(
        None, ge=1, description="At most this many benchmark questions: whole rooms, question types in proportion."
    )
    videos: Path | None = Field(None, description="Folder of the training videos, when it is not that of the records.")
    fields: dict[str, str] = Field(
        default_factory=dict, description="Field names of the training file, by ours, where they differ."
    )
    split: str | None = Field(
        None, description="Split of the benchmark where its source names none: full, debiased, pruned, ..."
    )
    benchmark_limit: int | None = Field(
        None, ge=1, description="At most this many benchmark questions: whole rooms, question types in proportion."
    )
    videos: Path | None = Field(None, description="Folder of the training videos, when it is not that of the records.")
    fields: dict[str, str] = Field(
        default_factory=dict, description="Field names of the training file, by ours, where they differ."
    )
    limit: int | None = Field(None, ge=1, description="Use only the first this many training records.")
    skip_bad: bool = Field(False, description="Skip and count unreadable records instead of stopping.")
    drop_leaking: bool = Field(False, description="Drop training records of benchmark rooms instead of stopping.")
    frames: int = Field(16, ge=2, multiple_of=2, description="Frames sampled evenly from each video; even.")
    min_pixels: int = Field(56 * 56, ge=1, description="Least pixels (height x width) of one frame.")
    max_pixels: int = Field(
        128 * 28 * 28,
        ge=1,
        description="Most pixels of one frame; 128 x 28 x 28 as Video-R1 trains (the paper is silent).",
    )


class PromptSection(StrictConfig):
    """Wordings: the paper's training modes and the benchmark's official one."""

    train: Literal["official", "vanilla", "think", "observe"] = Field(
        "vanilla", description="Wording of training prompts (arXiv 2504.00883, section 3.2)."
    )
    evaluation: Literal["official", "vanilla", "think", "observe"] = Field(
        "official", description="Wording of evaluation prompts; official is VSI-Bench's own."
    )


class RewardSection(StrictConfig):
    """How a sampled answer is scored; shared by every method that samples."""

    weights: dict[str, float] = Field(
        default_factory=lambda: {"distance": 1.0, "choice": 1.0, "format": 1.0},
        description="Weight of each registered reward; those that do not apply to a record are left out.",
    )
    options: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Options by reward name.")


class RolloutSection(StrictConfig):
    """How answers are sampled in training."""

    temperature: float = Field(1.0, gt=0, description="Sampling temperature (paper: 1).")
    max_new_tokens: int = Field(16, ge=1, description="Token limit of a sampled answer.")
    batch: int = Field(64, ge=1, description="Completions sampled at once.")


class BudgetSection(StrictConfig):
    """What every method may consume. Evaluation is not counted."""

    kind: Literal["examples", "steps", "seconds"] = Field(
        "examples", description="Prompts seen, optimiser steps, or seconds of device time."
    )
    amount: float = Field(gt=0, description="How much of it.")


class TrainSection(StrictConfig):
    """The optimisation loop that all methods share."""

    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate (paper: 1e-5 for 2B, 5e-6 for 7B).")
    warmup_steps: int = Field(10, ge=0, description="Linear warm-up, then constant; the paper gives none; ours.")
    prompts_per_step: int = Field(16, ge=1, description="Prompts per optimiser step; not given by the paper.")
    micro_batch: int = Field(16, ge=1, description="Completions in one forward and backward pass.")
    updates_per_batch: int = Field(1, ge=1, description="Optimiser steps on one set of rollouts.")
    optimizer: Literal["adamw", "adamw_8bit"] = Field("adamw", description="torch AdamW, or bitsandbytes' 8-bit.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW beta 1.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW beta 2.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm is clipped to this.")
    checkpoints: int = Field(1, ge=1, description="Checkpoints, evenly spaced over the budget; the last is reported.")
    report_to: tuple[str, ...] = Field((), description="Trackers known to transformers, such as tensorboard.")


class EvaluationSection(StrictConfig):
    """How every checkpoint, the base included, is evaluated."""

    benchmark: str = Field("vsibench", description="A registered benchmark.")
    scorer: str = Field("official", description="The scorer of the headline.")
    max_new_tokens: int = Field(16, ge=1, description="Token limit; 16 is VSI-Bench's own.")
    batch: int = Field(32, ge=1, description="Questions per batch; fixed, since greedy answers may move with it.")


class RuntimeSection(StrictConfig):
    """How the machine is used; no influence on what is computed, so not part of a cell's identity."""

    workers: int = Field(1, ge=1, description="Cells that run at the same time.")
    threads: int = Field(0, ge=0, description="CPU threads of a cell; 0 leaves torch's own choice.")
    cache: Path = Field(Path("cache"), description="Folder for generated data and decoded frames.")


class ReportSection(StrictConfig):
    """What is tested and how, declared before the results; no influence on what is computed."""

    margin: float = Field(1.0, gt=0, description="Points from which on two methods are not equivalent.")
    alpha: float = Field(0.05, gt=0, lt=1, description="Two-sided level of tests and intervals.")
    pairs: tuple[tuple[str, str], ...] | None = Field(
        None, description="Confirmatory pairs [A, B], tested as B minus A; unset: each method against base, all pairs."
    )
    with_published: bool = Field(False, description="Show published rows beside ours; they are never tested.")

    @field_validator("pairs")
    @classmethod
    def _pairs_once(cls, pairs: tuple[tuple[str, str], ...] | None) -> tuple[tuple[str, str], ...] | None:
        seen = [frozenset(pair) for pair in pairs or ()]
        if pairs is not None and (not pairs or len(set(seen)) != len(seen) or any(len(pair) < 2 for pair in seen)):
            raise ValueError("name at least one pair of two different methods, each pair once")
        return pairs


class StudyConfig(StrictConfig):
    """A study: methods x seeds on one model, one data set and one budget."""

    name: str = Field(min_length=1, pattern=r"^[\w.+-]+$", description="Name of the run directory.")
    methods: tuple[str, ...] = Field(
        ("sft", "dpo", "grpo"),
        description="Registered methods in table order, or variants of them such as grpo:beta=0 and grpo:think.",
    )
    seeds: int = Field(1, ge=1, description="Repetitions; each varies data order and sampling, never by method.")
    first_seed: int = Field(0, ge=0, description="Seeds are first_seed, first_seed + 1, ...")
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    prompt: PromptSection = PromptSection()
    reward: RewardSection = RewardSection()
    rollout: RolloutSection = RolloutSection()
    budget: BudgetSection
    train: TrainSection = TrainSection()
    evaluation: EvaluationSection = EvaluationSection()
    runtime: RuntimeSection = RuntimeSection()
    report: ReportSection = ReportSection()
    method: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Hyper-parameters by method; its sub-tables `train`, `prompt`, `rollout` and `evaluation` (only "
        "max_new_tokens) override those sections for it.",
    )

    @field_validator("methods")
    @classmethod
    def _methods_once(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        variants = [parse_variant(method) for method in methods]
        names = tuple(variant.name for variant in variants)
        if not names or len(set(names)) != len(names):
            raise ValueError("name at least one method, each once")
        if BASE in {variant.method for variant in variants}:
            raise ValueError(f"`{BASE}` is always part of the comparison; leave it out")
        return names

    def algorithm(self, method: str, *, asked: str | None = None) -> Any:
        """The method, or variant of one, with its hyper-parameters.

        Raises:
            UserError: It is unknown, cannot be imported, or an option is unknown or out of range.
        """
        return registry.create("algorithms", parse_variant(method).method, self.hyper_parameters(method), asked=asked)

    def hyper_parameters(self, method: str) -> dict[str, Any]:
        """The options of a method's own Config, a variant's changes included."""
        return {key: value for key, value in self._settings(method)[1].items() if key not in SECTIONS}

    def train_for(self, method: str) -> TrainSection:
        """The shared optimisation settings with this method's overrides."""
        return self._section_for(method, "train", self.train)

    def for_method(self, method: str) -> StudyConfig:
        """This study as one method or variant sees it: prompts, sampling and token limits with its overrides.

        A variant that is evaluated in think or observe mode may answer at least as long as it may in training, unless
        it says otherwise.

        Raises:
            UserError: An override's key or value is wrong.
        """
        rollout = self._section_for(method, "rollout", self.rollout)
        prompt = self._section_for(method, "prompt", self.prompt)
        told = self._settings(method)[1].get("evaluation", {})
        evaluation = self._section_for(method, "evaluation", self.evaluation)
        if prompt.evaluation in ("think", "observe") and prompt != self.prompt and "max_new_tokens" not in told:
            longest = max(evaluation.max_new_tokens, rollout.max_new_tokens)
            evaluation = evaluation.model_copy(update={"max_new_tokens": longest})
        return self.model_copy(update={"rollout": rollout, "prompt": prompt, "evaluation": evaluation})

    def label(self, method: str) -> str:
        """What tables call a method: its title, and in brackets what a variant changes."""
        variant = parse_variant(method)
        known = variant.method in registry.names("algorithms")
        title = getattr(registry.load("algorithms", variant.method), "title", "") if known else ""
        changes = f" ({', '.join(variant.changes)})" if variant.changes else ""
        return f"{title or variant.method.upper()}{changes}"

    def _settings(self, method: str) -> tuple[Variant, dict[str, Any]]:
        variant = parse_variant(method)
        return variant, merge(self.method.get(variant.method, {}), variant.settings)

    def _section_for(self, method: str, name: str, shared: Section) -> Section:
        variant, settings = self._settings(method)
        changes = settings.get(name, {})
        where = f"{variant.name}.{name}" if variant.changes else f"method.{method}.{name}"
        if not isinstance(changes, dict):
            raise UserError(f"`{where}` = {changes!r}: write one of its keys, as {name}.KEY=VALUE")
        allowed = SECTIONS[name]
        for key in changes:
            if allowed is not None and key not in allowed:
                raise UserError(
                    f"`{where}.{key}`: of this section a method may change only {', '.join(allowed)} for itself; "
                    "the rest is the same for all"
                )
        try:
            return type(shared)(**shared.model_dump() | changes)
        except ValidationError as error:
            raise UserError(registry.describe_validation(error, where, type(shared))) from error


def preset_names() -> list[str]:
    """Names of the studies shipped with the package."""
    folder = resources.files("harness.presets")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_study(
    source: str | Path,
    *,
    overrides: Sequence[str] = (),
    methods: Sequence[str] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> StudyConfig:
    """Read a study file or preset, apply overrides, validate.

    Args:
        source: A preset's name or a path to a TOML file; the file may say ``extends = "tiny"``.
        overrides: ``key=value`` with a dotted key; the first part is a section (``train.warmup_steps=5``)
            or a method (``grpo.beta=0.01``). Values are TOML, else text.
        methods: Replaces the study's methods.
        changes: Further top-level or dotted keys set by command-line options.

    Raises:
        UserError: The file is missing or unreadable, or a key or value is wrong.
    """
    document, where = _read(source)
    if methods is not None:
        document["methods"] = list(methods)
    for key, value in (changes or {}).items():
        put(document, key, value)
    known_methods = registry.names("algorithms")
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(f"`-s {override}`: write key=value, for example -s grpo.beta=0.01")
        head = key.split(".")[0]
        if head not in StudyConfig.model_fields and head in known_methods:
            key = f"method.{key}"
        elif head not in StudyConfig.model_fields:
            raise unknown_name(f"-s {key}", head, [*StudyConfig.model_fields, *known_methods])
        put(document, key, toml_value(text))
    try:
        study = StudyConfig(**document)
    except ValidationError as error:
        raise UserError(registry.describe_validation(error, where, StudyConfig)) from error
    _check_names(study, asked_methods=methods)
    return study


def _check_names(study: StudyConfig, asked_methods: Sequence[str] | None) -> None:
    """Refuse unknown plugins and wrong options before anything is computed."""
    for method in study.methods:
        asked = f"--methods {method}" if asked_methods is not None else f"methods: {method}"
        study.algorithm(method, asked=asked)
        study.train_for(method)
        study.for_method(method)
    _refuse_the_same_twice(study)
    for method in study.method:
        if method not in registry.names("algorithms"):
            raise unknown_name(f"method.{method}", method, registry.names("algorithms"))
    for reward in study.reward.weights:
        registry.create("rewards", reward, study.reward.options.get(reward), asked=f"reward.weights.{reward}")
    for reward in study.reward.options:
        if reward not in study.reward.weights:
            raise unknown_name(f"reward.options.{reward}", reward, study.reward.weights)
    registry.load("benchmarks", study.evaluation.benchmark)
    for method in (name for pair in study.report.pairs or () for name in pair):
        if method not in (BASE, *study.methods):
            raise unknown_name(f"report.pairs: {method}", method, (BASE, *study.methods))


def _refuse_the_same_twice(study: StudyConfig) -> None:
    """Two names for one training and one evaluation would be two rows of the same numbers."""
    seen: dict[str, str] = {}
    for method in study.methods:
        own = study.for_method(method)
        parts = (study.algorithm(method).config, study.train_for(method), own.prompt, own.rollout, own.evaluation)
        key = digest_of([parse_variant(method).method, *(part.model_dump(mode="json") for part in parts)])
        if key in seen:
            raise UserError(f"`{method}` is the same as `{seen[key]}`: no setting differs; leave one out")
        seen[key] = method


def digest_of(document: Any) -> str:
    """SHA-256 of a JSON-serialisable document in canonical form."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(source: str | Path) -> tuple[dict[str, Any], str]:
    text, where = _read_text(source)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"`{where}`: not valid TOML: {error}") from error
    parent = document.pop("extends", None)
    if parent is not None:
        if not isinstance(parent, str):
            raise UserError(f"`{where}`: `extends` must be a preset's name or a path")
        base_path = Path(where).parent / parent
        base, _ = _read(base_path if base_path.is_file() else parent)
        document = merge(base, document)
    return document, where


def _read_text(source: str | Path) -> tuple[str, str]:
    if str(source) in preset_names():
        return resources.files("harness.presets").joinpath(f"{source}.toml").read_text(), f"{source}.toml"
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except FileNotFoundError as error:
        raise UserError(
            f"`{source}`: no such study file, and no such preset. Presets: {', '.join(preset_names())}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"`{source}`: cannot be read as a study file: {error}") from error
