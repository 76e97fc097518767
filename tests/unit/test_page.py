"""The report page: whole by itself, safe against what models answer, right for every state of a run."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
import warnings
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from conftest import write_small_dataset, write_video
from matplotlib.figure import Figure
from page_kit import fabricate_run
from PIL import Image

import reports.page.page
from harness.outputs import LISTED, Outputs
from harness.vsibench.records import Record
from reports.benchmarks.vsibench import VSIBench
from reports.collect import Collected, collect
from reports.comparison import tables_of
from reports.page import methods_section, page_files, possible_files
from reports.page.browser import browser_data, contact_sheets, script_json, shown
from reports.page.figures import Drawing, Palette, add_legend, drawn, new_axes, task_bars
from reports.results import results_of
from reports.statistics import paired
from reports.statistics.curves import learning_curves, score_intervals, training_metrics
from reports.tables import build_tables

compare = partial(paired.compare, benchmark=VSIBench())

ATTACK = "</script><script>document.title = 'owned'</script><img src=x onerror=alert(1)>\\input{x} $a_b$"
CONTROL = "B\x00\x1b[31m\u202e\u2066end"
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Structure(HTMLParser):
    """Elements, ids and attributes of a page; fails where an element is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append((self.seen[-1][1], data))
        else:
            self.text += data

    @property
    def ids(self) -> list[str]:
        return [str(found["id"]) for _, found in self.seen if found.get("id")]


def write(run: Path) -> tuple[str, Structure, Collected]:
    collected = collect(run)
    results = results_of(collected)
    tables = tables_of(collected, results)
    files = page_files(
        results,
        tables,
        benchmark=collected.test,
        collected=collected,
        methods=methods_section(collected, tables.contrasts),
    )
    Outputs(run / "report").publish(files)
    text = files["index.html"].decode()
    return text, Structure(text), collected


def hostile(record: Record, method: str, seed: int) -> str | None:
    answers = {"0": ATTACK, "1": CONTROL, "2": "x" * 10_000_000}
    return answers.get(record.key) if (method, seed) == ("grpo", 0) else None


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("page-data")
    return {
        "benchmark": str(write_small_dataset(root / "test", scenes=4)),
        "train": str(write_small_dataset(root / "train", scenes=2, split="train")) + "#train",
    }


