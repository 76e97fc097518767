"""Answering a benchmark with one checkpoint: raw answers are stored once, and an interrupted evaluation resumes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import StrictBool, StrictInt, StrictStr

from harness.api.benchmark import Questions
from harness.api.sampler import Sampled, Sampler
from harness.config.evaluation import DEVELOPMENT
from harness.config.study import EvaluationSection
from harness.data.encode import EncodedPrompt, PromptEncoder
from harness.data.reader import Dataset
from harness.data.video.stills import StillImages
from harness.engine.policy import Policy
from harness.engine.sampler import make_sampler
from harness.errors import UserError
from harness.io import append_lines, digest_of, parse_json, read_lines_as, sha256_file, whole_lines, write_text
from harness.models.families import video_defaults
from harness.study.asked import DEFAULT_RULES, MANIFEST, SAMPLES, Asked, EvaluationManifest, digest_of_questions
from harness.study.scored import OWN_WORDS, SCORES, Rules, Scored, read_scores, scorer_of, write_scores
from harness.study.setup import Setup
from harness.vsibench.prompts import OFFICIAL, Wording, answer_in
from harness.vsibench.records import Record

SECOND_TURN_TOKENS = 16
"""Token limit of a second turn: VSI-Bench's own for an answer alone."""


@dataclass(frozen=True)
class Answered:
    """What is read of a line of the samples: the answer to one question, with the reasoning of a turn before it."""

    id: StrictInt | StrictStr
    answer: StrictStr
    truncated: StrictBool
    tokens: StrictInt
    prompt: StrictStr
    reasoning: StrictStr | None = None


@dataclass(frozen=True)
class EvaluationJob:
    """One benchmark for one checkpoint.

    Attributes:
        dataset: The questions.
        sampler: Answers batches of prompts.
        encoder: Turns a record into a prompt.
        mode: The prompt mode, for example ``official``.
        settings: Token limit, batch size, number of turns.
        identity: What the answers depend on (weights, versions); answers of another identity are not reused.
        folder: Where ``samples.jsonl`` and ``manifest.json`` go.
        progress: Called with (questions done, questions in all).
        words: A question's own words; None for those of the prompt mode.
        wording: The benchmark's own words around a question.
        benchmark: The registered name of the benchmark, for the manifest.
        options: Its options, likewise.
        source: Where the questions come from, likewise.
    """

    dataset: Dataset | Questions
    sampler: Sampler[Policy, EncodedPrompt]
    encoder: PromptEncoder
    mode: str
    settings: EvaluationSection
    identity: dict[str, str]
    folder: Path
    progress: Callable[[int, int], None]
    words: Callable[[Record], str | None] = lambda record: None
    wording: Callable[[Record], Wording] = lambda record: OFFICIAL
    benchmark: str = DEFAULT_RULES
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def asked(self) -> Asked:
        """What it asks, for the manifest."""
        records = self.dataset.records
        return Asked(
            benchmark=self.benchmark,
            options=dict(self.options),
            source=self.source,
            mode=self.mode,
            ids=tuple(record.key for record in records),
            questions=digest_of_questions(records),
        )


