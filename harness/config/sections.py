"""The sections of a study: every key with its default, range and meaning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from harness.api.config import StrictConfig
from harness.config.pixels import PIXELS
from harness.errors import closest
from harness.vsibench.prompts import MODES, TRAINING_MODES


def _not_blank(value: Any) -> Any:
    if not str(value).strip() or "\0" in str(value):
        raise ValueError("it is blank")
    return value


Text = Annotated[str, AfterValidator(_not_blank)]
"""A name or a path: neither empty nor with the null that no file name may have."""

FilePath = Annotated[Path, BeforeValidator(_not_blank)]
"""A file or folder, likewise."""

Spending = Literal["obrien-fleming", "pocock"]
"""How declared looks spend the level, see :mod:`reports.statistics.looks`."""

SEEDS_FOR_METHODS = 3
"""Fewest seeds a side that allow a claim about methods instead of checkpoints."""

MANY = 10_000
"""More than any machine has, or any study needs, of what is made or started one by one."""

MOST_TOKENS = 1_000_000
"""More than any model's context holds."""


class ModelSection(StrictConfig):
    """The model and how it is trained."""

    name: Text = Field("tiny", description="A registered model name, a local folder or a hub id.")
    tuning: Literal["full", "lora"] = Field("lora", description="Train all weights, or LoRA adapters.")
    freeze_vision: bool = Field(True, description="Do not train the vision tower.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on a GPU that supports it, else fp32."
    )
    engine: Literal["shared", "naive"] = Field(
        "shared", description="shared runs a prompt once for all its completions, exactly; naive once for each."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, about a third slower."
    )
    quantisation: Literal["none", "4bit", "8bit"] = Field(
        "none", description="Language model in 4 bits (QLoRA's NF4) or 8 bits by bitsandbytes; needs LoRA."
    )
    lora_rank: int = Field(16, ge=1, le=MANY, description="LoRA rank (ours; the paper gives none).")
    lora_alpha: int = Field(32, ge=1, lt=2**31, description="LoRA alpha (ours; the paper gives none).")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout.")

    @model_validator(mode="after")
    def _quantised_weights_stay(self) -> ModelSection:
        if self.quantisation != "none" and self.tuning == "full":
            raise ValueError('quantisation needs tuning = "lora": 4-bit and 8-bit weights cannot be trained')
        return self


def names_split(benchmark: Any) -> bool:
    """Whether a source of records names its split itself: ``FOLDER#SPLIT`` and ``world:SPLIT`` do."""
    return isinstance(benchmark, str) and ("#" in benchmark or benchmark.startswith("world:"))


