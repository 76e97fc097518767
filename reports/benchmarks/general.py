"""``general``: questions about images of your own, to see whether training costs a model what it could do before."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.api.benchmark import Benchmark, Questions, ScoringRule
from harness.api.config import StrictConfig
from harness.data.rows import lost_options, record_id, refuse_special, tell, unread_fields, without_placeholders
from harness.errors import UserError
from harness.io import digest_of, parse_json, read_lines, sha256_file
from harness.vsibench.answers import parse_letter
from harness.vsibench.options import lone_letter, option_texts, plain_text, right_letter
from harness.vsibench.records import BadRecordError, Record
from harness.vsibench.scorers import ItemScore
from harness.vsibench.types import LETTERS

ASK_LETTER = "Answer with the option's letter from the given choices directly."
ASK_WORDS = "Answer the question using a single word or phrase."

_SHOWN = 5
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}


class Question(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    id: str = Field(min_length=1)
    image: str = Field(min_length=1)
    question: str = Field(min_length=1)
    options: tuple[str, ...] | None = Field(None, min_length=2, max_length=len(LETTERS))
    answer: tuple[str, ...] = Field(min_length=1)
    category: str = "all"

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, fields: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in fields.items() if name in cls.model_fields}
        try:
            if "id" in given:
                given["id"] = str(record_id(given["id"]))
            if isinstance(given.get("question"), str):
                given["question"] = without_placeholders(given["question"])
                refuse_special("question", given["question"])
            given["options"] = option_texts(given.get("options"))
            if given["options"] is None:
                lettered = isinstance(given.get("answer"), str) and lone_letter(given["answer"]) is not None
                key, is_column = lost_options(fields, set(cls.model_fields), lettered)
                if key:
                    fix = "give a list of all there" if is_column else "rename it"
                    raise BadRecordError(f"it has `{key}` and no `options`; {fix}")
            if "answer" in given:
                given["answer"] = _answers(given["answer"], given["options"])
        except BadRecordError as error:
            raise ValueError(str(error)) from error
        return given

    @property
    def letter(self) -> str | None:
        """The right option's letter, or None without options."""
        return None if self.options is None else self.answer[0]

    @property
    def words(self) -> str:
        """What the model is asked."""
        if self.options is None:
            return f"{self.question}\n{ASK_WORDS}"
        listed = "\n".join(self._lettered)
        return f"{self.question}\nOptions:\n{listed}\n{ASK_LETTER}"

    @property
    def _lettered(self) -> list[str]:
        return [f"{letter}. {option}" for letter, option in zip(LETTERS, self.options or (), strict=False)]

    def score(self, answer: str) -> float:
        """1 for a right answer, else 0.

        With options the answer gives the right letter (:func:`harness.vsibench.letters.read_letter`) or an option's
        words. Without, it equals an accepted answer. Words are compared after :func:`normalised`.
        """
        if self.options is None:
            return float(normalised(answer) in map(normalised, self.answer))
        return float((parse_letter(answer, self._lettered) or self._letter_of(answer)) == self.letter)

    def _letter_of(self, words: str) -> str | None:
        known = [normalised(option) for option in self.options or ()]
        said = normalised(words)
        return LETTERS[known.index(said)] if known.count(said) == 1 else None


