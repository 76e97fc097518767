"""Answers made elsewhere: our lines, lmms-eval's logs, and every way in which two sets may not fit."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.config.study import ReportSection
from harness.data.reader import Dataset
from harness.errors import UserError
from harness.io import sha256_file
from harness.study.asked import SAMPLES, Asked, EvaluationManifest, digest_of_questions
from harness.vsibench.records import Record
from harness.vsibench.types import QUESTION_TYPES
from reports.answerfiles import RawAnswer, read_answers
from reports.benchmarks.vsibench import VSIBench
from reports.samples import parse_sources, read_file, results_from, score_file
from reports.tables import build_tables

OPTIONS = ("A. w", "B. x", "C. y", "D. z")


def benchmark(rooms: int = 6) -> Dataset:
    records = []
    for i in range(rooms * len(QUESTION_TYPES)):
        kind = QUESTION_TYPES[i % len(QUESTION_TYPES)]
        numeric = i % len(QUESTION_TYPES) < 4
        records.append(
            Record(
                id=100 + i,
                dataset="scannet",
                scene_name=f"scene{i // len(QUESTION_TYPES):04d}_00",
                question_type=kind,
                question=f"Question number {i}?",
                ground_truth=str(2 + i % 7) if numeric else "ABCD"[i % 4],
                options=None if numeric else OPTIONS,
            )
        )
    return Dataset(Path("bench"), "test", tuple(records))


BENCH = benchmark()


def own(path: Path, wrong: int | None, data: Dataset = BENCH, **more: Any) -> Path:
    """Our own lines; every ``wrong``-th answer is wrong."""
    lines = []
    for i, record in enumerate(data.records):
        numeric = record.is_numeric
        answer = ("99" if numeric else "E") if wrong and i % wrong == 0 else record.ground_truth
        lines.append(json.dumps({"id": record.id, "answer": answer} | more))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def lmms(path: Path, version: str, data: Dataset = BENCH) -> Path:
    """One line as lmms-eval's versions write it; the first answer is wrong."""
    lines = []
    for row, record in enumerate(data.records):
        answer = "99" if row == 0 else record.ground_truth
        entry: dict[str, Any] = {"doc_id": row, "target": record.ground_truth, "doc_hash": "h"}
        entry["input"] = f"These are frames of a video.\n{record.question}\nAnswer"
        document = json.loads(record.model_dump_json()) | {"prediction": answer}
        if version == "0.2":  # the document is in the metric, the responses are nested
            entry |= {"filtered_resps": [answer], "vsibench_score": document}
        elif version == "0.7":
            entry |= {"resps": [[f"<think>2</think>{answer}"]], "filtered_resps": [answer], "token_counts": [None]}
            entry |= {"vsibench_overall": document, "route_planning_accuracy": document}
        elif version == "nested":
            entry |= {"resps": [[answer]], "doc": document}
        else:  # bare: only the row is known
            entry |= {"filtered_resps": [[answer]]}
        lines.append(json.dumps(entry))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("version", ["0.2", "0.7", "nested", "bare"])
def test_every_form_of_lmms_evals_log_is_read(version: str, tmp_path: Path) -> None:
    found = read_answers(lmms(tmp_path / "log.jsonl", version), BENCH.records)
    assert found["100"] == RawAnswer("99")  # what lmms-eval scored, without the reasoning
    assert [found[r.key].text for r in BENCH.records[1:]] == [r.ground_truth for r in BENCH.records[1:]]
    official = score_file(tmp_path / "log.jsonl", BENCH.records, VSIBench(), ["official"])["official"]
    assert official["tasks"]["route_planning"] == 100 and official["tasks"]["object_counting"] == pytest.approx(500 / 6)