def evaluate(
    setup: Setup,
    name: str,
    identity: dict[str, str],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> float:
    """Answer a benchmark with the weights that the policy holds, resuming where it stopped; return the overall score.

    Args:
        setup: The model, the study and its questions.
        name: One of :attr:`~harness.config.sections.EvaluationSection.asked`.
        identity: As :class:`EvaluationJob` has it.
        folder: Likewise.
        progress: Likewise.

    Raises:
        UserError: A video cannot be used (the record is named), or the manifest cannot be read.
    """
    encoder, settings = setup.encoder, setup.study.evaluation
    options = settings.more.get(name, {})
    records, origin = setup.questions(name)
    rules = Rules.of(setup.study, name, records, identity["benchmark"])
    benchmark = rules.benchmark
    own, pixels = benchmark.questions(), benchmark.pixels()
    dataset, source = (own, own.source) if own else (records, origin)
    mode: str = setup.study.prompt.evaluation
    if pixels:
        config = setup.policy.base.config
        images = StillImages(video_defaults(config), *pixels)
        encoder = PromptEncoder(setup.policy.tokenizer, config.video_token_id, images, images.settings.merge_size)
    if rules.own_words:
        # A bare answer has no reasoning, so there is no second turn either.
        mode, settings = OWN_WORDS, settings.model_copy(update={"two_turns": False})
    sampler = make_sampler(setup.policy, setup.study.rollout, settings.batch)
    job = EvaluationJob(
        dataset,
        sampler,
        encoder,
        mode,
        settings,
        identity,
        folder,
        progress,
        benchmark.words,
        benchmark.wording,
        benchmark=settings.benchmark if name == DEVELOPMENT else name,
        options=options,
        source=source,
    )
    answer_benchmark(job)
    scorer = scorer_of(setup.study, name, benchmark)
    return score_evaluation(folder, rules, mode).by[scorer].points.figures.overall


def score_evaluation(folder: Path, rules: Rules, mode: str) -> Scored:
    """The scores of a complete evaluation; they are written unless these answers were scored by these rules before.

    Args:
        folder: The evaluation's.
        rules: The benchmark.
        mode: The prompt mode, which decides what part of an answer is scored.

    Raises:
        UserError: The answers are not what the evaluation wrote, or cannot be scored.
    """
    samples = EvaluationManifest.read(folder).samples or ""
    with suppress(UserError):  # missing, or edited
        if (known := read_scores(folder, samples)).rules == rules.digest:
            return known
    answers = {str(one.id): answer_in(one.answer, mode) for one in read_samples(folder)}
    scored = Scored(samples=samples, rules=rules.digest, by=rules.score(answers, folder))
    write_scores(folder, scored)
    return scored


def answer_benchmark(job: EvaluationJob) -> Path:
    """Answer every question greedily and append the raw answers to ``samples.jsonl``.

    Batches are fixed slices of the records in their order, and a batch is written in one synced append: a
    resumed evaluation computes exactly the batches of an uninterrupted one. Answers of another
    identity (other weights, wording, frames, versions), or that were changed after completion, are set aside and never
    reused.

    Returns:
        The samples file. ``manifest.json`` next to it is marked complete and has its digest.

    Raises:
        UserError: A video cannot be used (the record is named), or the manifest cannot be read.
    """
    samples, manifest = job.folder / SAMPLES, job.folder / MANIFEST
    records = job.dataset.records
    if not _is_of(job):
        _set_aside(job.folder)
    if manifest.is_file() and EvaluationManifest.read(job.folder).complete:
        job.progress(len(records), len(records))
        return samples
    begun = EvaluationManifest(identity=job.identity, n=len(records), asked=job.asked, complete=False)
    begun.write(job.folder)
    lines = _kept(samples, begun, job.settings.batch)
    write_text(samples, "".join(line + "\n" for line in lines))
    for start in range(len(lines), len(records), job.settings.batch):
        new: list[str] = []
        for answer in _answer(job, records[start : start + job.settings.batch]):
            new.append(_linked(answer, (new or lines)[-1] if new or lines else _head(begun)))
        append_lines(samples, new)
        lines += new
        job.progress(len(lines), len(records))
    begun.model_copy(update={"complete": True, "samples": sha256_file(samples)}).write(job.folder)
    return samples


def _head(manifest: EvaluationManifest) -> str:
    """What the first answer is linked to: what the answers depend on and what is asked."""
    return digest_of(manifest.model_dump(mode="json", include={"identity", "asked"}))


def _linked(answer: Mapping[str, Any], before: str) -> str:
    """A line of the samples: an answer and a digest of it and of the line before."""
    return json.dumps({**answer, "link": digest_of([before, answer])[:16]}, ensure_ascii=False)


def _kept(samples: Path, manifest: EvaluationManifest, batch: int) -> list[str]:
    """The lines of an interrupted evaluation that are as they were written, in whole batches."""
    kept, before = list[str](), _head(manifest)
    for line in whole_lines(samples):
        try:
            answer = parse_json(line)
            fits = isinstance(answer, dict) and answer.pop("link", None) and _linked(answer, before) == line
        except ValueError:
            fits = False
        if not fits:
            logging.getLogger(__name__).warning(
                "%s, line %d: not as it was written; the questions from there on are answered again",
                samples,
                len(kept) + 1,
            )
            break
        kept.append(line)
        before = line
    return kept[: min(len(kept), manifest.n) // batch * batch]


def _is_of(job: EvaluationJob) -> bool:
    """Whether what the folder holds, if anything, is the beginning or the whole of this very evaluation."""
    samples, manifest = job.folder / SAMPLES, job.folder / MANIFEST
    if not manifest.is_file():
        return not samples.exists()
    try:
        found = EvaluationManifest.read(job.folder)
    except UserError:  # damaged, or edited
        return False
    return found.identity == job.identity and (not found.complete or found.is_of(samples))


def _answer(job: EvaluationJob, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    prompts = [_prompt(job, record) for record in records]
    answers = _greedy(job, prompts, job.settings.max_new_tokens)
    lines: list[dict[str, Any]] = [
        {
            "id": record.id,
            "answer": answer.text,
            "truncated": answer.truncated,
            "tokens": len(answer.tokens),
            "prompt": prompt.id,
        }
        for record, prompt, answer in zip(records, prompts, answers, strict=True)
    ]
    if job.settings.two_turns:
        said = zip(prompts, (one.text for one in answers), map(job.wording, records), strict=True)
        asked = [job.encoder.second_turn(*one) for one in said]
        for line, final in zip(lines, _greedy(job, asked, SECOND_TURN_TOKENS), strict=True):
            line |= {"reasoning": line["answer"], "reasoning_truncated": line["truncated"]}
            line |= {"answer": final.text, "truncated": final.truncated}
            line["tokens"] += len(final.tokens)
    yield from lines


def _greedy(job: EvaluationJob, prompts: Sequence[EncodedPrompt], limit: int) -> list[Sampled]:
    return [one for (one,) in job.sampler.sample(prompts, 1, temperature=0.0, max_new_tokens=limit, seed=0)]


def _prompt(job: EvaluationJob, record: Record) -> EncodedPrompt:
    try:
        video, words = job.dataset.video_path(record), job.words(record)
        return job.encoder.encode(record, job.mode, video, words=words, wording=job.wording(record))
    except UserError as error:
        raise UserError(f"benchmark record {record.key} of {job.dataset.source}: {error}") from error


def read_samples(folder: Path) -> list[Answered]:
    """The raw answers of a complete evaluation.

    Raises:
        UserError: They are not what the evaluation wrote.
    """
    fix = f"To evaluate again, delete {folder.parent.parent / 'status.json'} and run the same command"
    if not EvaluationManifest.read(folder).is_of(folder / SAMPLES):
        raise UserError(f"`{folder / SAMPLES}`: its content is not what the evaluation wrote (digest differs). {fix}")
    return read_lines_as(Answered, folder / SAMPLES, fix)


def _set_aside(folder: Path) -> None:
    """Keep answers of another identity in a folder with a free name: nothing written is lost."""
    number, place = 1, folder.absolute()
    while os.path.lexists(aside := place.with_name(f"{place.name}.old{number}")):
        number += 1
    aside.mkdir()
    for name in (SAMPLES, SCORES, MANIFEST):
        if (folder / name).exists():
            (folder / name).rename(aside / name)
