"""Answers made elsewhere, read from files instead of a run directory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from harness.api.benchmark import Benchmark, QuestionScore, check_ids
from harness.config.study import BASE, ReportSection
from harness.data.reader import Dataset
from harness.errors import UserError, first_few, unknown_name
from harness.study.asked import EvaluationManifest, read_asked
from harness.study.description import points_by_scorer
from harness.study.scored import Points
from harness.vsibench.prompts import answer_in
from harness.vsibench.records import Record
from reports.answerfiles import RawAnswer, read_answers
from reports.collect import scored_by
from reports.results import Results
from reports.settled import settled
from reports.statistics import layout_of, refuse_repeats
from reports.text import listed

_NAMED = re.compile(r"(?P<name>[^=]*?)(@(?P<seed>\d+))?=(?P<file>.+)", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """One run's answers: a method's name, the seed of the run, the file."""

    name: str
    seed: int
    path: Path


def parse_sources(texts: Sequence[str]) -> list[Source]:
    """Read ``FILE``, ``NAME=FILE`` and ``NAME@SEED=FILE``; a plain file is named after itself.

    Raises:
        UserError: A file is missing, a name is empty, or two files are of one method and seed.
    """
    sources = [_source(text) for text in texts]
    for (name, seed), times in Counter((one.name, one.seed) for one in sources).items():
        if times > 1:
            raise UserError(
                f"`--samples`: {times} files are {name}, seed {seed}; name methods apart with NAME=FILE, "
                "runs of one method with NAME@SEED=FILE"
            )
    return sources


def _source(text: str) -> Source:
    if Path(text).is_file():  # also where the path has a "=" in it
        return Source(Path(text).stem, 0, Path(text))
    match = _NAMED.fullmatch(text)
    if match is None:
        raise UserError(f"`--samples {text}`: no such file")
    if not match["name"].strip():
        raise UserError(f"`--samples {text}`: the name is empty; write NAME=FILE")
    if not Path(match["file"]).is_file():
        raise UserError(f"`--samples {text}`: no such file: {match['file']}")
    return Source(match["name"].strip(), int(match["seed"] or 0), Path(match["file"]))


class AnswerFile(NamedTuple):
    """The answers of a file.

    Attributes:
        answers: As they were given, by question.
        read: The part of each that is scored.
        records: The questions that were asked; where that is not known, those that it answers.
        known: Whether it is known.
        identity: What the answers depend on, where their evaluation says so.
    """

    answers: Mapping[str, RawAnswer]
    read: Mapping[str, str]
    records: Sequence[Record]
    known: bool
    identity: Mapping[str, str]


def read_file(path: Path, records: Sequence[Record]) -> AnswerFile:
    """Read a file of answers to a benchmark's records, with its evaluation's manifest where there is one.

    Raises:
        UserError: The file is malformed, its evaluation is incomplete, or it is not about these records.
    """
    asked, answers = read_asked(path), read_answers(path, records)
    kept = [record for record in records if record.key in answers] if asked is None else asked.of(records, path)
    try:
        check_ids(records, answers)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    texts = {key: one.text if asked is None else answer_in(one.text, asked.mode) for key, one in answers.items()}
    identity = {} if asked is None else EvaluationManifest.read(path.parent).identity
    return AnswerFile(answers, texts, kept, asked is not None, identity)


def score_file(
    path: Path, records: Sequence[Record], benchmark: Benchmark, scorers: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Score a file of answers: the questions that were asked or, where that is not known, those that it answers.

    Args:
        path: JSON lines, see :mod:`reports.answerfiles`.
        records: The benchmark's questions.
        benchmark: The rules.
        scorers: Names of its scorers; all of them unless given.

    Returns:
        Per scorer ``overall``, ``tasks`` (0-100), ``n`` (questions scored), ``of`` (questions of the benchmark) and
        ``unparsable`` (those without a readable answer). Where some questions have no answer and it is not known
        whether they were asked, ``if_all_asked`` is the overall score with them as wrong.

    Raises:
        UserError: An unknown scorer, or as :func:`read_file`.
    """
    chosen = [benchmark.scorer_named(name) for name in scorers or benchmark.scorers]
    found = read_file(path, records)
    result: dict[str, dict[str, Any]] = {}
    for name in chosen:
        scored = benchmark.question_scores(found.records, found.read, name)
        figures = benchmark.figures([one.type for one in scored], [one.score for one in scored])
        result[name] = {
            "overall": figures.overall,
            "tasks": dict(figures.tasks),
            "n": len(scored),
            "of": len(records),
            "unparsable": sum(not one.parsed for one in scored),
        }
        if not found.known and len(scored) < len(records):
            everything = benchmark.question_scores(records, found.read, name)
            all_asked = benchmark.figures([one.type for one in everything], [one.score for one in everything])
            result[name]["if_all_asked"] = all_asked.overall
    return result


