"""The report page in a real browser: opens from disk without complaint, filters, fits a phone, day and night."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser_kit import CHROMIUM, DRIVER, Browser, browser
from conftest import write_small_dataset
from page_kit import fabricate_run

from harness.config.study import ReportSection
from harness.data.reader import read_dataset
from harness.outputs import Outputs
from harness.study.description import points_by_scorer
from reports.benchmarks.vsibench import VSIBench
from reports.collect import collect
from reports.page import methods_section, page_files
from reports.results import Results, results_of
from reports.tables import build_tables

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on PATH"),
]

ATTACK = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
COUNT = "return document.querySelector('.count').textContent"
CARDS = "return document.querySelectorAll('.sample').length"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    train = write_small_dataset(root / "train", scenes=2, split="train")
    benchmark = write_small_dataset(root / "test", scenes=10)

    def answer(record: Any, method: str, seed: int) -> str | None:
        return ATTACK if record.key == "3" and method == "grpo" else None

    run = fabricate_run(
        root / "run",
        train=f"{train}#train",
        benchmark=str(benchmark),
        cache=root,
        methods=("sft", "grpo"),
        failed={("sft", 2): f"no space left on device: /{'very_long_path' * 30}"},
        answer=answer,
    )
    collected = collect(run)
    results = results_of(collected)
    tables = build_tables(results)
    options = {"benchmark": collected.test, "collected": collected}
    methods = methods_section(collected, tables.contrasts)
    return Outputs(run / "report").publish(page_files(results, tables, methods=methods, **options))[0]


@pytest.fixture
def page(page_file: Path, tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path) as opened:
        opened.open(page_file)
        yield opened
        assert opened.complaints() == []


def choose(page: Browser, **values: str) -> None:
    page.run(
        "const form = document.getElementById('filters');"
        "for (const [name, value] of Object.entries(arguments[0])) form.elements[name].value = value;"
        "form.dispatchEvent(new Event('input'));",
        values,
    )


def test_it_opens_and_pages_through_the_samples(page: Browser) -> None:
    assert page.run(COUNT) == "30 questions, shown 1 to 20" and page.run(CARDS) == 20
    page.run("document.querySelector('.next').click()")
    assert page.run(COUNT) == "30 questions, shown 21 to 30" and page.run(CARDS) == 10
    assert page.run("return document.querySelector('.next').disabled") is True
    loaded = page.run("return [...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert loaded and page.run("return document.images.length") == 10


def test_what_models_answer_cannot_run(page: Browser) -> None:
    choose(page, search="test_000001", order="disagreement")
    assert page.run("return document.title").startswith("SFT and GRPO on test")
    shown = page.run("return [...document.querySelectorAll('.chip')].map((chip) => chip.textContent)")
    assert any(ATTACK in text for text in shown)
    page.run(
        "const script = document.createElement('script'); script.textContent = \"document.title = 'owned'\";"
        "document.body.append(script);"
    )
    assert page.run("return document.title").startswith("SFT and GRPO on test")
    assert ["Content Security Policy" in message for message in page.complaints()] == [True]


def test_filters_leave_the_right_questions(page: Browser) -> None:
    data = json.loads(page.run("return document.getElementById('sample-data').textContent"))
    scores = {
        name: np.mean([run["scores"] for run in data["runs"] if data["methods"][run["method"]]["name"] == name], axis=0)
        for name in ("base", "sft", "grpo")
    }
    expected = int(((scores["grpo"] >= 0.5) & (scores["sft"] < 0.5)).sum())
    assert 0 < expected < 30
    page.run("document.querySelector('button[data-right=grpo][data-wrong=sft]').click()")
    time.sleep(0.2)
    assert page.run(COUNT).startswith(f"{expected} of 30 questions match") and page.run(CARDS) == min(20, expected)
    unparsable = sum(any(int(run["flags"][q]) & 1 for run in data["runs"]) for q in range(30))
    page.run("document.querySelector('button[type=reset]').click()")
    time.sleep(0.2)
    assert page.run(COUNT).startswith("30 questions")
    choose(page, unparsed="any")
    assert page.run(COUNT).startswith(f"{unparsable} of 30")
    choose(page, unparsed="", task="room_size_estimation", method="2", order="disagreement")
    assert page.run(COUNT).startswith("10 of 30") and page.run("return document.querySelectorAll('.chip').length") == 30
    widest = int(np.argmax(np.ptp(list(scores.values()), axis=0)[2::3]))
    first = page.run("return document.querySelector('.sample .meta').textContent")
    assert first == f"Room size · question {3 * widest + 2}"
    choose(page, search="no such words")
    assert page.run(CARDS) == 0 and "No question matches" in page.run("return document.body.innerText")


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_follows_its_colours(page: Browser, width: int, scheme: str, tmp_path: Path) -> None:
    page.look(width, scheme)
    assert page.run("return document.documentElement.scrollWidth") <= width
    paper, ink = page.run(
        "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]",
    )
    bright = {name: sum(map(int, value[4:-1].split(","))) for name, value in (("paper", paper), ("ink", ink))}
    assert (bright["paper"] > bright["ink"]) == (scheme == "light")
    label = page.run("return getComputedStyle(document.querySelector('figure svg text')).fill")
    assert (sum(map(int, label[4:-1].split(","))) > 382) == (scheme == "dark")
    shown = page.run("return [...document.querySelectorAll('.wide, .narrow')].map((one) => one.offsetWidth > 0)")
    assert shown == ([True, False] if width == 1400 else [False, True])
    page.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000


def test_on_paper_every_table_is_open_and_the_browser_is_not_there(page: Browser, tmp_path: Path) -> None:
    printed = page.devtools("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    assert page.run("return document.querySelectorAll('details[open]').length") == 0  # closed again
    page.run("dispatchEvent(new Event('beforeprint'))")
    page.devtools("Emulation.setEmulatedMedia", {"media": "print"})
    text = page.run("return document.body.innerText")
    assert "Detectable" in text and "Largest" in text  # in tables that are folded on screen
    assert page.run("return document.getElementById('samples').offsetHeight") == 0
    page.devtools("Emulation.setEmulatedMedia", {"media": ""})


def test_without_scripts_all_but_the_browser_is_there(page_file: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as page:
        page.devtools("Emulation.setScriptExecutionDisabled", {"value": True})
        page.open(page_file)
        page.devtools("Emulation.setScriptExecutionDisabled", {"value": False})
        assert "The sample browser needs JavaScript" in page.run("return document.body.innerText")
        assert page.run("return document.querySelectorAll('figure svg').length") > 10


def test_a_large_benchmark_stays_small_and_smooth(tmp_path: Path) -> None:
    """2,600 questions about 260 videos, four methods: under 25 MB, and a filter answers at once (70 ms when idle)."""
    small = read_dataset(write_small_dataset(tmp_path / "test", scenes=10, size=84))
    videos = sorted((tmp_path / "test" / "world").glob("test_*.mp4"))
    for scene in range(260):
        (tmp_path / "test" / "world" / f"room{scene:03d}.mp4").hardlink_to(videos[scene % 10])
    records = [
        small.records[3 * (number // 10 % 10) + number % 3].model_copy(
            update={"id": number, "scene_name": f"room{number // 10:03d}"}
        )
        for number in range(2600)
    ]
    rng = np.random.default_rng(0)
    rows = [
        {
            "method": method,
            "model": "tiny",
            "seed": 0,
            "question": record.key,
            "type": record.question_type,
            "cluster": record.room,
            "score": float(rng.integers(0, 2)),
            "parsed": True,
            "truncated": False,
            "answer": f"<think>{' '.join(map(str, rng.integers(0, 99, 60)))}</think> {record.ground_truth}",
        }
        for method in ("base", "sft", "dpo", "grpo")
        for record in records
    ]
    labels = {"base": "tiny (base)", "sft": "+ SFT", "dpo": "+ DPO", "grpo": "+ GRPO"}
    points = points_by_scorer(VSIBench(), records, {})
    results = Results(
        labels,
        pd.DataFrame(rows),
        records,
        VSIBench(),
        "VSI-Bench",
        "official",
        ReportSection(),
        {(method, 0): points for method in labels},
    )
    page_file = Outputs(tmp_path / "report").publish(page_files(results, build_tables(results), benchmark=small))[0]
    assert 1_000_000 < page_file.stat().st_size < 25_000_000
    with browser(tmp_path) as page:
        page.open(page_file)
        assert page.run(COUNT) == "2,600 questions, shown 1 to 20"
        assert page.run("return document.images.length") == 20
        taken = page.run(
            "const form = document.getElementById('filters'); const times = [];"
            "for (const [right, wrong] of [['3', '1'], ['2', '0'], ['1', '3']]) {"
            "  const start = performance.now(); form.elements.right.value = right; form.elements.wrong.value = wrong;"
            "  form.elements.order.value = 'disagreement'; form.dispatchEvent(new Event('input'));"
            "  document.body.offsetHeight; times.push(performance.now() - start); } return times;"
        )
        assert min(taken) < 1000, taken  # the quickest: other programs may hold the processor
        assert page.complaints() == []