def test_shuffled_or_foreign_logs_are_refused(tmp_path: Path) -> None:
    shuffled = Dataset(BENCH.root, "test", tuple(reversed(BENCH.records)))
    with pytest.raises(UserError, match=r"log.jsonl:1: row `doc_id` 0 .*LMMS_EVAL_SHUFFLE_DOCS"):
        read_answers(lmms(tmp_path / "log.jsonl", "bare", shuffled), BENCH.records)
    # Where the document is logged, the order does not matter.
    assert len(read_answers(lmms(tmp_path / "log.jsonl", "0.2", shuffled), BENCH.records)) == len(BENCH.records)
    changed = [r.model_copy(update={"ground_truth": "7.5"}) if r.is_numeric else r for r in BENCH.records]
    with pytest.raises(UserError, match=r"ground truth of record 100 is '7.5', not '2'"):
        read_answers(lmms(tmp_path / "log.jsonl", "0.2"), changed)
    same = [r.model_copy(update={"ground_truth": f"{r.ground_truth}.0"}) if r.is_numeric else r for r in BENCH.records]
    assert read_answers(tmp_path / "log.jsonl", same)  # 4 and 4.0 are one truth


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"doc_id": 0, "filtered_resps": ["1", "2"]}, "2 responses to one question"),
        ({"doc_id": 0, "filtered_resps": []}, "0 responses to one question"),
        ({"doc_id": 600, "filtered_resps": ["1"]}, "`doc_id` 600 is no row of the benchmark's 60 records"),
        ({"filtered_resps": ["1"]}, "`doc_id` None is no row"),
        ({"doc_id": True, "resps": ["1"]}, "`doc_id` True is no row"),
    ],
)
def test_bad_log_lines_are_named(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(entry) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="log.jsonl:1: .*" + message):
        read_answers(path, BENCH.records)


def test_sources_are_named_by_file_or_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl", "lr=1.jsonl"):
        Path(name).touch()
    found = parse_sources(["a.jsonl", "big model=b.jsonl", "x@2=a.jsonl", "x@3=b.jsonl", "lr=1.jsonl"])
    assert [(s.name, s.seed) for s in found] == [("a", 0), ("big model", 0), ("x", 2), ("x", 3), ("lr=1", 0)]
    for texts, message in (
        (["c.jsonl"], "no such file"),
        (["n=c.jsonl"], "no such file: c.jsonl"),
        (["=a.jsonl"], "the name is empty"),
        (["n=a.jsonl", "n=b.jsonl"], "2 files are n, seed 0.*NAME@SEED=FILE"),
    ):
        with pytest.raises(UserError, match=message):
            parse_sources(texts)


def results(texts: list[str], **options: Any):
    return results_from(texts, BENCH, VSIBench(), settings=ReportSection(), **options)


def test_files_become_methods_with_seeds_and_a_base(tmp_path: Path) -> None:
    texts = [f"new@{seed}={own(tmp_path / f'n{seed}.jsonl', 5 + seed)}" for seed in range(3)]
    texts += [f"old={own(tmp_path / 'old.jsonl', 2)}", f"start={own(tmp_path / 's.jsonl', 2)}"]
    found = results(texts, base="start")
    assert found.labels == {"base": "start (base)", "new": "new", "old": "old"}
    assert found.planned == {"base": 1, "new": 3, "old": 1} and not found.footnotes
    assert "truncated" not in found.answers
    tables = build_tables(found)
    text = tables.scores.to_markdown()
    assert "start (base)" in text and "Constant answer, best on this benchmark" in text
    claims = {(c.a, c.b): c.claim for c in tables.contrasts}
    assert claims == {("base", "new"): "methods", ("base", "old"): "checkpoints", ("new", "old"): "checkpoints"}
    with pytest.raises(UserError, match="did you mean start"):
        results(texts, base="strat")


def test_a_single_file_gives_scores_and_no_pairs(tmp_path: Path) -> None:
    tables = build_tables(results([str(own(tmp_path / "only.jsonl", 3, truncated=True))]))
    assert tables.pairs is None and tables.contrasts == [] and tables.verdicts == []
    assert "100.0" in tables.scores.to_markdown()  # the share cut off is known from the file


def test_files_with_other_questions_are_refused_with_the_difference(tmp_path: Path) -> None:
    first, second = own(tmp_path / "a.jsonl", 3), own(tmp_path / "b.jsonl", 3)
    kept = [line for line in second.read_text().splitlines() if json.loads(line)["id"] not in range(103, 112)]
    second.write_text("\n".join(kept) + "\n")
    with pytest.raises(UserError, match="answer different questions") as error:
        results([str(first), str(second)])
    assert "a.jsonl answers 9: 103, 104, 105, 106, 107 and 4 more" in str(error.value)
    second.write_text(json.dumps({"id": "x1", "answer": "4"}) + "\n")
    with pytest.raises(UserError, match=r"b.jsonl: 1 answers are for ids that the benchmark does not have: x1"):
        results([str(first), str(second)])