def results_from(
    texts: Sequence[str],
    data: Dataset,
    benchmark: Benchmark,
    *,
    base: str | None = None,
    scorer: str | None = None,
    settings: ReportSection,
) -> Results:
    """Read and score answers made elsewhere.

    Args:
        texts: As :func:`parse_sources` takes them.
        data: The benchmark. Questions that were not asked, or that no file answers, are left out; a footnote says so.
        benchmark: The rules to score and average by.
        base: The name of the untrained model among the sources; a source named ``base`` is it anyway.
        scorer: One of the benchmark's scorers; the default unless given.
        settings: Margin, level, pairs; what they leave open follows from how many runs and questions there are.

    Raises:
        UserError: A source or name is wrong, a file is malformed, two files answer different questions, or two seeds of
            one method have the same answers.
    """
    sources = parse_sources(texts)
    names = list(dict.fromkeys(source.name for source in sources))
    if base is not None and base not in names:
        raise unknown_name(f"--base {base}", base, names)
    if base not in (None, BASE) and BASE in names:
        raise UserError(f"`--base {base}`: a source is already named `{BASE}`; drop --base or rename that source")
    untrained = base or (BASE if BASE in names else None)
    order = [*([untrained] if untrained else []), *(name for name in names if name != untrained)]
    internal = {name: BASE if name == untrained else name for name in order}
    found = {source: read_file(source.path, data.records) for source in sources}
    asked = _asked(found)
    why = "that were asked" if any(file.known for file in found.values()) else "that every file answers"
    part = f"Only the {len(asked):,} of the benchmark's {len(data.records):,} questions {why}."
    chosen = benchmark.scorer_named(scorer)
    baselines = benchmark.baselines(asked, None)
    runs = Counter(internal[source.name] for source in sources)
    scored = {
        source: {name: benchmark.question_scores(asked, file.read, name) for name in benchmark.scorers}
        for source, file in found.items()
    }
    answers = pd.concat(
        [
            _rows(file, asked, scored[source], chosen).assign(method=internal[source.name], seed=source.seed)
            for source, file in found.items()
        ],
        ignore_index=True,
    )
    once = answers.drop_duplicates("question")
    layout = layout_of("", benchmark, once["type"].tolist(), once["cluster"].tolist())
    seeds = min([n for method, n in runs.items() if method != BASE], default=1)
    refuse_repeats(answers, {internal[name]: name for name in order})
    return Results(
        labels={internal[name]: f"{name} (base)" if name == untrained else name for name in order},
        answers=answers,
        records=asked,
        benchmark=benchmark,
        title=benchmark.title(asked, f"{data.root}#{data.split}"),
        scorer=chosen,
        report=settled(settings, [internal[name] for name in order], seeds, layout),
        points={
            (internal[source.name], source.seed): {name: Points.of(benchmark, of) for name, of in by.items()}
            for source, by in scored.items()
        },
        baselines=[(name, label, points_by_scorer(benchmark, asked, given)) for name, label, given in baselines],
        planned=runs,
        footnotes=((part,) if len(asked) < len(data.records) else ()) + _differences(found.values()),
    )


def _asked(files: Mapping[Source, AnswerFile]) -> Sequence[Record]:
    """The records that were asked; refuses files that differ in their questions."""
    keys = {source: {record.key: None for record in file.records} for source, file in files.items()}
    first, *others = keys.items()
    for source, found in others:
        only_first, only_other = [k for k in first[1] if k not in found], [k for k in found if k not in first[1]]
        if only_first or only_other:
            lines = [
                f"  only {one.path} answers {len(some)}: {first_few(some)}"
                for one, some in ((first[0], only_first), (source, only_other))
                if some
            ]
            raise UserError(
                f"{first[0].path} and {source.path} answer different questions and must not be compared; "
                "evaluate both on the same benchmark files:\n" + "\n".join(lines)
            )
    return files[first[0]].records


def _differences(files: Iterable[AnswerFile]) -> tuple[str, ...]:
    """What evaluations differ in besides the weights, in a sentence; nothing where it is not known."""
    known = [file.identity for file in files if file.identity]
    keys = sorted({key for one in known for key in one} - {"weights"})
    differing = [key for key in keys if len({one.get(key) for one in known}) > 1]
    if not differing:
        return ()
    return (f"The evaluations behind these rows were not alike: they differ in {listed(differing)}.",)


def _rows(
    file: AnswerFile, asked: Sequence[Record], scored: Mapping[str, Sequence[QuestionScore]], scorer: str
) -> pd.DataFrame:
    """The answers of a file with their scores, by the scorer and, in columns of their own, by the others."""
    given = [file.answers[record.key] for record in asked]
    read = [file.read[record.key] for record in asked]
    frame = pd.DataFrame(scored[scorer]).assign(model="external", answer=[one.text for one in given], read=read)
    others = {scored_by(name): [one.score for one in of] for name, of in scored.items() if name != scorer}
    frame = frame.assign(**others)
    known = all(answer.truncated is not None for answer in file.answers.values())
    return frame.assign(truncated=[bool(one.truncated) for one in given]) if known else frame