@pytest.fixture(scope="module")
def whole(sources: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Structure, Collected]:
    """Two methods, three seeds, one of them failed, with hostile answers."""
    root = tmp_path_factory.mktemp("page") / "run"
    failed = {("sft", 2): "the <b>loss</b> is nan"}
    run = fabricate_run(root, cache=root, methods=("sft", "grpo"), failed=failed, answer=hostile, **sources)
    return run, *write(run)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn, but saved without PDF, which costs most."""

    def draw(figure: Figure, name: str, caption: str) -> Drawing:
        figure.savefig(io.BytesIO(), format="svg")
        return Drawing(name, caption, "<svg></svg>", {})

    monkeypatch.setattr(reports.page.page, "drawn", draw)


def test_the_page_refers_to_nothing_outside_itself(whole: tuple[Path, str, Structure, Collected]) -> None:
    _, text, page, _ = whole
    assert "http:" not in text and "https:" not in text
    for _, found in page.seen:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert found.get(name) is None or str(found[name]).startswith(("#", "data:")), found
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    targets = {str(found["href"])[1:] for tag, found in page.seen if tag == "a"}
    assert targets <= set(page.ids) and "samples" in targets
    assert len(page.ids) == len(set(page.ids))


def test_only_its_own_script_may_run(whole: tuple[Path, str, Structure, Collected]) -> None:
    page = whole[2]
    assert [found.get("type") for found, _ in page.scripts] == ["application/json", None]
    digest = base64.b64encode(hashlib.sha256(page.scripts[1][1].encode()).digest()).decode()
    policy = next(str(found["content"]) for tag, found in page.seen if "http-equiv" in found)
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    assert not any(name.startswith("on") for _, found in page.seen for name in found)


def test_hostile_answers_are_text(whole: tuple[Path, str, Structure, Collected]) -> None:
    _, text, page, _ = whole
    data = json.loads(page.scripts[0][1])
    assert ATTACK in data["texts"] and "<img" not in text.replace("<image", "")
    assert any(r"\u202e" in answer for answer in data["texts"])
    assert not any(character in text for character in "\x00\x1b\u202e\u2066")
    assert "<b>loss</b>" not in text and "the <b>loss</b> is nan" in page.text
    assert data["limit"] == 4000 and len(text) < 1_000_000  # one answer has 10 MB
    assert any("9,996,000 characters left out" in answer for answer in data["texts"])


def test_every_answer_score_and_flag_is_in_the_browser(whole: tuple[Path, str, Structure, Collected]) -> None:
    _, _, page, collected = whole
    data = json.loads(page.scripts[0][1])
    assert [method["label"] for method in data["methods"]] == ["tiny (base)", "SFT", "GRPO"]
    assert [(run["method"], run["seed"]) for run in data["runs"]] == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    for run in data["runs"]:
        reported = collected.headline.reported
        mine = reported["method"] == data["methods"][run["method"]]["name"]
        rows = reported[mine & (reported["seed"] == run["seed"])].set_index("question")
        for place, question in enumerate(data["questions"]):
            row = rows.loc[question[0]]
            assert data["texts"][run["texts"][place]] == shown(row["answer"], 4000)
            assert run["scores"][place] == pytest.approx(row["score"], abs=5e-4)
            assert int(run["flags"][place]) == (not row["parsed"]) + 2 * row["truncated"]
    assert len(data["scenes"]) == 4 and all(sheet.startswith("data:image/webp") for _, sheet in data["scenes"])


def test_verdicts_come_first_and_name_missing_seeds(whole: tuple[Path, str, Structure, Collected]) -> None:
    _, text, page, _ = whole
    assert text.index('id="verdict"') < text.index('id="differences"') < text.index('id="scores"')
    assert (
        page.text.count("Checkpoints are compared, not methods, in the comparisons with SFT, because a claim about")
        == 1
    )
    assert "1 of 7 runs is missing from this report (1 failed)" in page.text
    assert "Only 2 of 3 SFT seeds finished (seed 2 failed" in page.text and "2 of 3" in page.text


def test_every_figure_is_in_the_page_and_in_files(whole: tuple[Path, str, Structure, Collected]) -> None:
    run, _, page, collected = whole
    names = {path.stem for path in (run / "report" / "figures").iterdir()}
    assert names == {
        *("forest", "forest-sft-base", "forest-grpo-base", "forest-grpo-sft", "tasks", "tasks-narrow", "runs"),
        *("learning-examples", "compute-seconds", "compute-forward_passes", "compute-tokens"),
        *(f"training-{key}" for key in ("reward", "kl", "length", "zero_variance", "truncated", "loss")),
    }
    assert sum(tag == "svg" for tag, _ in page.seen) == len(names)
    written = {str(path.relative_to(run / "report")) for path in (run / "report").rglob("*") if path.is_file()}
    assert written - {LISTED} <= set(possible_files(collected.study))
    for name in names:
        assert (run / "report" / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        svg = (run / "report" / "figures" / f"{name}.svg").read_text()
        assert "<text" in svg and "var(" not in svg  # text stays text, and papers need real colours


def test_the_methods_section_is_plain_and_says_how_to_do_it_again(
    whole: tuple[Path, str, Structure, Collected],
) -> None:
    run, _, _, collected = whole
    markdown, latex = ((run / "report" / f"methods.{suffix}").read_text() for suffix in ("md", "tex"))
    for text in (markdown, latex):
        assert "seeds 0, 1 and 2" in text and "2 of 3 for SFT" in text
        assert collected.test.digest[:16] in text and "torch 2.13.0" in text
    assert "harness compare --methods sft,grpo --model tiny" in markdown
    assert r"the \textless{}b\textgreater{}loss" in latex and r"group\_size = 8" in latex


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on PATH")
def test_the_methods_section_can_be_set(whole: tuple[Path, str, Structure, Collected], tmp_path: Path) -> None:
    body = (whole[0] / "report" / "methods.tex").read_text()
    head = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,tabularx}\\begin{document}\n"
    (tmp_path / "paper.tex").write_text(f"{head}{body}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0 and (tmp_path / "paper.pdf").exists(), found.stdout[-2000:]
    assert "Overfull" not in found.stdout  # nothing runs into its heading or off the page


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("state", ["base only", "one checkpoint, no metrics", "identical methods", "stale figures"])
def test_a_poor_run_still_has_a_page(state: str, sources: dict[str, str], tmp_path: Path) -> None:
    methods = ("sft", "grpo") if state == "identical methods" else ("sft",)
    failed = {("sft", 0): "out of memory"} if state == "base only" else {}
    same = (lambda record, method, seed: "A") if state == "identical methods" else None
    run = fabricate_run(
        tmp_path / "run",
        cache=tmp_path,
        methods=methods,
        seeds=1,
        checkpoints=1,
        failed=failed,
        metrics=state == "stale figures",
        answer=same,
        **sources,
    )
    Outputs(run / "report").publish({"figures/forest-gone-base.pdf": b""})
    mine = run / "report" / "figures" / "mine.pdf"
    mine.touch()
    text, page, _ = write(run)
    assert [path for path in mine.parent.iterdir()] == [mine] and "nan" not in page.text.split("Fairness card")[0]
    sections = {identifier for identifier in page.ids if f'href="#{identifier}"' in text}
    assert {"verdict", "scores", "samples", "fairness", "methods"} <= sections
    assert ("differences" in sections, "training" in sections) == (state != "base only", state == "stale figures")
    if state == "base only":
        assert "Fewer than two methods have answers" in page.text and "No answers from SFT" in page.text
        assert "learning" not in sections
    if state == "identical methods":
        assert page.text.count("exactly the same in every room") == 3


@pytest.mark.usefixtures("quick")
def test_one_room_and_one_task_give_a_page_without_intervals(sources: dict[str, str], tmp_path: Path) -> None:
    whole = Path(sources["benchmark"])
    lines = (whole / "test.jsonl").read_text().splitlines()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "world").symlink_to(whole / "world")
    (tmp_path / "data" / "test.jsonl").write_text(lines[0] + "\n")
    one = {**sources, "benchmark": str(tmp_path / "data")}
    run = fabricate_run(tmp_path / "run", cache=tmp_path, methods=("sft",), seeds=3, **one)
    page = write(run)[1]
    assert "1 question about 1 room" in page.text
    assert "could not be tested" in page.text and "nan" not in page.text


@pytest.mark.usefixtures("quick")
def test_answers_made_elsewhere_have_a_page_without_a_run_directory(
    whole: tuple[Path, str, Structure, Collected], tmp_path: Path
) -> None:
    *_, collected = whole
    results = results_of(collected)
    files = page_files(results, build_tables(results))
    page = Structure(files["index.html"].decode())
    assert "fairness" not in page.ids and "samples" in page.ids and "methods.md" not in files
    assert "Frames are not available for 4 of 4 videos." in page.text


def test_figures_are_a_function_of_what_is_drawn() -> None:
    palette = Palette(["base", "sft", "a$b_c$"])
    frame = pd.DataFrame({"score": [50.0], "low": [40.0], "high": [60.0]}, index=["overall"])
    scores = {method: frame for method in ("base", "sft", "a$b_c$")}
    found = []
    for _ in range(2):
        labels = {method: f"<{method}>" for method in scores}
        figure = task_bars(scores, {"Constant": {"overall": 30.0}}, palette, labels, {}, wide=False)
        found.append(drawing := drawn(figure, "bars", ""))
    assert found[0].files == found[1].files and set(found[0].files) == {"bars.svg", "bars.pdf"}
    assert (
        "&lt;a$b_c$&gt;" in drawing.svg and "var(--m1)" in drawing.svg and "#" not in drawing.svg.replace("url(#", "")
    )


@pytest.mark.parametrize("methods", [1, 12])
def test_a_long_legend_leaves_the_axes_their_room(methods: int) -> None:
    figure, axes = new_axes(2.0)
    for number in range(methods):
        axes.plot([0, 1], [0, number], label=f"GRPO (train.learning_rate=0.0000{number}), a variant of it")
    add_legend(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns when the axes collapse
        drawn(figure, "curves", "Curves.")
    figure.draw_without_rendering()
    assert axes.get_position().height * figure.get_figheight() > 1.2


def test_score_intervals_are_those_of_a_comparison_with_zero_within_what_a_score_can_be(
    whole: tuple[Path, str, Structure, Collected],
) -> None:
    *_, collected = whole
    mine = collected.headline.reported.query("method == 'grpo' and seed == 0")
    zero = mine.assign(method="zero", score=0.0)
    found = score_intervals(mine, VSIBench())
    for contrast in compare(pd.concat([mine, zero]), [("zero", "grpo")]):
        expected = (contrast.difference, *np.clip([contrast.ci_low, contrast.ci_high], 0, 100))
        assert found.loc[contrast.task].to_list() == pytest.approx(expected, nan_ok=True)


def test_learning_curves_begin_at_the_base_model_and_follow_the_cost(
    whole: tuple[Path, str, Structure, Collected],
) -> None:
    run, *_, collected = whole
    lines, bands = learning_curves(collected)
    assert bands["method"].value_counts().to_dict() == {"base": 1, "sft": 3, "grpo": 3}
    grpo = bands[bands["method"] == "grpo"]
    assert grpo["examples"].to_list() == [320, 640, 960] and grpo["seconds"].to_list() == pytest.approx(
        [124, 263.5, 403]
    )
    mean = lines[lines["method"] == "grpo"].groupby("order")["score"].mean()
    assert grpo["score"].to_list() == pytest.approx(mean.to_list())
    # Where checkpoints were deleted, the log says how far they were, and the cell's record what the last one cost.
    for manifest in run.glob("cells/grpo-*/checkpoints/*/manifest.json"):
        manifest.unlink()
    logged = learning_curves(collected)[1].query("method == 'grpo'")
    assert logged["examples"].to_list() == [320, 640, 960]
    assert logged["seconds"].to_list() == pytest.approx([math.nan, math.nan, 403], nan_ok=True)
    for log in run.glob("cells/grpo-*/metrics.jsonl"):
        log.unlink()
    unknown = learning_curves(collected)[1].query("method == 'grpo'")["examples"]
    assert unknown.to_list() == pytest.approx([math.nan, math.nan, 960], nan_ok=True)
    assert set(training_metrics(collected)["method"]) == {"sft"}


def test_long_and_many_answers_fit_the_budget(small_dataset) -> None:
    template = small_dataset.records[1]
    records = [template.model_copy(update={"id": number}) for number in range(2600)]
    rng = np.random.default_rng(0)
    words = "".join(chr(code) for code in rng.integers(0x4E00, 0x9FFF, 3000))
    rows = [
        {"method": m, "seed": 0, "question": r.key, "type": r.question_type, "score": 0.5, "parsed": True}
        | {"answer": f"{m} {r.key} {words}"}
        for m in ("base", "sft", "dpo", "grpo")
        for r in records
    ]
    labels = {m: m for m in ("base", "sft", "dpo", "grpo")}
    data = browser_data(records, pd.DataFrame(rows), labels, VSIBench())
    assert data["limit"] < 4000 and len(script_json(data).encode()) < 9_000_000
    assert json.loads(script_json(data))["runs"][3]["scores"] == [0.5] * 2600


def test_contact_sheets_keep_to_their_budget_and_leave_out_what_cannot_be_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (16, 96, 128, 3)).astype(np.uint8)
    write_video(tmp_path / "noise.mp4", noise)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    paths = [tmp_path / "noise.mp4", tmp_path / "broken.mp4", tmp_path / "missing.mp4"]
    rich = contact_sheets(paths, 3_000_000)
    assert list(rich) == [tmp_path / "noise.mp4"]
    poor = contact_sheets(paths, 3 * 30_000)
    assert len(poor[paths[0]]) <= 30_000 < len(rich[paths[0]])
    assert contact_sheets(paths, 300) == {}


def test_a_contact_sheet_shows_eight_frames_in_order_without_decoding_a_long_video_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = np.arange(10, 250, 15, dtype=np.uint8)
    with av.open(str(tmp_path / "keys.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"qp": "10", "g": "2", "preset": "ultrafast"})
        stream.height = stream.width = 320
        stream.pix_fmt = "yuv420p"
        for level in levels:
            picture = np.full((320, 320, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    monkeypatch.delattr("reports.page.browser.sample_video")  # eight key frames are enough
    uri = contact_sheets([tmp_path / "keys.mp4"], 1_000_000)[tmp_path / "keys.mp4"]
    sheet = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert sheet.size == (4 * 128 + 3 * 2, 2 * 128 + 2)
    centres = [sheet.convert("L").getpixel((64 + 130 * (n % 4), 64 + 130 * (n // 4))) for n in range(8)]
    assert centres == pytest.approx(levels[::2].tolist(), abs=4)