def test_a_shared_subset_is_compared_and_said_to_be_one(tmp_path: Path) -> None:
    half = Dataset(BENCH.root, "test", BENCH.records[:30])
    texts = [str(own(tmp_path / "a.jsonl", 3, half)), str(own(tmp_path / "b.jsonl", 4, half))]
    found = results(texts)
    assert len(found.records) == 30 and len(found.answers) == 60
    assert "Only the 30 of the benchmark's 60 questions" in build_tables(found).scores.to_markdown()


def evaluation(folder: Path, data: Dataset, mode: str = "official", complete: bool = True, **more: Any) -> Path:
    """Answers in the folder of an evaluation that asked ``data``; every third is wrong."""
    folder.mkdir()
    path = own(folder / SAMPLES, 3, data)
    ids = tuple(record.key for record in data.records)
    asked = Asked(mode=mode, ids=ids, questions=digest_of_questions(data.records), **more)
    identity = {"weights": folder.name, "frames": "f", "prompts": mode}
    digest = sha256_file(path) if complete else None
    manifest = EvaluationManifest(identity=identity, n=len(ids), asked=asked, complete=complete, samples=digest)
    manifest.write(folder)
    return path


HALF = Dataset(BENCH.root, "test", BENCH.records[:30])


def test_a_question_that_was_not_asked_is_not_wrong(tmp_path: Path) -> None:
    alone = score_file(own(tmp_path / "own.jsonl", 3, HALF), HALF.records, VSIBench(), ["official"])["official"]
    told = score_file(evaluation(tmp_path / "e", HALF), BENCH.records, VSIBench(), ["official"])["official"]
    assert told == alone | {"of": 60}
    # Nothing says whether the questions without an answer were asked: both scores are given.
    unknown = score_file(tmp_path / "own.jsonl", BENCH.records, VSIBench(), ["official"])["official"]
    # Each type has three answered questions of six.
    assert unknown == alone | {"of": 60, "if_all_asked": pytest.approx(alone["overall"] / 2)}


def test_what_was_asked_is_checked_against_the_benchmark(tmp_path: Path) -> None:
    path = evaluation(tmp_path / "e", HALF)
    with pytest.raises(UserError, match=r"lacks 10 of the 30 questions that were asked \(120, .*--benchmark"):
        read_file(path, [*HALF.records[:20], *BENCH.records[30:]])
    other = [record.model_copy(update={"question": "Another?"}) for record in BENCH.records]
    with pytest.raises(UserError, match="other questions were asked than the benchmark has"):
        read_file(path, other)
    with pytest.raises(UserError, match="evaluation of 30 questions is not complete; run the same command again"):
        read_file(evaluation(tmp_path / "part", HALF, complete=False), BENCH.records)
    path.write_text(path.read_text().replace("99", "98"))
    with pytest.raises(UserError, match="not what the evaluation wrote"):
        read_file(path, BENCH.records)
    path.rename(tmp_path / "edited.jsonl")
    assert not read_file(tmp_path / "edited.jsonl", BENCH.records).known


def test_two_evaluations_of_other_questions_are_not_compared(tmp_path: Path) -> None:
    texts = [f"a={evaluation(tmp_path / 'a', HALF)}", f"b={evaluation(tmp_path / 'b', BENCH)}"]
    with pytest.raises(UserError, match="answer different questions and must not be compared"):
        results(texts)
    found = results([texts[0], f"b={own(tmp_path / 'b.jsonl', 3, HALF)}"])
    assert "Only the 30 of the benchmark's 60 questions that were asked" in build_tables(found).scores.to_markdown()


