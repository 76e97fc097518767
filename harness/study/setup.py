"""From a resolved study to the objects that a cell uses: model, data, encoder, rewards."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from pydantic import Field

from harness.api.benchmark import Benchmark
from harness.api.config import StrictConfig
from harness.api.reward import Reading, WeightedRewards
from harness.config.evaluation import DEVELOPMENT
from harness.config.study import DataSection, StudyConfig
from harness.data.broken import without_broken_videos
from harness.data.encode import EncodedPrompt, PromptEncoder
from harness.data.leakage import check_leakage, count_rooms, shared_rooms
from harness.data.reader import Dataset, read_dataset
from harness.data.sources import is_ready, resolve_source, source_commit
from harness.data.subset import stratified_subset
from harness.data.truths import Types
from harness.data.video.cache import FrameCache
from harness.data.video.frames import VideoSettings
from harness.engine.policy import Policy
from harness.errors import UserError, first_few
from harness.hub import commit_of
from harness.io import digest_of
from harness.models.conversation import generation_defaults, settle_conversation
from harness.models.families import has_time_stamps, video_defaults
from harness.models.loading import load_model, settings_folder
from harness.models.quantisation import describe_quantisation
from harness.plugins import registry
from harness.vsibench.records import Record

ENVIRONMENT_FILE = "env.json"
PACKAGES = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "av", "numpy", "scipy", "statsmodels")


@dataclass(frozen=True)
class Setup:
    """A model and its data, ready for training and evaluation.

    Attributes:
        study: The resolved study.
        policy: The model as loaded, before any training.
        frames: Loads their videos.
        encoder: Turns records into prompts.
        train: Training records; None for an evaluation only.
        benchmark: Evaluation records.
        development: Those that checkpoints are chosen by, where the study has some.
        notes: What the model brings that is not used or differs from the prompts' plan.
    """

    study: StudyConfig
    policy: Policy
    frames: FrameCache
    encoder: PromptEncoder
    train: Dataset | None
    benchmark: Dataset
    development: Dataset | None = None
    notes: tuple[str, ...] = ()

    def questions(self, name: str) -> tuple[Dataset, str]:
        """The records that a benchmark without own questions asks about, or the development records; their source."""
        if name != DEVELOPMENT:
            return self.benchmark, benchmark_source(self.study.data)
        if self.development is None or self.study.evaluation.development is None:
            raise ValueError("no development records were loaded")
        return self.development, self.study.evaluation.development

    @property
    def training(self) -> Dataset:
        """The training records, where they were loaded."""
        if self.train is None:
            raise ValueError("no training data was loaded")
        return self.train

    def training_prompt(self, index: int) -> EncodedPrompt:
        """Encode the index-th training record in the study's training mode."""
        data, record = self.training, self.training.records[index]
        try:
            return self.encoder.encode(record, self.study.prompt.train, data.video_path(record))
        except UserError as error:
            raise UserError(f"training record {record.key} of {data.root} ({data.split}): {error}") from error


def load_data(study: StudyConfig, *, with_train: bool = True, keep: bool = True) -> tuple[Dataset | None, Dataset]:
    """Read the training and the benchmark records and check them for leaking rooms.

    Args:
        study: The resolved study.
        with_train: Read the training records.
        keep: Keep in the cache which videos are broken, where bad records are skipped.
    """
    data = study.data
    benchmark = read_benchmark(study, keep=keep)
    if data.benchmark_limit:
        benchmark = stratified_subset(benchmark, data.benchmark_limit)
    if not with_train:
        return None, benchmark
    train = checked_training(study, benchmark, keep=keep)
    return (replace(train, records=train.records[: data.limit]) if data.limit else train), benchmark


def read_benchmark(study: StudyConfig, *, keep: bool = True) -> Dataset:
    """All records of the benchmark, whatever ``data.benchmark_limit``.

    Raises:
        UserError: They cannot be read, or their truths hold for another number of frames.
    """
    found = read_questions(benchmark_source(study.data), study, keep=keep)
    registry.create("benchmarks", study.evaluation.benchmark).check_budget(found.records, study.data.frames)
    return found


def read_questions(source: str, study: StudyConfig, *, keep: bool = True) -> Dataset:
    """All records of a source that is asked and not trained on, of the types of the headline benchmark."""
    return _read(source, study, "test", keep, types=headline_types(study))


def headline_types(study: StudyConfig) -> Types | None:
    """The question types of the headline benchmark; None for VSI-Bench's."""
    found: Benchmark = registry.load("benchmarks", study.evaluation.benchmark)
    return found.types


def read_development(study: StudyConfig, *, keep: bool = True) -> Dataset | None:
    """The records that checkpoints are chosen by, at most ``data.benchmark_limit``; None where the rule needs none."""
    if study.evaluation.development is None:
        return None
    found, limit = read_questions(study.evaluation.development, study, keep=keep), study.data.benchmark_limit
    return stratified_subset(found, limit) if limit else found


def trained_rooms(trained: StudyConfig, benchmark: Dataset) -> str:
    """What to say of a checkpoint of this study that is evaluated on another benchmark; empty if it saw none of it."""
    sources = (benchmark_source(trained.data), trained.data.train)
    try:
        train = load_data(trained)[0] if all(is_ready(one, trained.runtime.cache) for one in sources) else None
    except UserError:
        train = None
    if train is None:
        return f"Whether it was trained on rooms of this benchmark is unknown: {trained.data.train} is not at hand"
    rooms = count_rooms(shared_rooms(train, [benchmark]).values())
    listed = first_few([f"{room} ({count})" for room, count in rooms.items()])
    return f"It was trained on rooms of {benchmark.source}, which inflates its score: {listed}" if rooms else ""