def bounds_by_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of ``[data]`` with a known name of ``pixels`` replaced by its bounds: both give the same study."""
    name = values.get("pixels")
    if not isinstance(name, str) or name not in PIXELS or not {"min_pixels", "max_pixels"}.isdisjoint(values):
        return dict(values)
    return {**values, "pixels": None, "min_pixels": PIXELS[name].least, "max_pixels": PIXELS[name].most}


class DataSection(StrictConfig):
    """Training and evaluation data."""

    train: Text = Field("world:train", description="Training records: world:SPLIT[@SCENES], a folder or a file.")
    benchmark: Text = Field("world:test", description="Evaluation records in VSI-Bench's layout.")
    split: Text | None = Field(
        None, description="Split of the benchmark, unless its source names one: full, debiased, pruned, ..."
    )
    benchmark_limit: int | None = Field(
        None,
        ge=1,
        lt=2**31,
        description="Maximum number of benchmark questions: whole rooms, question types in proportion.",
    )
    videos: FilePath | None = Field(None, description="Folder of the training videos, if not that of the records.")
    stills_rate: float | None = Field(
        None,
        gt=0,
        description="Frames per second of folders of stills; Qwen2.5-VL and Qwen3-VL need it.",
    )
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="Our field names, or `video` for a path, and the training file's, where they differ.",
    )
    limit: int | None = Field(None, ge=1, lt=2**31, description="Use only the first N training records.")
    skip_bad: bool = Field(False, description="Skip and count unreadable records instead of stopping.")
    drop_leaking: bool = Field(False, description="Drop training records of benchmark rooms instead of stopping.")
    frames: int = Field(
        16, ge=2, le=MANY, multiple_of=2, description="Frames sampled evenly from each video; an even number."
    )
    pixels: str | None = Field(
        None,
        description=f"Sets min_pixels and max_pixels by name: {', '.join(PIXELS)}.",
    )
    min_pixels: int = Field(56 * 56, ge=1, lt=2**31, description="Minimum pixels (height x width) of one frame.")
    max_pixels: int = Field(
        128 * 28 * 28,
        ge=1,
        lt=2**31,
        description="Maximum pixels of one frame (128 x 28 x 28: Video-R1's training; the paper gives none).",
    )

    @model_validator(mode="before")
    @classmethod
    def _pixels_by_name(cls, values: Any) -> Any:
        return bounds_by_name(values) if isinstance(values, Mapping) else values

    @field_validator("split")
    @classmethod
    def _split_once(cls, split: str | None, info: ValidationInfo) -> str | None:
        if split is not None and names_split(benchmark := info.data.get("benchmark")):
            raise ValueError(f"the benchmark `{benchmark}` names its split itself; leave one out")
        return split

    @field_validator("pixels")
    @classmethod
    def _known_pixels(cls, name: str | None) -> None:
        if name in PIXELS:
            raise ValueError("it sets min_pixels and max_pixels; leave them out")
        if name is not None:
            raise ValueError(f"no such name{closest(name, PIXELS)}")

    @model_validator(mode="after")
    def _pixels_in_order(self) -> DataSection:
        if self.max_pixels < self.min_pixels:
            raise ValueError(f"max_pixels = {self.max_pixels} is below min_pixels = {self.min_pixels}")
        return self


class PromptSection(StrictConfig):
    """Prompt modes, for training and for evaluation."""

    train: str = Field(
        "vanilla",
        description=f"Wording of training prompts (arXiv 2504.00883, section 3.2): {', '.join(TRAINING_MODES)}.",
    )
    evaluation: str = Field(
        "official",
        description="Wording of evaluation prompts; official is VSI-Bench's own, cot its chain of thought: "
        f"{', '.join(MODES)}.",
    )

    @field_validator("train", "evaluation")
    @classmethod
    def _known(cls, mode: str, info: ValidationInfo) -> str:
        known = TRAINING_MODES if info.field_name == "train" else MODES
        if mode not in known:
            raise ValueError(f"no such name{closest(mode, known)}")
        return mode


class RewardSection(StrictConfig):
    """How completions are rewarded; the same for every method."""

    weights: dict[str, float] = Field(
        default_factory=lambda: {"distance": 1.0, "choice": 1.0, "format": 1.0},
        description="Weights of registered rewards; one that does not apply to a record is left out.",
    )
    options: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Options by name of reward.")
    reading: Literal["scorer", "tolerant"] = Field(
        "scorer",
        description="How they read an answer: as the study's scorer does (free words as a whole), or by the rules of "
        "the tolerant scorer, which also pays answers that another scorer gives 0.",
    )


class RolloutSection(StrictConfig):
    """How completions are sampled in training."""

    temperature: float = Field(1.0, gt=0, le=100, description="Sampling temperature (paper: 1).")
    max_new_tokens: int = Field(16, ge=1, le=MOST_TOKENS, description="Token limit of a completion.")
    batch: int = Field(64, ge=1, le=MANY, description="Completions sampled at once.")
    sampler: str = Field("transformers", description="A registered sampler; evaluation uses it too.")
    sampler_options: dict[str, Any] = Field(default_factory=dict, description="Options of the sampler.")


class BudgetSection(StrictConfig):
    """Where each training run ends; evaluation is not counted."""

    kind: Literal["examples", "steps", "seconds"] = Field(
        "examples",
        description="Prompts seen, optimiser steps, or seconds of device time. Only seconds limit what rollouts, "
        "reference passes and updates cost; the others meter and report it.",
    )
    amount: float = Field(gt=0, le=1e12, description="The amount, the same for every method; whole examples or steps.")

    @model_validator(mode="after")
    def _whole(self) -> BudgetSection:
        if self.kind != "seconds" and not self.amount.is_integer():
            raise ValueError(f"amount = {self.amount:g}: name a whole number of {self.kind}")
        return self


class TrainSection(StrictConfig):
    """Optimisation, shared by all methods unless they override it."""

    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate (paper: 1e-5 for 2B, 5e-6 for 7B).")
    warmup_steps: int = Field(
        10, ge=0, lt=2**31, description="Linear warm-up, then constant (ours; the paper gives none)."
    )
    prompts_per_step: int = Field(
        16, ge=1, lt=2**31, description="Prompts per optimiser step (ours; the paper gives none)."
    )
    micro_batch: int = Field(16, ge=1, le=MANY, description="Completions per forward and backward pass.")
    processes: int = Field(
        1, ge=1, le=MANY, description="Processes that share each step's prompts, one per GPU; the gradient is the same."
    )
    updates_per_batch: int = Field(1, ge=1, lt=2**31, description="Optimiser steps per set of rollouts.")
    optimizer: Literal["adamw", "adamw_8bit"] = Field("adamw", description="torch AdamW, or bitsandbytes' 8-bit.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW beta 1.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW beta 2.")
    max_grad_norm: float = Field(1.0, gt=0, description="Maximum gradient norm, by clipping.")
    checkpoints: int = Field(
        1, ge=1, le=MANY, description="Checkpoints, evenly spaced over the budget; see evaluation.checkpoint."
    )
    report_to: tuple[str, ...] = Field((), description="Trackers that transformers supports, such as tensorboard.")


class RuntimeSection(StrictConfig):
    """How the machine is used; apart from the number of CPU threads, this does not affect results."""

    workers: int = Field(1, ge=1, le=MANY, description="Number of cells that run at the same time.")
    threads: int = Field(
        0,
        ge=0,
        le=MANY,
        description="CPU threads per cell; 0: those that the run directory began with, at first torch's default. "
        "Without a GPU they change rounding, and so the results.",
    )
    cache: FilePath = Field(Path("cache"), description="Folder for generated data and decoded frames.")
    frames_gb: float = Field(
        100.0, gt=0, description="Maximum gigabytes of decoded frames there; the least recently used are deleted."
    )
    decoders: int = Field(
        0, ge=0, le=MANY, description="Processes that decode videos before training; 0: one per core."
    )
    plugins: tuple[Path, ...] = Field(
        (),
        description="Python files with your own methods, rewards or benchmarks; they run where you name the study.",
    )


class ReportSection(StrictConfig):
    """Which tests are made and how, declared before the results; it does not affect what is computed."""

    margin: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Methods that differ by less than this, in points, are equivalent; unset: the smallest margin "
        "within which the study would find equal methods equivalent with 80% power, up to 5 points, worked out before "
        "the first cell.",
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="Two-sided significance level of tests and intervals.")
    pairs: tuple[tuple[str, str], ...] | None = Field(
        None,
        description="Confirmatory pairs [A, B], tested as B minus A; default: all pairs, base included.",
    )
    collapse: float = Field(
        10.0,
        gt=0,
        le=100,
        description="A run has collapsed that ends more than this many points below the base model.",
    )
    paired_seeds: bool = Field(
        True,
        description="Compare variants of one method by their runs of equal seeds as pairs: these share starting "
        "weights and order of data.",
    )
    spending: Spending = Field(
        "obrien-fleming",
        description="How looks (seeds = [3, 5, 8]) spend alpha: little early, or pocock, about alike at each, which "
        "stops earlier and errs up to 0.063 where a lone pair's runs vary very unequally.",
    )
    with_published: bool = Field(False, description="Show published results next to ours; they are never tested.")

    @field_validator("pairs")
    @classmethod
    def _pairs_once(cls, pairs: tuple[tuple[str, str], ...] | None) -> tuple[tuple[str, str], ...] | None:
        seen = [frozenset(pair) for pair in pairs or ()]
        if pairs is not None and (not pairs or len(set(seen)) != len(seen) or any(len(pair) < 2 for pair in seen)):
            raise ValueError("name at least one pair of two different methods, each pair once")
        return pairs


class TuneRange(StrictConfig):
    """The range of a hyper-parameter."""

    low: float = Field(description="Minimum.")
    high: float = Field(description="Maximum.")
    scale: Literal["log", "linear"] = Field("log", description="Uniform in the logarithm, or in the value.")

    @model_validator(mode="after")
    def _ordered(self) -> TuneRange:
        if not self.low < self.high or (self.scale == "log" and self.low <= 0):
            raise ValueError("low must be below high, and above 0 on a log scale")
        return self


class TunedMethod(StrictConfig):
    """What `harness tune` chose for a method."""

    trials: int = Field(ge=1, description="Trials that it was chosen from.")
    chosen: dict[str, float] = Field(min_length=1, description="The values by key, such as train.learning_rate.")


class TuneSection(StrictConfig):
    """Fair tuning: the same number of random trials for every method, on records outside the benchmark."""

    trials: int = Field(4, ge=1, le=MANY, description="Random trials per method.")
    development: Text = Field("world:dev", description="Records to choose by; never the benchmark.")
    budget_share: float = Field(0.5, gt=0, le=1, description="Fraction of the budget for a trial.")
    ranges: dict[str, dict[str, TuneRange]] = Field(
        default_factory=lambda: {"all": {"train.learning_rate": TuneRange(low=1e-5, high=1e-3, scale="log")}},
        description="Ranges by method and key; those of `all` apply to every method.",
    )
    done: dict[str, TunedMethod] = Field(
        default_factory=dict,
        description="What `harness tune` chose for each method; other values in use are reported as set by hand.",
    )