def test_rows_that_were_not_evaluated_alike_say_so(tmp_path: Path) -> None:
    alike = [f"{name}={evaluation(tmp_path / name, HALF)}" for name in ("a", "b")]
    assert len(results(alike).footnotes) == 1  # that these are 30 of 60 questions
    other = results([*alike, f"c={evaluation(tmp_path / 'c', HALF, 'vanilla')}"])
    assert "differ in prompts" in build_tables(other).scores.to_markdown()


def test_the_part_of_an_answer_that_is_scored_follows_the_evaluations_prompt(tmp_path: Path) -> None:
    tagged = [
        json.dumps({"id": r.id, "answer": f"<think>7</think><answer>{r.ground_truth}</answer>"}) for r in BENCH.records
    ]
    for mode, overall in (("think", 100), ("official", 0)):
        path = evaluation(tmp_path / mode, BENCH, mode)
        path.write_text("\n".join(tagged) + "\n")
        manifest = EvaluationManifest.read(path.parent)
        manifest.model_copy(update={"samples": sha256_file(path)}).write(path.parent)
        assert score_file(path, BENCH.records, VSIBench(), ["official"])["official"]["overall"] == overall
    assert results([str(tmp_path / "think" / SAMPLES)]).answers["score"].mean() == 1


@pytest.mark.parametrize("filtered", ["", [""], [[""]], [], [None]])
def test_an_empty_filtered_answer_is_an_answer_and_not_the_unfiltered_one(filtered: Any, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    entry = {"doc_id": 0, "target": BENCH.records[0].ground_truth, "resps": [[BENCH.records[0].ground_truth]]}
    path.write_text(json.dumps(entry | {"filtered_resps": filtered}) + "\n")
    assert read_answers(path, BENCH.records) == {"100": RawAnswer("")}
    assert score_file(path, BENCH.records[:1], VSIBench(), ["official"])["official"]["overall"] == 0
    path.write_text(json.dumps(entry) + "\n")  # no filter: lmms-eval scored the response itself
    assert read_answers(path, BENCH.records) == {"100": RawAnswer(BENCH.records[0].ground_truth)}


HOSTILE = '<script>alert(1)</script> \\input{/etc/passwd} $x^2$ | `rm` \x1b[31m\x00 "q" \u202e 4'


def test_hostile_names_and_answers_stay_text(tmp_path: Path) -> None:
    paths = [own(tmp_path / "a.jsonl", 3), own(tmp_path / "b.jsonl", 4)]
    lines = paths[0].read_text().splitlines()
    lines[0] = json.dumps({"id": 100, "answer": HOSTILE})
    paths[0].write_text("\n".join(lines) + "\n")
    name = "=1+1<b>|\\evil{}"
    found = results([f"{name[1:]}={paths[0]}", f"ok={paths[1]}"])
    tables = build_tables(found)
    assert tables.pairs is not None
    for table in (tables.scores, tables.pairs, *tables.sensitivity):
        assert table is not None
        assert "<b>" not in table.to_markdown() and "\\evil{}" not in table.to_latex()
    assert found.answers.set_index("question").loc["100", "answer"].iloc[0] == HOSTILE


def test_half_a_surrogate_pair_is_replaced_in_answers_and_told_in_ids(tmp_path: Path) -> None:
    """JSON may hold what no UTF-8 file or terminal can."""
    path, log = own(tmp_path / "a.jsonl", 3), lmms(tmp_path / "b.jsonl", "nested")
    for file, key, broken in ((path, "answer", "\ud800 4 \U0001f600"), (log, "resps", [["\ud800 4 \U0001f600"]])):
        lines = file.read_text().splitlines()
        lines[0] = json.dumps(json.loads(lines[0]) | {key: broken})
        file.write_text("\n".join(lines) + "\n")
    found = results([str(path), str(log)])
    assert set(found.answers.set_index("question").loc["100", "answer"]) == {"\ufffd 4 \U0001f600"}
    assert build_tables(found).pairs is not None
    path.write_text(json.dumps({"id": "\udcff", "answer": "4"}) + "\n")
    with pytest.raises(UserError, match="ids that the benchmark does not have: \ufffd"):
        results([str(path), str(log)])


@pytest.mark.slow
def test_ten_megabytes_in_one_answer_are_scored_in_seconds(tmp_path: Path) -> None:
    path = own(tmp_path / "big.jsonl", 3)
    lines = path.read_text().splitlines()
    lines[0] = json.dumps({"id": 100, "answer": "a word " * 1_500_000})
    path.write_text("\n".join(lines) + "\n")
    before = time.process_time()
    found = results([str(path), f"b={own(tmp_path / 'b.jsonl', 3)}"])
    tables = build_tables(found)
    assert time.process_time() - before < 20
    assert len(tables.scores.to_markdown()) < 20_000  # raw answers are not in the tables


def test_a_folder_or_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"b\.jsonl.*UTF-8"):
        results([str(path)])
    path.write_text("\n\n")
    with pytest.raises(UserError, match="no answers; a line must look like"):
        results([str(path)])


