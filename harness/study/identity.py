"""Identities: all that a cell's weights or its answers depend on. A result with an equal identity is reused.

There is one definition of each: the plan compares it with the record in a cell's folder, and the cell's process writes
it into the manifest of the answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from harness.api.algorithm import Method
from harness.api.config import StrictConfig
from harness.api.guest import GuestTrainer
from harness.config.evaluation import DEVELOPMENT
from harness.config.study import StudyConfig
from harness.config.variants import parse_variant
from harness.data.corruption import corrupted_answer
from harness.data.reader import Dataset
from harness.data.shuffled import shuffled_prompt
from harness.data.video.decode import DECODING
from harness.io import digest_of
from harness.models.loading import choose_precision
from harness.plugins import registry
from harness.plugins.source import source_digest
from harness.seeds import seed_for
from harness.study.scored import benchmark_of
from harness.train.optimizer import set_learning_rate
from harness.train.reduction import reduce_loss
from harness.vsibench.prompts import OFFICIAL, answer_in, answer_text, prompts_digest

TRAINING_RULES = (answer_text, corrupted_answer, shuffled_prompt, reduce_loss, set_learning_rate, seed_for)
"""Rules of the engine that decide the weights of every method; the code of their modules is part of the identity.

The rest of the engine is covered by the package's version: its changes are meant to keep the results.
"""


class EvaluationIdentity(StrictConfig):
    """What the answers to one benchmark depend on, apart from the weights. The scorer does not: answers are raw.

    Attributes:
        benchmark: Digest of the questions, as :func:`question_digests` gives it.
        prompts: The prompt mode and the digest of all wordings.
        frames: Digest of how frames are chosen and resized.
        decoding: Sampler and its options, token limit, batch size and number of turns.
        engine: Versions, device, precision, CPU threads and attention to the prompt.
        sources: Digest of the sampler's code.
    """

    benchmark: str
    prompts: str
    frames: str
    decoding: str
    engine: str
    sources: str

    def of(self, weights: str) -> dict[str, str]:
        """The identity of one checkpoint's answers, for their manifest."""
        return {"weights": weights, **self.model_dump()}


def question_digests(
    study: StudyConfig, dataset: Dataset, content: str, development: tuple[Dataset, str] | None = None
) -> dict[str, str]:
    """A digest of all that each benchmark asks, by its name, the headline first.

    It covers the benchmark's questions with their videos, its own words for them and the size of its images; not its
    code, so that a changed scorer does not make answers obsolete.

    Args:
        study: The resolved study.
        dataset: The records of ``data.benchmark``.
        content: What :func:`~harness.data.contents.content_digest` gives for them.
        development: The development records, likewise, where the study has some.

    Raises:
        UserError: The questions of an additional benchmark cannot be read.
    """
    found = {}
    for name in study.evaluation.asked:
        records, asked = development if development and name == DEVELOPMENT else (dataset, content)
        benchmark = benchmark_of(study, name)
        questions = benchmark.questions()
        own: list[Any] = [benchmark.pixels(), *map(benchmark.words, (questions or records).records)]
        own += [asdict(words) for words in map(benchmark.wording, (questions or records).records) if words != OFFICIAL]
        digest = questions.digest if questions else asked
        found[name] = digest_of([digest, own]) if any(own) else digest
    return found


def evaluation_identities(study: StudyConfig, questions: Mapping[str, str]) -> dict[str, EvaluationIdentity]:
    """The identity of the answers to each benchmark of a study, as one method sees the study.

    Args:
        study: The study, or a method's own view of it.
        questions: As :func:`question_digests` gives them.
    """
    data, settings = study.data, study.evaluation
    turns = ", the answer in a second turn" if settings.two_turns else ""
    sampler, sampler_options = study.rollout.sampler, study.rollout.sampler_options
    sampling = f"{sampler} sampler{f' {json.dumps(sampler_options, sort_keys=True)}' if sampler_options else ''}"
    return {
        name: EvaluationIdentity(
            benchmark=digest,
            prompts=f"{study.prompt.evaluation}/{prompts_digest()}",
            frames=digest_of([DECODING, data.frames, data.min_pixels, data.max_pixels, data.stills_rate]),
            decoding=f"greedy, {sampling}, {settings.max_new_tokens} tokens, batch {settings.batch}{turns}",
            engine=f"transformers {version('transformers')}, torch {version('torch')}, {_computing(study)}, "
            f"{study.model.engine} prefix",
            sources=source_digest(registry.load("samplers", sampler)),
        )
        for name, digest in questions.items()
    }


def threads_of(study: StudyConfig) -> int | None:
    """CPU threads that a model is computed with: their number decides how sums are split, and so how they are rounded.

    None on a GPU, where the CPU only decodes videos and reads text, which threads do not change.
    """
    return None if torch.cuda.is_available() else study.runtime.threads or torch.get_num_threads()


def _computing(study: StudyConfig) -> str:
    """What decides the rounding of the same computation: device, precision and threads."""
    threads = threads_of(study)
    device = torch.device("cuda" if threads is None else "cpu")
    on = "" if threads is None else f" with {threads} threads"
    return f"{device.type}{on}, {choose_precision(study.model, device)}"


def training_identity(study: StudyConfig, method: str, algorithm: Method) -> dict[str, Any]:
    """What a method's weights depend on, apart from the model, the data and the seed.

    By resolved values: ``grpo`` and ``grpo:beta=0.0001`` are one cell.

    Args:
        study: The method's own view of the study.
        method: As the study names it.
        algorithm: The method with its hyper-parameters.
    """
    found: dict[str, Any] = {"versions": dict(algorithm.versions())} if isinstance(algorithm, GuestTrainer) else {}
    if algorithm.needs.rollouts and study.reward.reading == "scorer":
        benchmark = benchmark_of(study, study.evaluation.benchmark)
        rule = benchmark.scorer_named(study.evaluation.scorer)
        found["reading"] = {"scorer": rule, "source": source_digest(type(benchmark), answer_in)}
    return found | {
        "computing": _computing(study),
        "method": parse_variant(method).method,
        "hyper_parameters": algorithm.config.model_dump(mode="json"),
        "train": study.train.model_dump(mode="json"),
        "prompt": {"train": study.prompt.train},
        "reward": study.reward.model_dump(mode="json"),
        "rollout": study.rollout.model_dump(mode="json"),
        "budget": study.budget.model_dump(mode="json"),
        "sources": {
            "method": source_digest(type(algorithm)),
            "rewards": {name: source_digest(registry.load("rewards", name)) for name in study.reward.weights},
            "sampler": source_digest(registry.load("samplers", study.rollout.sampler)),
            "engine": source_digest(*TRAINING_RULES),
        },
    }
