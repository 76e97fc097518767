import pytest

from harness.vsibench.answers import (
    final_answer,
    matches,
    parse_answer,
    parse_letter,
    parse_number,
)
from harness.vsibench.letters import normalise, option_words
from harness.vsibench.records import Record

OPTIONS = ("A. chair", "B. front-left", "C. table, lamp, sofa", "D. Turn Left")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", "5"),
        ("  5\n", "5"),
        ("<think>2 sofas</think><answer>5</answer>", "5"),
        ("<think>2 sofas</think> <answer> 5 </answer> bye", "5"),
        ("<ANSWER>5</Answer>", "5"),
        ("<answer>1</answer><answer>2</answer>", "2"),
        ("<answer>1</answer><answer></answer>", ""),
        ("<answer>5", "5"),
        ("<observe>a bed</observe>7", "7"),
        ("<think>a</think>x<think>b</think>y", "y"),
        ("<think>there are 4 chairs and", ""),
        ("5 <think>or maybe 6", "5"),
        ("<think>so <answer>2</answer>, no</think><answer>5</answer>", "5"),
        ("<think>not in <answer></answer></think>5", "5"),
        ("<think>it is <answer>5</answer></think>", "5"),
        ("<answer>5</answer><think>2 sofas</think>", "5"),
        ("2 sofas</think>5", "5"),
        ("5</answer> 6", "5"),
        ("", ""),
    ],
)
def test_final_answer(text: str, expected: str) -> None:
    assert final_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", 4.0),
        ("4.", 4.0),
        ("4.50", 4.5),
        (".5", 0.5),
        ("-3", -3.0),
        ("−3", -3.0),
        ("+3", 3.0),
        ("1e2", 100.0),
        ("1,200", 1200.0),
        ("1,234,567.5", 1234567.5),
        ("1,2000", None),
        ("three", 3.0),
        ("Three chairs.", 3.0),
        ("twenty-one", 21.0),
        ("twenty one", 21.0),
        ("three hundred and twenty-one", 321.0),
        ("two thousand five hundred", 2500.0),
        ("a hundred", 100.0),
        ("nineteen", 19.0),
        ("zero", 0.0),
        ("five two", None),
        ("two and three", None),
        ("two, three", None),
        ("There are 3 chairs", 3.0),
        ("about 7.2 meters", 7.2),
        ("**4**", 4.0),
        ("4\nbecause", 4.0),
        ("one apple, room 2", 1.0),
        ("3-4", None),
        ("2 to 3", None),
        ("The answer is 7 of the 9", 7.0),
        ("There are 9 things. Answer: 7", 7.0),
        ("7 is my answer: ", 7.0),
        ("a couple", None),
        ("weight", None),
        ("anyone", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("no idea", None),
        ("chair2", None),
    ],
)
def test_number(text: str, expected: float | None) -> None:
    assert parse_number(text) == expected


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("2m", "m", 2.0),
        ("150cm", "m", 1.5),
        ("1.5 meters", "cm", 150.0),
        ("150", "m", 150.0),
        ("1.5 m", None, 1.5),
        ("1500 mm", "m", 1.5),
        ("10 feet", "m", 3.048),
        ("one foot", "cm", 30.48),
        ("12 inches", "cm", 30.48),
        ("3 in the room", "m", 3.0),
        ("2-meter", "m", 2.0),
        ("100 square feet", "m2", 9.290304),
        ("100 sq ft", "m2", 9.290304),
        ("100 sq. ft.", "m2", 9.290304),
        ("20 m²", "m2", 20.0),
        ("20 m^2", "m2", 20.0),
        ("20 sqm", "m2", 20.0),
        ("200000 cm2", "m2", 20.0),
        ("20 meters squared", "m2", 20.0),
        ("20 square meters", "m", 20.0),
        ("20 meters", "m2", 20.0),
    ],
)
def test_units(text: str, unit: str | None, expected: float) -> None:
    assert parse_number(text, unit) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", "A"),
        ("a", "A"),
        ("(A)", "A"),
        ("[b]", "B"),
        ("A.", "A"),
        ("A)", "A"),
        ("B: front", "B"),
        ("B, because", "B"),
        ("**B**", "B"),
        ("`D`", "D"),
        (" D", "D"),
        ("B\nbecause", "B"),
        ("B. chair", "B"),
        ("The answer is A", "A"),
        ("The answer is: (B).", "B"),
        ("Answer: D", "D"),
        ("The answer is A because option B is farther", "A"),
        ("I think it is B", "B"),
        ("Option C is right", "C"),
        ("<answer>C</answer>", "C"),
        ("<think>A or B</think><answer>D.</answer>", "D"),
        ("chair", "A"),
        ("A chair", "A"),
        ("the chair.", "A"),
        ("Front left", "B"),
        ("table,lamp, sofa", "C"),
        ("turn left", "D"),
        ("B chair", "B"),
        ("E", None),
        ("H", None),
        ("chairs", None),
        ("left", None),
        ("either A, or B", None),
        ("Because", None),
        ("", None),
        ("<answer></answer>", None),
    ],
)
def test_letter(text: str, expected: str | None) -> None:
    assert parse_letter(text, OPTIONS) == expected


def test_words_of_an_option_win_over_an_article() -> None:
    assert parse_letter("A chair", ("A. table", "B. chair")) == "B"
    assert parse_letter("A table", ("A. table", "B. chair")) == "A"


def test_normalise() -> None:
    assert normalise("  The Front-Left, ") == "front left"
    assert normalise("A") == "a"
    assert normalise("table,lamp") == normalise("Table, lamp.")
    assert option_words("B. chair. small") == "chair. small"


def test_every_number_below_a_thousand_reads_back() -> None:
    small = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen"""
    ones = small.split()
    tens = [*"--", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]

    def spell(n: int) -> str:
        if n < 20:
            return ones[n]
        if n < 100:
            return tens[n // 10] + ("-" + ones[n % 10] if n % 10 else "")
        if n < 1000:
            return ones[n // 100] + " hundred" + (" and " + spell(n % 100) if n % 100 else "")
        return spell(n // 1000) + " thousand" + (" " + spell(n % 1000) if n % 1000 else "")

    for n in [*range(1000), 1000, 1001, 1999, 21_345, 999_999]:
        assert parse_number(f"There are {spell(n)} chairs") == n


def record(kind: str, truth: str, options: tuple[str, ...] | None = None) -> Record:
    return Record(
        id=1, dataset="d", scene_name="s", question_type=kind, question="q", ground_truth=truth, options=options
    )


def test_parse_answer_knows_what_the_record_asks_for() -> None:
    assert parse_answer("1.2 m", record("object_size_estimation", "120")) == pytest.approx(120.0)
    assert parse_answer("120 cm", record("object_abs_distance", "1.2")) == pytest.approx(1.2)
    assert parse_answer("5 m", record("object_counting", "5")) == 5.0
    lettered = record("route_planning", "D", OPTIONS)
    assert matches(parse_answer("Turn left.", lettered), lettered)
    free = record("object_rel_direction_hard", "front-left")
    assert matches(parse_answer("<think>..</think><answer>Front left</answer>", free), free)
    assert not matches(parse_answer("left", free), free)
    assert parse_answer(" ", free) is None