def test_scorers_stand_side_by_side(tmp_path: Path) -> None:
    good = own(tmp_path / "good.jsonl", None)
    lines = [json.loads(line) for line in good.read_text().splitlines()]
    worded = [line | {"answer": f"The answer is {line['answer']}"} for line in lines]
    other = tmp_path / "worded.jsonl"
    other.write_text("".join(json.dumps(line) + "\n" for line in worded))
    tables = build_tables(results([str(good), str(other)]))
    rows = tables.sensitivity[0].to_frame().set_index("method")
    # By hand: words before a number cost the official rule everything, lmms-eval the letters, tolerant nothing.
    assert rows.loc["good", ["overall_official", "overall_lmms-eval", "overall_tolerant"]].tolist() == [100, 100, 100]
    assert rows.loc["worded", ["overall_official", "overall_lmms-eval", "overall_tolerant"]].tolist() == [0, 50, 100]
    assert rows.loc["worded", "gap"] == 100 and rows.loc["worded", "unparsable_official"] == 100
    assert "All rules rank the methods in the same order" in tables.sensitivity[0].caption
    differences = tables.sensitivity[1].to_frame().set_index("scorer")
    assert differences["difference"].to_dict() == {"official": -100, "lmms-eval": -50, "tolerant": 0}
    assert differences["verdict"].to_dict() == {"official": "worse", "lmms-eval": "worse", "tolerant": "undecided"}
    said = "Other scorers change 1 verdict: by “tolerant” worded against good is undecided"
    assert said in tables.sensitivity[1].caption and said in " ".join(tables.common)


def test_differences_by_scorer_are_those_of_a_report_with_that_scorer(tmp_path: Path) -> None:
    """Intervals and p-values by each rule equal those of the headline in a report whose headline is that rule."""
    paths = []
    for name, share in (("a", 0.3), ("b", 0.6), ("c", 0.8)):
        rng = np.random.default_rng(len(paths))
        lines = [json.loads(line) for line in own(tmp_path / f"{name}.jsonl", None).read_text().splitlines()]
        for line in lines:
            if rng.random() > share:
                line["answer"] = f"The answer is {line['answer']}" if rng.random() < 0.5 else "none"
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        paths.append(str(tmp_path / f"{name}.jsonl"))
    table = build_tables(results(paths)).sensitivity[1].to_frame()
    shown = ["b", "a", "difference", "ci_low", "ci_high", "p", "p_holm"]
    for scorer in ("official", "lmms-eval", "tolerant"):
        headline = [c for c in build_tables(results(paths, scorer=scorer)).contrasts if c.task == "overall"]
        mine = table.loc[table["scorer"] == scorer, shown]
        expected = pd.DataFrame(headline)[shown]
        pd.testing.assert_frame_equal(mine.reset_index(drop=True), expected, check_dtype=False, rtol=1e-12)
    assert table["difference"].nunique() > 6


def test_tables_do_not_depend_on_the_order_of_lines(tmp_path: Path) -> None:
    texts = [f"a={own(tmp_path / 'a.jsonl', 3)}", f"b={own(tmp_path / 'b.jsonl', 4)}"]
    first = build_tables(results(texts))
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    (tmp_path / "a.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    again = build_tables(results(texts))
    assert first.scores.to_json() == again.scores.to_json()
    pd.testing.assert_frame_equal(pd.DataFrame(first.contrasts), pd.DataFrame(again.contrasts), check_exact=True)
