"""Answering a benchmark: exact, resumable, never mixed with answers of something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_kit import Kit, Stop, make_kit

from harness.config.study import EvaluationSection
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.errors import UserError
from harness.io import digest_of, read_json, sha256_file
from harness.study.asked import EvaluationManifest
from harness.study.evaluation import EvaluationJob, answer_benchmark, read_samples

IDENTITY = {"weights": "w" * 64, "frames": "f" * 64}


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


@pytest.fixture(scope="module")
def policy(kit: Kit) -> Policy:
    return kit.policy()


@pytest.fixture
def job(kit: Kit, policy: Policy, tmp_path: Path) -> EvaluationJob:
    return EvaluationJob(
        kit.data,
        TransformersSampler(policy, 4),
        kit.encoder(policy),
        "official",
        EvaluationSection(max_new_tokens=5, batch=4),
        IDENTITY,
        tmp_path / "vsibench" / "step-000007",
        lambda done, total: None,
    )


@pytest.fixture(scope="module")
def whole(kit: Kit, policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The samples of an uninterrupted evaluation."""
    place = tmp_path_factory.mktemp("whole") / "step-000007"
    settings = EvaluationSection(max_new_tokens=5, batch=4)
    sampler, encoder = TransformersSampler(policy, 4), kit.encoder(policy)
    job = EvaluationJob(kit.data, sampler, encoder, "official", settings, IDENTITY, place, lambda done, total: None)
    return answer_benchmark(job).read_bytes()


def test_answers_are_those_of_generate_one_by_one(kit: Kit, policy: Policy, job: EvaluationJob, whole: bytes) -> None:
    stored = [json.loads(line) for line in whole.decode().splitlines()]
    assert [line["id"] for line in stored] == [record.id for record in kit.data.records]
    encoder = kit.encoder(policy)
    for line, record in zip(stored, kit.data.records, strict=True):
        prompt = encoder.encode(record, "official", kit.data.video_path(record))
        with torch.no_grad():
            output = policy.model.generate(  # type: ignore[operator]
                input_ids=prompt.input_ids[None],
                attention_mask=torch.ones_like(prompt.input_ids)[None],
                mm_token_type_ids=prompt.mm_token_type_ids[None],
                pixel_values_videos=prompt.video.pixel_values,
                video_grid_thw=prompt.video.grid_thw,
                max_new_tokens=5,
                do_sample=False,
                suppress_tokens=list(policy.banned_tokens),
            )
        answer = output[0, len(prompt.input_ids) :]
        assert line["answer"] == policy.tokenizer.decode(answer, skip_special_tokens=True)
        assert line["tokens"] == len(answer) and line["truncated"] == (int(answer[-1]) not in policy.end_tokens)
        assert line["prompt"] == prompt.id


def test_the_second_turn_asks_for_the_answer_alone_and_both_raw_answers_are_kept(
    kit: Kit, policy: Policy, job: EvaluationJob
) -> None:
    two = replace(job, mode="cot", settings=EvaluationSection(max_new_tokens=5, batch=4, two_turns=True))
    stored = [json.loads(line) for line in answer_benchmark(two).read_text().splitlines()]
    single = answer_benchmark(replace(two, settings=job.settings, folder=job.folder.with_name("once")))
    once = [json.loads(line) for line in single.read_text().splitlines()]
    encoder, sampler = kit.encoder(policy), TransformersSampler(policy, 1)
    for line, alone, record in zip(stored, once, kit.data.records, strict=True):
        assert line["reasoning"] == alone["answer"] and line["reasoning_truncated"] == alone["truncated"]
        assert line["prompt"] == alone["prompt"]
        asked = encoder.second_turn(encoder.encode(record, "cot", kit.data.video_path(record)), line["reasoning"])
        ((final,),) = sampler.sample([asked], 1, temperature=0.0, max_new_tokens=16, seed=0)
        assert line["answer"] == final.text and line["truncated"] == final.truncated
        assert line["tokens"] == alone["tokens"] + len(final.tokens)


def test_the_manifest_says_what_the_answers_depend_on(kit: Kit, job: EvaluationJob) -> None:
    seen: list[tuple[int, int]] = []
    samples = answer_benchmark(replace(job, progress=lambda done, total: seen.append((done, total))))
    assert seen == [(4, 9), (8, 9), (9, 9)]
    manifest = read_json(job.folder / "manifest.json")
    asked = manifest.pop("asked")
    assert asked["ids"] == [record.key for record in kit.data.records]
    assert (asked["benchmark"], asked["mode"]) == ("vsibench", "official")
    assert manifest.pop("seal") == digest_of(manifest | {"asked": asked})
    assert manifest == {
        "identity": IDENTITY,
        "n": 9,
        "complete": True,
        "samples": sha256_file(samples),
    }
    assert [one.id for one in read_samples(job.folder)] == [record.id for record in kit.data.records]


