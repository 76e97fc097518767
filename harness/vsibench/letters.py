"""Reading the option that an answer chooses.

A letter is read where a letter was given. The article "a", a letter of a name ("vitamin C") and a hedge between two
letters choose nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from harness.vsibench.types import LETTERS

_LOWER = LETTERS.lower()
_LEADING = re.compile(
    rf"(?:[-•]\s+)?[(\[<]?\s*(?P<letter>[{LETTERS}])(?:\s*(?:$|[)\].:,;!?>\n])|\s+[-–—(])",
    re.IGNORECASE,
)
# "A" before these is a letter: none of them follows an article.
_AFTER_LETTER = (
    "is|was|are|seems|looks|appears|has|would|should|must|can|and|or|nor|because|since|as|the|an?|this|that|it|its|but|"
    f"not|with|for|to|[{LETTERS}]"
)
_MENTION = re.compile(rf"(?<![\w'’\-&@°])(?:[{LETTERS}{_LOWER[1:]}]|(?<=\()a(?=\)))(?![\w'’&@+]|-\w)")
_ARTICLE = re.compile(rf"A\s+(?!(?:{_AFTER_LETTER})\b)\w")
_GIVES = re.compile(
    r"(?:^|[(\[:=,.;!?\n>→]|\s[-–—]|\b(?:option|choice|letter|answer|is|be|it's|it’s|that's|choose|choosing|chose|select|selecting|selected|pick|"
    r"picked|vote|like|"
    r"with|say|guess|think|believe|suggest|definitely|probably|likely|maybe|perhaps|possibly|therefore|thus|hence|so|"
    r"certainly|clearly))\s*[(\[]?\s*(?:option\s+)?$",
    re.IGNORECASE,
)
_NEARBY = 40  # characters before a letter in which the words that give it stand
_DENIED = re.compile(
    r"\s*(?:(?:is|was|can|could|would|should|does|must)(?:\s*(?:not|n['’]t)|\s+(?:wrong|incorrect|false|excluded|never))"
    r"|cannot|can['’]t|not)\b"
)
_DENIES = re.compile(
    r"\b(?:not|never|neither|nor|none|no|except|without|cannot|wrong|incorrect|false|instead|rather|unlike|both|either|"
    r"between|but)\b|n['’]t\b",
    re.IGNORECASE,
)
# Letters after these only explain a final letter, unless they are given beside it or label a list of options.
_EXPLAINS = re.compile(r"[.!;\n]|\b(?:because|since|as|given|due|while|whereas|not|rather|instead)\b")
_BESIDE = re.compile(
    rf"[\s)\].,:;/&+-]*(?:(?:or|and|nor|maybe|perhaps|possibly|to|then|also)\b[\s(,]*(?:option\s+)?)*[{LETTERS}](?!\w)",
    re.IGNORECASE,
)
# "B", and then why.
_THEN_WHY = re.compile(
    rf"\W*[{LETTERS}]\b\W*\b(?:explanation|reason|reasoning|rationale|justification)\s*:", re.IGNORECASE
)
_LABEL = re.compile(rf"(?<![\w'’])[{LETTERS}][.):]\s*\w")
_NAMED = re.compile(rf"\b(option|choice|letter)(\s+[(\[]?)([{_LOWER}])(?!\w)", re.IGNORECASE)
_NAMED_FIRST = re.compile(rf"^(?:the\s+)?(?:option|choice|letter)\s+(?=[(\[]?[{LETTERS}](?!\w))", re.IGNORECASE)
_OPTION_LABEL = re.compile(rf"^\s*[{LETTERS}][.):]\s*")


def read_letter(text: str, options: Sequence[str], final: bool = False) -> str | None:
    """The letter of the option that a text chooses, or None where it chooses none or more than one.

    Accepted: a letter with its option's words ("B. chair"), the exact words of one option, a letter alone, in brackets
    or before punctuation ("B", "(b)", "B, because"), a letter as the first word ("B chair"), and the only letter of a
    sentence if words like "it is" or "option" give it ("I think it is B").

    Args:
        text: Plain words, see :func:`harness.vsibench.answers.plain`.
        options: With or without their labels.
        final: Whether the text was announced as the final answer; other letters in the explanation after it do not
            count then.
    """
    known = LETTERS[: len(options)]
    text = _NAMED_FIRST.sub("", _NAMED.sub(lambda found: found[1] + found[2] + found[3].upper(), text.strip()), 1)
    words = [normalise(option_words(option)) for option in options]
    first = _LEADING.match(text)
    if first is None and (said := normalise(text)) and words.count(said) == 1:
        return LETTERS[words.index(said)]
    mentions = {
        found.start(): found.group().upper() for found in _MENTION.finditer(text) if not _is_article(text, found)
    }
    if first is not None:
        letter, end = first["letter"].upper(), first.end("letter")
        if letter in known and normalise(text[end:]) == words[known.index(letter)]:
            return letter
    elif 0 in mentions:
        letter, end = mentions[0], 1
        if _DENIED.match(text, end):
            return None
    else:
        letter, end = _given(text, mentions), len(text)
        if letter != "A" and options and re.search(rf"\bA\s+{re.escape(option_words(options[0]))}(?!\w)", text):
            return None  # "A tv, B chair"
    others = [at for at, other in mentions.items() if other != letter]
    if others and not ((final or _THEN_WHY.match(text)) and _only_explained(text, end, others)):
        return None
    return letter if letter and letter in known else None


def normalise(text: str) -> str:
    """Lower case, punctuation as spaces, one space between words, no leading article."""
    words = re.sub(r"[\W_]+", " ", text.casefold()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def option_words(option: str) -> str:
    """An option without its label: "B. chair" gives "chair"."""
    return _OPTION_LABEL.sub("", option).strip()


def _only_explained(text: str, end: int, others: Sequence[int]) -> bool:
    """Whether the other letters of a text only stand in the explanation after its final one, which ends at ``end``."""
    explains = _EXPLAINS.search(text, end)
    return (
        explains is not None
        and explains.start() < min(others)
        and not _BESIDE.match(text, end)
        and not any(_LABEL.match(text, at) for at in others)
    )


def _is_article(text: str, found: re.Match[str]) -> bool:
    return _ARTICLE.match(text, found.start()) is not None


def _given(text: str, mentions: Mapping[int, str]) -> str | None:
    """The letter of a sentence that gives one and denies none."""
    given = {letter for at, letter in mentions.items() if _GIVES.search(text, max(0, at - _NEARBY), at)}
    return given.pop() if len(given) == 1 and not _DENIES.search(text) else None
