"""Answering a benchmark with one checkpoint: raw answers are stored once, and an interrupted evaluation goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.benchmark import EvaluationJob
from harness.data.records import Record
from harness.io import append_lines, read_json, whole_lines, write_json, write_text
from harness.rollout.sampler import TransformersSampler

SAMPLES = "samples.jsonl"
MANIFEST = "manifest.json"


def answer_benchmark(job: EvaluationJob) -> Path:
    """Answer every question greedily and append the raw answers to ``samples.jsonl``.

    Batches are fixed slices of the records in their order, and a batch is written in one synced append: an
    evaluation that goes on computes exactly the batches that an uninterrupted one would have. Answers of another
    identity (other weights, wording, frames, versions) are set aside, never reused.

    Returns:
        The samples file. ``manifest.json`` beside it is marked complete.
    """
    samples, manifest = job.folder / SAMPLES, job.folder / MANIFEST
    records = job.dataset.records
    if manifest.is_file():
        found = read_json(manifest)
        if found["identity"] == job.identity and found["complete"]:
            job.progress(len(records), len(records))
            return samples
        if found["identity"] != job.identity:
            _set_aside(job.folder)
    write_json(manifest, {"identity": job.identity, "n": len(records), "complete": False})
    size = job.settings.batch
    done = len(whole_lines(samples)) // size * size
    write_text(samples, "".join(line + "\n" for line in whole_lines(samples)[:done]))
    sampler = TransformersSampler(job.policy, size)
    for start in range(done, len(records), size):
        append_lines(samples, list(_answer(job, sampler, records[start : start + size])))
        job.progress(min(start + size, len(records)), len(records))
    write_json(manifest, {"identity": job.identity, "n": len(records), "complete": True})
    return samples


def _answer(job: EvaluationJob, sampler: TransformersSampler, records: Sequence[Record]) -> Iterator[str]:
    prompts = [job.encoder.encode(record, job.mode, job.dataset.video_path(record)) for record in records]
    answers = sampler.sample(prompts, 1, temperature=0.0, max_new_tokens=job.settings.max_new_tokens, seed=0)
    for record, prompt, (answer,) in zip(records, prompts, answers, strict=True):
        line = {
            "id": record.id,
            "answer": answer.text,
            "truncated": answer.truncated,
            "tokens": len(answer.tokens),
            "prompt": prompt.id,
        }
        yield json.dumps(line, ensure_ascii=False)


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The raw answers of a complete evaluation."""
    return [json.loads(line) for line in whole_lines(folder / SAMPLES)]


def _set_aside(folder: Path) -> None:
    """Keep answers of another identity under a free name: nothing written is lost."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    folder.rename(aside)