def test_a_complete_evaluation_is_not_repeated(job: EvaluationJob, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = answer_benchmark(job)
    before = samples.stat().st_mtime_ns
    monkeypatch.setattr(Policy, "prompt_states", None)  # any answer would fail
    seen: list[tuple[int, int]] = []
    answer_benchmark(replace(job, progress=lambda done, total: seen.append((done, total))))
    assert samples.stat().st_mtime_ns == before and seen == [(9, 9)]


@pytest.mark.parametrize("lines", [0, 2, 4, 6, 8, 9])
@pytest.mark.parametrize("torn", [0, 11])
def test_an_interrupted_evaluation_ends_in_the_same_bytes(
    job: EvaluationJob, whole: bytes, monkeypatch: pytest.MonkeyPatch, lines: int, torn: int
) -> None:
    """Cut between lines and inside one, on the border of a batch of four and inside one."""

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        answer_benchmark(replace(job, progress=stop))
    assert read_json(job.folder / "manifest.json")["complete"] is False
    rows = whole.splitlines(keepends=True)
    torn_row = rows[lines][:torn] if lines < len(rows) else b""
    (job.folder / "samples.jsonl").write_bytes(b"".join(rows[:lines]) + torn_row)
    answered: list[int] = []
    encode = type(job.encoder).encode

    def count(self: Any, record: Any, *rest: Any, **more: Any) -> Any:
        answered.append(record.id)
        return encode(self, record, *rest, **more)

    monkeypatch.setattr(type(job.encoder), "encode", count)
    samples = answer_benchmark(job)
    assert samples.read_bytes() == whole
    assert len(answered) == 9 - lines // 4 * 4
    assert read_json(job.folder / "manifest.json")["complete"] is True


@pytest.mark.parametrize("complete", [True, False])
def test_answers_of_something_else_are_set_aside(job: EvaluationJob, whole: bytes, complete: bool) -> None:
    answer_benchmark(job)
    (job.folder / "notes.md").write_text("mine")
    if not complete:
        EvaluationManifest.read(job.folder).model_copy(update={"complete": False}).write(job.folder)
    other = replace(job, identity={**IDENTITY, "weights": "x" * 64}, settings=EvaluationSection(max_new_tokens=2))
    samples = answer_benchmark(other)
    assert samples.read_bytes() != whole and read_json(job.folder / "manifest.json")["identity"] == other.identity
    answer_benchmark(job)
    assert (job.folder / "notes.md").read_text() == "mine"
    names = sorted(path.name for path in job.folder.parent.iterdir())
    assert names == ["step-000007", "step-000007.old1", "step-000007.old2"]
    assert (job.folder.parent / "step-000007.old1" / "samples.jsonl").read_bytes() == whole == samples.read_bytes()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no manifest"])
def test_answers_that_were_changed_are_set_aside_and_not_scored(job: EvaluationJob, whole: bytes, damage: str) -> None:
    samples = answer_benchmark(job)
    if damage == "cut":
        samples.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    elif damage == "changed":
        samples.write_bytes(whole.replace(b'"answer": "', b'"answer": "4', 1))
    elif damage == "gone":
        samples.unlink()
    else:
        (job.folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"samples\.jsonl|manifest\.json"):
        read_samples(job.folder)
    assert answer_benchmark(job).read_bytes() == whole
    assert len(read_samples(job.folder)) == 9
    assert (job.folder.parent / "step-000007.old1").is_dir()


def test_a_broken_video_names_the_record(kit: Kit, job: EvaluationJob, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "broken"
    shutil.copytree(kit.data.root, root)
    record = kit.data.records[4]
    data = replace(kit.data, root=root)
    path = data.video_path(record)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"benchmark record 3 of .*broken \(test\): .*{path.name}.*read completely"):
        answer_benchmark(replace(job, dataset=data))


def test_a_model_that_gives_no_numbers_is_an_error_and_not_an_answer(kit: Kit, job: EvaluationJob) -> None:
    policy = kit.policy()
    with torch.no_grad():
        policy.language_model.norm.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        answer_benchmark(replace(job, sampler=TransformersSampler(policy, 4)))
