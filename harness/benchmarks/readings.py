"""Rules that read an answer, by the names that descriptions use: VSI-Bench's own, and those of other benchmarks.

Each of the others follows the published evaluation of its benchmark in what it accepts, written anew:

- ``first-token``: ReVSI's (lmms-eval's task ``revsi``): as VSI-Bench's, after white space at the ends is removed.
- ``last-number``: OSI-Bench's (lmms-eval's ``osi_bench``): the last number anywhere; of letters the first that stands
  alone, else one that the answer begins with.
- ``mmsi-video``: MMSI-Video-Bench's ``evaluation.py``: the content of a box; what follows ``"answer":``, ``answer is``
  or ``Answer:`` up to a comma or full stop; or all before the first full stop.
- ``sti``: STI-Bench's ``opensource_test.py``: the letter in the first form that occurs, such as ``(A)``, ``Answer: A``
  or ``A.`` at the end of a line; else the last character.
"""

from __future__ import annotations

import re

from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS, Scorer
from harness.vsibench.types import LETTERS

_NUMBERS = re.compile(r"[+-]?\d+(?:\.\d+)?")
_ALONE = re.compile(r"(?:^|[\[(\s,.])([A-Z])(?=[\])\s,.]|$)")
_NOISE = re.compile(r"[ \"'\n:]")
_MMSI_CUES = ('"answer":', "answer is", "Answer: ")
_STI_FORMS = tuple(
    re.compile(form, re.IGNORECASE | re.MULTILINE)
    for form in (
        r"\(([A-E])\)",
        r"Ans\s*=\s*['\"]?([A-E])",
        r"Answer\s*[:=]\s*([A-E])",
        r"Option\s+([A-E])",
        r"\b([A-E])\s*(?:is|was)\s*correct",
        r"\b([A-E])[.)]\s*$",
    )
)


def _letter(found: str, record: Record) -> str | None:
    return found if len(found) == 1 and found in LETTERS[: len(record.options or ())] else None


def _first_token(answer: str, record: Record) -> float | str | None:
    return SCORERS["official"].parse(answer.strip(), record)


def _last_number(answer: str, record: Record) -> float | str | None:
    if record.is_numeric:
        numbers = _NUMBERS.findall(answer.replace(",", ""))
        return float(numbers[-1]) if numbers else None
    alone = _ALONE.search(answer)
    return _letter(alone[1] if alone else answer.strip()[:1], record)


def _mmsi_video(answer: str, record: Record) -> float | str | None:
    answer = answer.replace("<answer>", "").replace("</answer>", "")
    if "no answer" in answer:
        return None
    if "boxed{" in answer:
        said = answer.split("boxed{")[1].split("}")[0]
    elif cue := next((cue for cue in _MMSI_CUES if cue in answer), None):
        said = answer.split(cue)[-1].split(",")[0].split(".")[0]
    else:
        said = answer.split(".")[0]
    return _letter(_NOISE.sub("", said), record)


def _sti(answer: str, record: Record) -> float | str | None:
    found = next(filter(None, (form.search(answer) for form in _STI_FORMS)), None)
    return _letter(found[1].upper() if found else answer.strip()[-1:], record)


READINGS: dict[str, Scorer] = SCORERS | {
    scorer.name: scorer
    for scorer in (
        Scorer(
            "first-token",
            "1 (lmms-eval's revsi)",
            "the benchmark's own rule: the first token, a trailing full stop removed",
            _first_token,
        ),
        Scorer(
            "last-number",
            "1 (lmms-eval's osi_bench)",
            "the benchmark's own rule: the last number anywhere, the first letter that stands alone",
            _last_number,
        ),
        Scorer(
            "mmsi-video",
            "1 (MMSI-Video-Bench's evaluation.py)",
            "the benchmark's own rule: a boxed letter, one after “answer is”, or the answer's first sentence",
            _mmsi_video,
        ),
        Scorer(
            "sti",
            "1 (STI-Bench's opensource_test.py)",
            "the benchmark's own rule: the letter in the first known form, else the last character",
            _sti,
        ),
    )
}
"""All rules by name."""