def read_training(study: StudyConfig, *, keep: bool = True) -> Dataset:
    """All training records, whatever ``data.limit``."""
    return _read(study.data.train, study, "train", keep, fields=study.data.fields, videos=study.data.videos)


def checked_training(study: StudyConfig, benchmark: Dataset | None, *, keep: bool = True) -> Dataset:
    """The training records without rooms of the benchmark, or refused; without a benchmark, rooms of VSI-Bench."""
    return check_leakage(read_training(study, keep=keep), benchmark, study.data.drop_leaking, other_questions(study))


def other_questions(study: StudyConfig) -> Iterator[Record]:
    """The questions that additional benchmarks bring along.

    Raises:
        UserError: They cannot be read, or their truths hold for another number of frames.
    """
    for name, options in study.evaluation.more.items():
        benchmark: Benchmark = registry.create("benchmarks", name, options)
        if own := benchmark.questions():
            benchmark.check_budget(own.records, study.data.frames)
            yield from own.records


def benchmark_source(data: DataSection) -> str:
    """The source of the benchmark with ``data.split``, unless the source names a split itself."""
    return data.benchmark if data.split is None else f"{data.benchmark}#{data.split}"


def _read(source: str, study: StudyConfig, default: str, keep: bool, **options: Any) -> Dataset:
    root, split = resolve_source(source, study.runtime.cache, default=default)
    if not study.data.skip_bad:
        return read_dataset(root, split, **options)
    found = read_dataset(root, split, skip_bad=True, **options)
    return without_broken_videos(found, study.data.frames, study.runtime.cache / "harness-videos.json", keep=keep)


def frame_cache(study: StudyConfig, config: Any) -> FrameCache:
    """The cache of decoded frames, shared by all cells of a study: its frames and pixels, the model's own settings."""
    data, own = study.data, video_defaults(config)
    return FrameCache(
        study.runtime.cache / "frames",
        VideoSettings(frames=data.frames, min_pixels=data.min_pixels, max_pixels=data.max_pixels, **own),
        disk_bytes=int(study.runtime.frames_gb * 1e9),
        stills_rate=study.data.stills_rate,
    )


def prepare(study: StudyConfig, *, with_train: bool = True, seed: int = 0) -> Setup:
    """Load data and model on the best device of this machine; the seed initialises adapters."""
    if study.runtime.threads:
        torch.set_num_threads(study.runtime.threads)
    train, benchmark = load_data(study, with_train=with_train)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load_model(study.model, device, seed)
    model: Any = loaded.model
    notes = settle_conversation(loaded.tokenizer, model.config, generation_defaults(study.model.name), study.model.name)
    for note in notes:
        logging.getLogger(__name__).warning("%s", note)
    policy = Policy(*loaded, engine=study.model.engine)
    config = policy.base.config
    frames = frame_cache(study, config)
    size, stamped = frames.settings.merge_size, has_time_stamps(config)
    encoder = PromptEncoder(loaded.tokenizer, config.video_token_id, frames, size, stamped=stamped)
    return Setup(study, policy, frames, encoder, train, benchmark, read_development(study), notes)


def build_rewards(study: StudyConfig) -> WeightedRewards:
    """The study's weighted rewards, from the registry."""
    section, benchmark = study.reward, registry.create("benchmarks", study.evaluation.benchmark)
    scorer = benchmark.scorer_named(study.evaluation.scorer)
    reading = Reading(lambda answer, record: benchmark.read(answer, record, scorer), section.reading == "tolerant")
    rewards = {name: registry.create("rewards", name, section.options.get(name)) for name in section.weights}
    return WeightedRewards(rewards, section.weights, reading)


class Environment(StrictConfig):
    """What a cell ran on, its ``env.json``.

    Attributes:
        commits: Of the model and the data that come from the hub, each with the commit that was used.
        ends: The tokens that end an answer.
        notes: As :class:`Setup` has them.
    """

    python: str
    platform: str
    device: str
    threads: int = Field(ge=1)
    packages: dict[str, str]
    argv: tuple[str, ...]
    quantisation: str = "none"
    study_digest: str = ""
    commits: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def environment(setup: Setup) -> Environment:
    """Versions, machine, how the weights are stored in memory, and what the model's own files decide."""
    policy = setup.policy
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        threads=torch.get_num_threads(),
        packages={name: _version(name) for name in PACKAGES},
        argv=tuple(sys.argv),
        quantisation=describe_quantisation(policy.base),
        study_digest=digest_of(setup.study.model_dump(mode="json")),
        commits=_commits(setup.study, with_train=setup.train is not None),
        ends=tuple(policy.tokenizer.convert_ids_to_tokens(list(policy.end_tokens))),
        notes=setup.notes,
    )


def _commits(study: StudyConfig, *, with_train: bool) -> tuple[str, ...]:
    sources = (study.data.train, benchmark_source(study.data)) if with_train else (benchmark_source(study.data),)
    sources = (*sources, *filter(None, [study.evaluation.development]))
    found = {source: source_commit(source, study.runtime.cache) for source in sources}
    found[study.model.name] = commit_of(settings_folder(study.model.name))
    return tuple(f"{name}: {commit}" for name, commit in found.items() if commit)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
