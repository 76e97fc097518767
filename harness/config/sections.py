"""The sections of a study: each key with its default, its range and its meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from harness.api.config import StrictConfig
from harness.config.pixels import PIXELS
from harness.errors import unknown_name
from harness.plugins import registry
from harness.vsibench.prompts import MODES, TRAINING_MODES


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
    quantisation: Literal["none", "4bit", "8bit"] = Field(
        "none", description="Language model in 4 bits (QLoRA's NF4) or 8 bits, by bitsandbytes; with LoRA only."
    )
    lora_rank: int = Field(16, ge=1, description="LoRA rank. The paper does not give it; ours.")
    lora_alpha: int = Field(32, ge=1, description="LoRA alpha. The paper does not give it; ours.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout.")

    @model_validator(mode="after")
    def _quantised_weights_stay(self) -> ModelSection:
        if self.quantisation != "none" and self.tuning == "full":
            raise ValueError('quantisation needs tuning = "lora": weights of 4 or 8 bits cannot be trained themselves')
        return self


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
    stills_rate: float | None = Field(
        None, gt=0, description="Frames a second of folders of stills, which Qwen2.5-VL and Qwen3-VL must be told."
    )
    fields: dict[str, str] = Field(
        default_factory=dict, description="Field names of the training file, by ours, where they differ."
    )
    limit: int | None = Field(None, ge=1, description="Use only the first this many training records.")
    skip_bad: bool = Field(False, description="Skip and count unreadable records instead of stopping.")
    drop_leaking: bool = Field(False, description="Drop training records of benchmark rooms instead of stopping.")
    frames: int = Field(16, ge=2, multiple_of=2, description="Frames sampled evenly from each video; even.")
    pixels: str | None = Field(
        None,
        description=f"Bounds of a frame by name; it sets min_pixels and max_pixels: {', '.join(PIXELS)}.",
    )
    min_pixels: int = Field(56 * 56, ge=1, description="Least pixels (height x width) of one frame.")
    max_pixels: int = Field(
        128 * 28 * 28,
        ge=1,
        description="Most pixels of one frame; 128 x 28 x 28 as Video-R1 trains (the paper is silent).",
    )

    @model_validator(mode="before")
    @classmethod
    def _pixels_by_name(cls, values: Any) -> Any:
        """A name stands for its bounds, so that naming them or writing them out is the same study."""
        name = values.get("pixels") if isinstance(values, dict) else None
        if name is None:
            return values
        if name not in PIXELS:
            raise ValueError(str(unknown_name(f"data.pixels = {name!r}", str(name), PIXELS)))
        return {**values, "pixels": None, "min_pixels": PIXELS[name].least, "max_pixels": PIXELS[name].most}

    @model_validator(mode="after")
    def _pixels_in_order(self) -> DataSection:
        if self.max_pixels < self.min_pixels:
            raise ValueError(f"max_pixels = {self.max_pixels} is below min_pixels = {self.min_pixels}")
        return self


class PromptSection(StrictConfig):
    """Wordings: the paper's training modes and the benchmark's official one."""

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
            raise ValueError(str(unknown_name(f"prompt.{info.field_name} = {mode!r}", mode, known)))
        return mode


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
    sampler: str = Field("transformers", description="A registered sampler; evaluation uses it too.")
    sampler_options: dict[str, Any] = Field(default_factory=dict, description="Options of the sampler.")


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
    processes: int = Field(
        1, ge=1, description="Processes that share each step's prompts, one a GPU; the gradient is the same."
    )
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
    more: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Further benchmarks and their options; each has a table of its own beside the headline.",
    )
    scorer: str = Field("official", description="The scorer of the headline.")
    max_new_tokens: int = Field(16, ge=1, description="Token limit; 16 is VSI-Bench's own.")
    two_turns: bool = Field(
        False,
        description="Ask in a second turn for the answer alone, as VSI-Bench does after a chain of thought (cot); "
        "the first turn has max_new_tokens, the second 16. Both raw answers are kept.",
    )
    batch: int = Field(32, ge=1, description="Questions per batch; fixed, since greedy answers may move with it.")


class RuntimeSection(StrictConfig):
    """How the machine is used; no influence on what is computed, so not part of a cell's identity."""

    workers: int = Field(1, ge=1, description="Cells that run at the same time.")
    threads: int = Field(0, ge=0, description="CPU threads of a cell; 0 leaves torch's own choice.")
    cache: Path = Field(Path("cache"), description="Folder for generated data and decoded frames.")
    frames_gb: float = Field(
        100.0, gt=0, description="Most gigabytes of decoded frames kept there; those used longest ago go first."
    )
    decoders: int = Field(0, ge=0, description="Processes that decode many videos beforehand; 0 takes all cores.")
    plugins: tuple[Path, ...] = Field((), description="Python files with methods, rewards or benchmarks of your own.")

    @field_validator("plugins")
    @classmethod
    def _register(cls, plugins: tuple[Path, ...]) -> tuple[Path, ...]:
        """Whoever reads a study, be it a cell or a report, finds its plugins."""
        return tuple(registry.add_file(path) for path in plugins)


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


class TuneRange(StrictConfig):
    """Where a hyper-parameter is drawn from."""

    low: float = Field(description="Least value.")
    high: float = Field(description="Greatest value.")
    scale: Literal["log", "linear"] = Field("log", description="Evenly in the logarithm, or in the value.")

    @model_validator(mode="after")
    def _ordered(self) -> TuneRange:
        if not self.low < self.high or (self.scale == "log" and self.low <= 0):
            raise ValueError("low must be below high, and above 0 on a log scale")
        return self


class TuneSection(StrictConfig):
    """Fair tuning: the same number of draws for every method, on records that the benchmark does not hold."""

    trials: int = Field(4, ge=1, description="Draws a method.")
    development: str = Field("world:dev", description="Records to choose on; never the benchmark.")
    budget_share: float = Field(0.5, gt=0, le=1, description="Part of the budget that a trial may consume.")
    ranges: dict[str, dict[str, TuneRange]] = Field(
        default_factory=lambda: {"all": {"train.learning_rate": TuneRange(low=1e-5, high=1e-3, scale="log")}},
        description="Ranges by method and key; those of `all` hold for every method.",
    )
    done: dict[str, int] = Field(
        default_factory=dict,
        description="Trials that each method had before this study, `all` for every one; written by `harness tune`.",
    )

    @field_validator("done", mode="before")
    @classmethod
    def _of_all(cls, done: Any) -> Any:
        return {"all": done} if isinstance(done, int) else done

    def trials_of(self, *names: str) -> int:
        """Trials behind the settings of a method; the first of its names that is told of counts."""
        return next((self.done[name] for name in (*names, "all") if name in self.done), 0)
