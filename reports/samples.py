"""Answers made elsewhere, read from files instead of a run directory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.api.benchmark import Benchmark, check_ids
from harness.config.study import BASE, ReportSection
from harness.data.reader import Dataset
from harness.errors import UserError, first_few, unknown_name
from harness.vsibench.records import Record
from reports.answerfiles import RawAnswer, read_answers
from reports.results import Results

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
        data: What was asked. Questions that no file answers are left out, and a footnote says so.
        benchmark: The rules to score and average by.
        base: The name of the untrained model among the sources; a source named ``base`` is it anyway.
        scorer: One of the benchmark's scorers; the default unless given.
        settings: Margin, level, pairs.

    Raises:
        UserError: A source or name is wrong, a file is malformed, or two files answer different questions.
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
    answers = {source: read_answers(source.path, data.records) for source in sources}
    asked = _asked(answers, data)
    note = f"Only the {len(asked):,} of the benchmark's {len(data.records):,} questions that every file answers."
    chosen = benchmark.scorer_named(scorer)
    return Results(
        labels={internal[name]: f"{name} (base)" if name == untrained else name for name in order},
        answers=pd.concat(
            [
                _scored(found, asked, benchmark, chosen).assign(method=internal[source.name], seed=source.seed)
                for source, found in answers.items()
            ],
            ignore_index=True,
        ),
        records=asked,
        benchmark=benchmark,
        title=benchmark.title(asked, f"{data.root}#{data.split}"),
        scorer=chosen,
        report=settings,
        planned=Counter(internal[source.name] for source in sources),
        footnotes=(note,) if len(asked) < len(data.records) else (),
    )


def _asked(answers: Mapping[Source, Mapping[str, RawAnswer]], data: Dataset) -> list[Record]:
    """The records that all files answer; refuses files that differ in their questions."""
    for source, found in answers.items():
        try:
            check_ids(data.records, found)
        except UserError as error:
            raise UserError(f"{source.path}: {error}") from error
    first, *others = answers.items()
    for source, found in others:
        only_first, only_other = [k for k in first[1] if k not in found], [k for k in found if k not in first[1]]
        if only_first or only_other:
            lines = [
                f"  only {one.path} answers {len(keys)}: {first_few(keys)}"
                for one, keys in ((first[0], only_first), (source, only_other))
                if keys
            ]
            raise UserError(
                f"{first[0].path} and {source.path} answer different questions and must not be compared; "
                "evaluate both on the same benchmark files:\n" + "\n".join(lines)
            )
    return [record for record in data.records if record.key in first[1]]


def _scored(
    answers: Mapping[str, RawAnswer], asked: Sequence[Record], benchmark: Benchmark, scorer: str
) -> pd.DataFrame:
    scored = benchmark.question_scores(asked, {key: answer.text for key, answer in answers.items()}, scorer)
    frame = pd.DataFrame(scored).assign(model="external", answer=[answers[record.key].text for record in asked])
    truncated = [bool(answers[record.key].truncated) for record in asked]
    known = all(answer.truncated is not None for answer in answers.values())
    return frame.assign(truncated=truncated) if known else frame
