"""Reading the number of an answer in English: digits or words, with its unit.

What is not certain is not read: a range, a bound, two different numbers or an unknown notation give nothing, never the
digits that happen to stand first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SMALL_NUMBERS: dict[str, int] = {
    **{word: value for value, word in enumerate(_TO_NINETEEN.split())},
    **{word: 10 * tens for tens, word in enumerate(_TENS.split(), start=2)},
}
"""The English words for 0 to 19 and for the tens."""

_SCALES: dict[str, int] = {"billion": 10**9, "million": 10**6, "thousand": 1000, "hundred": 100}
_DOZEN = 12
_MOST_WORDS = 19  # of 999,999,999,999: four times "nine hundred ninety nine", and three scales between them

_METRES: dict[str, float] = {
    "cm": 0.01, "mm": 0.001, "dm": 0.1, "km": 1000.0, "m": 1.0,
    "ft": 0.3048, "inch": 0.0254, "yard": 0.9144, "mile": 1609.344,
}  # fmt: skip
_SPELLINGS: dict[str, str] = {
    "cm": r"cms?|[csz]ent(?:i[\s-]?|í)m[a-zè]*|厘米|公分",
    "mm": r"mms?|mil[ií]m[a-zè]*|millim[a-zè]*|毫米",
    "dm": r"dms?|dec[ií]m[a-zè]*|分米",
    "km": r"kms?|kilom[a-zè]*|公里",
    "m": r"m|mts?|mtrs?|m[eè]tt?(?:er|re|ro)[a-z]*|米",
    "ft": r"ft|foots?|feets?",
    # "3 in the room" is no length, "70 in" and "70 in wide" are.
    "inch": r"inch(?:e?s)?|in(?=\s*(?:$|[.,;)\]]|(?:wide|long|tall|high|deep|thick|away|apart|across|x|by)\b))",
    "yard": r"yds?|yards?",
    "mile": r"miles?",
}
_NO_LETTER = r"(?![^\W\d_])"
_LENGTH = "|".join(f"(?P<{name}>{spelling})" for name, spelling in _SPELLINGS.items())
_UNIT = re.compile(
    r"\s*[-_(\[]?\s*(?:in\s+)?(?:"
    rf"(?P<percent>%|per\s?cent{_NO_LETTER})|(?P<other>°|(?:degrees?|cubic){_NO_LETTER}|(?:c?m|ft|feet|met(?:er|re)s?)\^?3|k?m/\w)"
    rf"|(?P<square>sq(?:uared?|\.)?[\s-]*|平方)?(?:{_LENGTH})(?:\(s\))?{_NO_LETTER}"
    rf"(?P<power>\s?\^\s?2|2|\s+squared?{_NO_LETTER})?(?![0-9^])(?:\.(?=\s*\d))?)"
)
_OTHER_MEASURE = re.compile(
    r"\s*-?(?:pixels?|px|steps?|paces?|seconds?|secs?|s|minutes?|mins?|hours?|kgs?|kilograms?|grams?|lbs?|pounds?|"
    r"lit(?:er|re)s?|acres?|hectares?|sf|arm(?:'s|s)?[\s-]lengths?|(?:micro|nano)met[a-z]*|[µμ]m)"
    rf"{_NO_LETTER}|\s*(?=[^\W\d_a-zà-ÿ])"  # or another script's word
)
_NAMED_UNIT = re.compile(
    r"(?<![^\W_])(?:(?P<cm>cms?|cent[ií]m\w*)|(?P<mm>mm|millim\w*)|(?P<dm>decim\w*)|(?P<km>km|kilom\w*)|(?P<ft>ft|feet)|"
    r"(?P<inch>inches)|(?P<yard>yards)|(?P<m>met(?:er|re)s?|(?<=in )m|m(?=\s?[:=)])))(?![^\W_])"
)

_WORD = "(?:" + "|".join([*SMALL_NUMBERS, *_SCALES]) + r")\b"
_DIGIT_WORD = "(?:" + "|".join([*list(SMALL_NUMBERS)[:10], "oh"]) + r")\b"
_NUMBER = re.compile(
    r"(?<![\w.])(?<!\d[^\w\s])(?<![^\W\d_]-)(?P<sign>(?:minus|negative)\s+|[-+])?(?:"
    r"(?:(?P<whole>\d+)(?:\s+|-))?(?P<top>\d+)/(?P<bottom>\d+)"
    r"|(?:(?P<thousands>[1-9]\d{0,2}(?:(?:,\d{3})+|(?:\ \d{3})+)(?:\.\d+)?)"
    r"|(?P<european>[1-9]\d{0,2}(?:\.\d{3})+,\d+)"
    r"|(?P<comma>\d+,\d{1,2}|0,\d+)"
    r"|(?P<plain>\d+(?:_\d+)*(?:\.\d+(?:_\d+)*|\.(?=e[-+]?\d))?|\.\d+(?:_\d+)*))"
    r"(?:e(?P<exponent>[-+]?\d+(?:_\d+)*)|\s?[x×*]\s?10\s?\^\s?\(?(?P<power>[-+]?\d+)\)?)?"
    r")(?!\d)(?![^\w\s]\d|_\d|\s?\^)"
    rf"|\b(?P<minus>(?:minus|negative)\s+)?(?P<words>{_WORD}(?:[\s-]+(?:and\s+)?{_WORD})*)"
    rf"(?:\s+point(?P<decimals>(?:[\s-]+{_DIGIT_WORD})+))?"
    r"|\b(?P<half>(?:(?:one|a)[\s-]+)?half(?:\s+(?:of\s+)?an?)?)(?=\s+(?:dozen|sq|m|cm|feet|foot|ft|inch|yard|km|cent))"
    r"|\b(?P<dozen>a)(?=\s+dozen\b)"
    rf"|(?P<odd>\b(?:point\s+)?[^\W\d]*\d(?:[^\w\s]*\d)*|\bpoint\s+(?={_DIGIT_WORD}))"
)
_NAME = re.compile(r"[^\W\d_][\w-]*\d|\d+(?:st|nd|rd|th|d)(?![^\W_])")  # "chair2", "2nd", "3D"
_PRONOUN = re.compile(r"\b(?:the|this|that|no|which|each|every|any|other|another|last|left|right)\s+$")
_TIMES = re.compile(rf"[\s-]+(?:(?P<scale>{'|'.join(_SCALES)})|dozens?)\b")
_AND_PART = re.compile(
    r"[\s-]+and[\s-]+(?:(?P<half>(?:(?:an?|one)[\s-]+)?half)|an?[\s-]+quarter|(?P<three>three[\s-]quarters))\b"
)
_PART_OF = re.compile(
    r"[\s-]+(?:hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|"
    r"(?:hundred|thousand)ths?|hundreds|thousands|millions|dozens?|times|pairs?|couples?|(?:sets?|rows?|groups?|stacks?)\s+of|"
    r"point)\b"
)
_HEDGE = r"(?:about|around|approximately|approx\.?|roughly|nearly|almost|some|circa|ca\.?|exactly|only|just)"
_BOUND_BEFORE = re.compile(
    r"(?:[<>≤≥≲≳]=?\s*~?|√\s*\(?|\b(?:sqrt|root|log|ln|exp)\s*\(?"
    r"|\b(?:(?:twice|double|triple|half|third|quarter)(?:\s+of)?(?:\s+(?:the|an?))?|another|anything\s+but|"
    r"an?\s+\w+\s+or|or\s+equal\s+to|upwards\s+of|in\s+excess\s+of|north\s+of|"
    r"(?:more|less|fewer|greater|larger|smaller|longer|shorter|other)\s+than|over|under|above|below|"
    rf"beyond|within|at\s+(?:least|most)|up\s+to|as\s+many\s+as|(?:min|max)imum(?:\s+of)?|not|exceed(?:s|ing)?)\s|n't\s)\s*(?:{_HEDGE}\s+)*$"
)
_BOUND_AFTER = re.compile(
    r"\s*\+(?!\s*\d)|\s*[<>≤≥](?![/|])|\s+(?:\w+\s+)?(?:per|each|on\s+(?:each|either|every))\b"
    r"|\s+(?:more(?!\s+or\s+less)|others?|additional|extra|fewer)\b|\s+or\s+(?:more|less|fewer|greater|higher|above|over|under)\b"
    r"|,?\s+(?:plus|minimum|maximum|min|max|tops|at\s+(?:least|most))\b"
)
_JOINS = re.compile(
    r"(?:[\s\-~,./x×*:;?|+&=±>→]|\((?=\s*(?:or|to|maybe|perhaps|possibly)\b)|"
    rf"\b(?:or|to|and|by|through|maybe|perhaps|possibly|times|then|of|vs\.?|{_HEDGE})(?![^\W_]))*"
)
_CLAUSE_JOIN = re.compile(
    r"\b(?:and|or|by|to|maybe|perhaps|possibly|if|but|else|otherwise|alternatively|could|might|plus|minus|more|another|even)\b"
)
_CLAUSE_END = re.compile(r"[:;.(\n]|\b(?:because|since|as)\b")
_GLUED = re.compile(r"(?<=\d)(?:m|ft)(?=\d+\s?(?:cm|in|inch|inches)\b)")  # "1m80cm"
_COMPOUND = re.compile(r"\s*(?:,|and|&)?\s*")
_BRACKET_END = re.compile(r"\s*\??[)\]]")
_OPERATOR = re.compile(r"[x×*+±]|\b(?:and|by|of|plus|minus|times)\b")
_CONCLUDES = re.compile(
    r"\b(?:total|altogether|sum|therefore|thus|hence|so|wait|actually|sorry|correction|rather|or|oops|hmm+|mean|again|"
    r"recount\w*|make\s+(?:that|it)|scratch\s+that|thoughts?)\b|\bno(?=\s*[,.!])|="
)
_LABEL = re.compile(r"([^\W\d_]+)\s*[:=]\s*$")
# "4 by the door": a number with a place of its own, not that of the whole video.
_PLACE = re.compile(
    r"(?:\s+[^\W\d_]+){0,2}?\s+(?:here|there|in|on|at|by|near|under|behind|beside|around|along|against|next|from|away|up|"
    r"long|wide|tall|high|deep)\b(?!\s+(?:total|all|(?:the|this|that)\s+(?:room|video|scene|image|picture|frames?))\b)"
)
_OPENING = re.compile(
    rf"(?:[\W_]|\b(?:{_HEDGE}|there|are|is|was|were|it|its|s|be|i|we|can|could|see|counted|count|a\s+total\s+of|"
    r"in\s+total|in\s+the\s+(?:room|video|scene|image|frames?)|distance|size|yes|the)(?![^\W_]))*"
)
_LIST_MARK = re.compile(r"[.):]\s")
_WORD_AFTER = re.compile(r"[ \t]+([^\W\d_]+)")
# Words that may follow a measure without a unit. Any other word on the same line may be a unit that the table lacks.
_GOES_ON = (
    "about above according across all along and apart approx approximate approximately are around as assuming at away "
    "because based before behind between but by can could deep due exactly estimated for from given has high however i "
    "if in is it its likely long making may maybe might my near not of on or overall perhaps plus possibly probably "
    "roughly since so square tall that the then thick this though to total was we which while wide with would x"
)
_NEARBY = 60  # characters before a number in which words that qualify it stand
_SAME = 0.05  # relative: a length given twice, in two units, is rounded


class _Quantity(NamedTuple):
    """A number in a text: NaN where it cannot be read; its unit (``m2`` for an area) as far as one is given."""

    start: int
    end: int
    value: float
    unit: str | None = None
    maybe_pronoun: bool = False


def read_number(text: str, unit: str | None = None) -> float | None:
    """The number that a text gives, in the unit asked for.

    Args:
        text: Plain words, see :func:`harness.vsibench.answers.plain`.
        unit: A length as ``cm``, ``m`` or ``ft``, or an area as ``m2``. Lengths and areas in other units are converted,
            and a number without a unit is taken to be in this one. None where a number of things is asked for.

    Returns:
        The number, or None where none is given or more than one could be meant: a range, a bound ("more than 3"), two
        numbers of which neither opens the answer, a percentage, a unit of another kind.
    """
    text = _GLUED.sub(r"\g<0> ", text.lower())
    found = list(_quantities(text, counts=unit is None))
    pool = _of_the_kind(_joined(found if unit is None else _compounded(found, text), text), text, unit)
    if len(pool) > 1 and pool[0].value == 1 and not text[: pool[0].start].strip():
        pool = pool[1:] if _LIST_MARK.match(text, pool[0].end) else pool
    if len(pool) > 1 and not _opens(pool[0], text):
        pool = [one for one in pool if not one.maybe_pronoun] or pool
    if not pool:
        return None
    first = pool[0]
    if unit is None and _opens(first, text) and _in_parts(pool, text):
        return first.value
    if any(_apart(first, one, text, counts=unit is None) for one in pool[1:]):
        return None
    if any(one.value != first.value for one in pool[1:]):
        if not _opens(first, text) or _CONCLUDES.search(text, first.end):
            return None
        clause = _CLAUSE_END.search(text, first.end)
        beside = [one for one in pool[1:] if clause is None or one.start < clause.start()]
        if beside and _CLAUSE_JOIN.search(text, first.end, beside[-1].start):
            return None
    return first.value if math.isfinite(first.value) else None


def leading_unit(text: str) -> str:
    """The unit with which a text begins, or nothing."""
    found = _UNIT.match(text.lower())
    return text[: found.end()] if found else ""


def words_value(words: Sequence[str]) -> int | None:
    """The value of number words that form one number, as ``["three", "hundred", "twenty", "one"]``, else None."""
    if len(words) > _MOST_WORDS:
        return None
    for scale, value in _SCALES.items():
        if scale in words:
            at = words.index(scale)
            before = words_value(words[:at]) if at else 1
            after = words_value(words[at + 1 :]) if words[at + 1 :] else 0
            if before is None or after is None or not 0 < before < 1000 or after >= value:
                return None
            return before * value + after
    values = [SMALL_NUMBERS[word] for word in words]
    if len(values) == 2 and values[0] >= 20 and 1 <= values[1] <= 9:
        return sum(values)
    return values[0] if len(values) == 1 else None


def _quantities(text: str, counts: bool) -> Iterator[_Quantity]:
    """Every number of a text in lower case, with what follows it: a scale, a half, a unit."""
    end = 0
    while found := _NUMBER.search(text, end):  # on from a unit's end: the 2 of "m^2" is no number
        start, end = found.span()
        near = max(0, start - _NEARBY)
        if found["odd"] is not None:
            if not _NAME.match(text, start):
                unit, end = _unit(text, end)
                yield _Quantity(start, end, math.nan, unit)
            continue
        if found["words"] == "one" and _PRONOUN.search(text, near, start):
            continue
        value = math.nan if counts and found["comma"] else _value(found)
        if times := _TIMES.match(text, end):
            value, end = value * (_SCALES[times["scale"]] if times["scale"] else _DOZEN), times.end()
        value, end = _with_part(value, text, end)
        unreadable = bool(_PART_OF.match(text, end) or _BOUND_BEFORE.search(text, near, start))
        unit, end = _unit(text, end)
        if unit is None and re.match(r"-?[^\W\d_]", text[end : end + 2]):
            if _NAME.match(text, start):
                continue
            unreadable = True
        if unit is None and not counts and (word := _WORD_AFTER.match(text, end)) and word[1] not in _GOES_ON.split():
            unit = "?"  # "5 fathoms"
        value, end = _with_part(value, text, end)
        if unreadable or _BOUND_AFTER.match(text, end):
            value = math.nan
        yield _Quantity(start, end, value, unit, found["words"] == "one" and unit is None)


def _value(found: re.Match[str]) -> float:
    """The value of a match of ``_NUMBER``."""
    sign = -1 if (found["sign"] or found["minus"] or "+").strip() != "+" else 1
    if found["half"] or found["dozen"]:
        return 0.5 if found["half"] else 1.0
    if found["words"]:
        whole = words_value([word for word in re.findall("[a-z]+", found["words"]) if word != "and"])
        digits = "".join(str(SMALL_NUMBERS.get(word, 0)) for word in re.findall("[a-z]+", found["decimals"] or ""))
        return math.nan if whole is None else sign * float(f"{whole}.{digits or 0}")
    if found["bottom"]:
        bottom = float(found["bottom"])
        return sign * (float(found["whole"] or 0) + float(found["top"]) / bottom) if bottom else math.nan
    if found["thousands"]:
        digits = re.sub("[, ]", "", found["thousands"])
    elif found["european"]:
        digits = found["european"].replace(".", "").replace(",", ".")
    else:
        digits = found["plain"] or found["comma"].replace(",", ".")
    return sign * float(f"{digits}e{found['exponent'] or found['power'] or 0}")


def _with_part(value: float, text: str, at: int) -> tuple[float, int]:
    """A number and what "and a half" after it adds."""
    found = _AND_PART.match(text, at)
    if found is None:
        return value, at
    return value + (0.5 if found["half"] else 0.75 if found["three"] else 0.25), found.end()


def _unit(text: str, at: int) -> tuple[str | None, int]:
    """The unit that follows a number, and its end: ``%`` for a percentage, ``?`` for one of another kind."""
    found = _UNIT.match(text, at)
    if found is None:
        other = _OTHER_MEASURE.match(text, at)
        return ("?", other.end()) if other else (None, at)
    if found["percent"] or found["other"]:
        return "%" if found["percent"] else "?", found.end()
    name = next(name for name in _METRES if found[name])
    return (f"{name}2" if found["square"] or found["power"] else name), found.end()


def _compounded(found: Sequence[_Quantity], text: str) -> list[_Quantity]:
    """The quantities, where a length in two units, as "1 m 80 cm" or "5 ft 11 in", is one."""
    merged: list[_Quantity] = []
    for one in found:
        last = merged[-1] if merged else None
        if last and last.unit in _METRES and one.unit in _METRES and _COMPOUND.fullmatch(text, last.end, one.start):
            rest = one.value * _METRES[one.unit] / _METRES[last.unit]
            if last.value == int(last.value if math.isfinite(last.value) else 0) and 0 <= rest < 1:
                merged[-1] = _Quantity(last.start, one.end, last.value + rest, last.unit)
                continue
        merged.append(one)
    return merged


def _joined(found: Sequence[_Quantity], text: str) -> list[_Quantity]:
    """The quantities, where the parts of a range, a list or a sum cannot be read."""
    unreadable = set()
    for i, (one, other) in enumerate(pairwise(found)):
        between = text[one.end : other.start]
        restated = between.strip() in ("(", "[") and math.isfinite(other.value) and _BRACKET_END.match(text, other.end)
        if (restated or _JOINS.fullmatch(text, one.end, other.start)) and not _agree(one, other, between):
            unreadable |= {i, i + 1}
    return [one._replace(value=math.nan) if i in unreadable else one for i, one in enumerate(found)]


def _in_parts(pool: Sequence[_Quantity], text: str) -> bool:
    """Whether a number is followed by its parts: "2 lamps, one on the desk and one on the floor"."""
    first, *parts = pool
    return sum(one.value for one in parts) == first.value and not _PLACE.match(text, first.end)


def _apart(first: _Quantity, other: _Quantity, text: str, counts: bool) -> bool:
    """Whether two numbers count or measure two things: "4 here, 2 there", "left: 2, right: 2"."""
    labels = [_LABEL.search(text, max(0, one.start - _NEARBY), one.start) for one in (first, other)]
    labelled = labels[0] and labels[1] and labels[0][1] != labels[1][1]
    if not labelled and not (_PLACE.match(text, first.end) and _PLACE.match(text, other.end)):
        return False
    return other.value != first.value or (counts and not _CONCLUDES.search(text, first.end, other.start))


def _agree(one: _Quantity, other: _Quantity, between: str) -> bool:
    """Whether two numbers give the same thing twice; "2 x 2" and "2 and 2" do not."""
    if one.unit and other.unit and one.unit != other.unit:
        converted = _converted(other.value, other.unit, one.unit)
        return converted is not None and math.isclose(one.value, converted, rel_tol=_SAME)
    return one.value == other.value and not _OPERATOR.search(between)


def _of_the_kind(found: Sequence[_Quantity], text: str, target: str | None) -> list[_Quantity]:
    """The quantities that can answer: those in the unit asked for, else convertible ones, else those without a unit."""
    found = [one for one in found if one.unit != "%"]
    if target is None:
        return [one for one in found if one.unit is None] or found
    base = target.removesuffix("2")
    ranked: tuple[list[_Quantity], ...] = ([], [], [])
    for one in found:
        if one.unit == target:
            ranked[0].append(one)
        elif one.unit is None or one.unit.removesuffix("2") == base:  # "20 meters" is a slip for square meters
            ranked[2].append(one)
        elif (value := _converted(one.value, one.unit, target)) is not None:
            ranked[1].append(one._replace(value=value))
    named = {match.lastgroup for match in _NAMED_UNIT.finditer(text)} - {base}
    if named and all(one.unit is None for one in found):
        return []  # "in cm: 180"
    return next((pool for pool in ranked if pool), [])


def _converted(value: float, unit: str, target: str) -> float | None:
    """A length or an area in another unit; None where it is not of that kind."""
    area, name, wanted = unit.endswith("2"), unit.removesuffix("2"), target.removesuffix("2")
    if not {name, wanted} <= _METRES.keys() or area != target.endswith("2"):
        return None
    return value * (_METRES[name] / _METRES[wanted]) ** (2 if area else 1)


def _opens(one: _Quantity, text: str) -> bool:
    """Whether nothing but words like "there are about" stands before it."""
    return _OPENING.fullmatch(text, 0, one.start) is not None