def _answers(given: Any, options: Sequence[str] | None) -> list[str]:
    """The accepted answers; with options the letter of the right one."""
    listed = given if isinstance(given, list) else [given]
    if options is not None:
        if len(listed) != 1:
            raise BadRecordError(f"answer {given!r}: one option is right; give its letter")
        letter = right_letter(listed[0], options, "answer")
        words = [normalised(option) for option in options]
        if words[LETTERS.index(letter)] and words.count(words[LETTERS.index(letter)]) > 1:
            raise BadRecordError(f"answer {listed[0]!r} is not among the options once: two have the same words")
        return [letter]
    texts = [plain_text("answer", one) for one in listed]
    if empty := [text for text in texts if not normalised(text)]:
        raise BadRecordError(f"answer {empty[0]!r} is empty without articles and punctuation; give words, or options")
    return texts


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles, small numbers in digits: "The two cats." is "2 cats".

    A shortened form of the rule of VQA (Antol et al. 2015, arXiv 1505.00468, section 3).
    """
    words = re.sub(r"(?<!\d)[.,](?!\d)|[^\w\s.,%-]|(?<=\d)[.,](?!\d)", " ", text.lower()).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


class GeneralConfig(StrictConfig):
    """Where the questions are, and how large the images."""

    file: Path | None = Field(None, description="The file of questions, a JSON object a line; it must be given.")
    min_pixels: int = Field(56 * 56, ge=1, description="Least pixels (height x width) of an image (Qwen2-VL: 56 x 56).")
    max_pixels: int = Field(
        1280 * 28 * 28, ge=1, description="Most pixels of an image (1280 x 28 x 28, as Qwen2-VL's authors suggest)."
    )


class General(Benchmark):
    """A VQA-style benchmark on images of your own: the share of right answers, the same bare words for every method.

    It is reported next to VSI-Bench, to watch for forgetting, and never mixed into its score:
    ``--benchmarks vsibench,general=questions.jsonl``. The file holds one JSON object a line; images are found relative
    to it::

        {"id": 1, "image": "images/cat.jpg", "question": "What animal is this?", "answer": ["cat", "kitten"]}
        {"id": 2, "image": "images/bus.jpg", "question": "What colour is it?", "options": ["red", "blue"],
         "answer": "A", "category": "colour"}

    (the second on one line, too). ``answer`` is the right option's letter or words or, without options, one or several
    accepted answers. ``category`` may be left out; each category gets a column. An image is fed as a
    still video, which is what Qwen2-VL makes of it (:mod:`harness.data.video.stills`).
    """

    Config: ClassVar[type[StrictConfig]] = GeneralConfig
    summary: ClassVar[str] = "Questions about images of your own, to watch for forgetting: general=FILE.jsonl"
    scorers: ClassVar[Mapping[str, ScoringRule]] = {
        "match": ScoringRule("a letter or words equal to the right ones", "2")
    }
    average: ClassVar[str] = "the share of right answers"
    cluster: ClassVar[str] = "image"
    own_questions: ClassVar[bool] = True

    @cached_property
    def by_id(self) -> dict[str, Question]:
        """The file's questions.

        Raises:
            UserError: There is no file, or lines of it are invalid; the message names both.
        """
        if self.config.file is None:
            raise UserError(
                "`evaluation.more.general.file`: which questions? Write --benchmarks vsibench,general=FILE.jsonl; "
                "`harness show general` describes its lines"
            )
        path = Path(self.config.file)
        found: dict[str, Question] = {}
        problems = []
        unread: Counter[str] = Counter()
        for number, line in enumerate(read_lines(path), 1):
            if line.strip():
                try:
                    fields = parse_json(line)
                    question = Question(**fields)
                    unread.update(fields.keys() - Question.model_fields.keys())
                    if question.id in found:
                        raise ValueError(f"the id {question.id} occurs twice")
                    if not (path.parent / question.image).is_file():
                        raise ValueError(f"no image {path.parent / question.image}")
                    found[question.id] = question
                except (ValueError, TypeError, OSError) as error:  # a name may be too long for a file system
                    problems.append(f"{path}, line {number}: {_reason(error)}")
        if problems or not found:
            more = f"\nand {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise UserError("\n".join(problems[:_SHOWN]) + more if problems else f"`{path}`: it has no question")
        if unread:
            tell(f"{path}: {unread_fields(unread)}")
        return found

    @cached_property
    def _questions(self) -> Questions:
        questions, path = self.by_id, Path(self.config.file)
        media = {key: path.parent / one.image for key, one in questions.items()}
        digests = {image: sha256_file(image) for image in set(media.values())}
        content = [[one.model_dump(mode="json"), digests[media[key]]] for key, one in questions.items()]
        return Questions(tuple(map(_record, questions.values())), media, digest_of(content), str(path))

    def questions(self) -> Questions:
        """The file's questions; the digest covers the images' bytes too."""
        return self._questions

    def words(self, record: Record) -> str:
        return self.by_id[record.key].words

    def pixels(self) -> tuple[int, int]:
        return self.config.min_pixels, self.config.max_pixels

    def title(self, records: Sequence[Record], source: str = "") -> str:
        return "general"

    def score(self, answer: str, record: Record, scorer: str) -> ItemScore:
        """1 for a right answer, else 0; see :meth:`Question.score`."""
        return ItemScore(self.by_id[record.key].score(answer), True)


def _record(one: Question) -> Record:
    return Record(
        id=one.id,
        dataset="general",
        scene_name=one.image,
        question_type=one.category,
        question=one.question,
        options=one.options,
        ground_truth=one.letter or one.answer[0],
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'record'}: {one['msg']}" for one in error.errors())
    return str(error)
