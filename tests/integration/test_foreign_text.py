"""Text that somebody else wrote reaches the terminal and every file of a report as text."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_kit import Cli
from conftest import write_small_dataset
from page_kit import fabricate_run
from PIL import Image
from study_kit import seal_cell

from harness.io import write_json

ESCAPES = "\x1b[31m\x1b]0;owned\x07\x9b2J\u202e\u2028\u200b\r\nerror: forged"
MARKUP = "[b] [/b] [link=http://a]b[/link] :smile: <b>x</b></script><!--<script> \\input{/etc/passwd} $a_{ | `c` %"
FORMULA = "=cmd|' /C calc'!A1"
BAD = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def unseen(text: str) -> set[str]:
    return {c for c in text if c not in "\n\t" and unicodedata.category(c) in BAD}


def check_files(folder: Path) -> None:
    """No file of a report holds a character that is not seen, markup from data, or a formula."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pdf"]
    assert {path.suffix for path in files} >= {".md", ".tex", ".csv", ".json", ".html", ".svg"}
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not unseen(text), path
        if path.suffix in (".html", ".md"):
            outside = re.sub(r'<script type="application/json">[^<]*</script>|(?m:^    .*)', "", text)  # and code
            assert "<b>x" not in outside and "<!--<script" not in outside and outside.count("<script") <= 2, path
        if path.suffix == ".md":
            assert not re.search(r"(?<!\\)`c", outside)
        if path.suffix == ".tex":
            assert "\\input{" not in text and compiles(path)
        if path.suffix == ".json":
            json.loads(text)
        if path.suffix == ".svg":
            ElementTree.fromstring(text)
        if path.suffix == ".csv":
            cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
            assert not [one for one in cells if re.match(r"[=@\t\r]|[+-](?!\d|inf)", one)], path


def compiles(path: Path) -> bool:
    if shutil.which("pdflatex") is None or "\\documentclass" not in path.read_text():
        return True
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", path.name]
    return subprocess.run(command, cwd=path.parent, capture_output=True, timeout=120, check=False).returncode == 0


def check_said(text: str) -> None:
    assert not unseen(text)
    assert not re.search(r"(?m)^error: forged", text)


def test_names_types_and_answers_made_elsewhere(harness: Cli, tmp_path: Path) -> None:
    Image.new("RGB", (56, 56)).save(tmp_path / "i.png")
    kinds, questions, answers = (FORMULA, f"{ESCAPES} {MARKUP}", "plain"), [], []
    for number in range(18):
        one = {"id": f"={number}{MARKUP}", "image": "i.png", "question": f"How many? {MARKUP} \u202e"}
        questions.append(one | {"answer": str(number), "category": kinds[number % 3]})
        answers.append({"id": one["id"], "answer": f"{number + number % 2}{ESCAPES * (number % 5 == 0)}"})
    for name, lines in (("q", questions), ("a", answers), ("b", answers[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = (f"+{ESCAPES}{MARKUP}", f"@{MARKUP}{'x' * 90}")
    samples = [f"--samples={name}=a.jsonl".replace("=http", "") for name in names]
    out = f"{MARKUP.replace('/', '')}{ESCAPES.replace('/', '')}"
    ended = harness("report", "--benchmark", "general=q.jsonl", *samples, "--samples", "b.jsonl", "--out", out)
    assert ended.code == 0, ended.err
    check_said(ended.out + ended.err)
    assert "[b] [b]" in ended.out and ":smile:" in ended.out and r"\x1b[31m\x1b]0;owned\x07" in ended.out
    check_files(tmp_path / out)
    figures = [path.name for path in (tmp_path / out / "figures").glob("forest-*.svg")]
    assert len(figures) == 3  # one of each pair, also where names differ only in what a file's name cannot hold


def test_a_run_directory_of_a_stranger(harness: Cli, tmp_path: Path) -> None:
    data = write_small_dataset(tmp_path / "data", scenes=4)
    write_small_dataset(data, scenes=2, seed=1, split="train")
    text = f"{FORMULA} {ESCAPES} {MARKUP}"
    run = fabricate_run(
        tmp_path / "run",
        train=f"{data}#train",
        benchmark=f"{data}#test",
        cache=tmp_path / "cache",
        methods=("sft", "grpo"),
        seeds=2,
        failed={("sft", 1): text},
        answer=lambda record, method, seed: text if record.key == "0" else None,
    )
    for path in run.glob("cells/*/env.json"):
        environment = json.loads(path.read_text())
        environment |= {"packages": {text: text}, "platform": text, "device": text, "notes": [text], "ends": [text]}
        write_json(path, environment)
        if (path.parent / "finished.json").is_file():
            holds = json.loads((path.parent / "finished.json").read_text())
            seal_cell(path.parent, holds["method"], holds["seed"])
    (run / "lookalikes.txt").write_text(f"{text}\n", encoding="utf-8")
    ended = harness("report", str(run))
    assert ended.code == 0, ended.err
    check_said(ended.out + ended.err)
    check_files(run / "report")
    assert r"\x1b[31m" in (run / "report" / "fairness.md").read_text(encoding="utf-8").replace("\\\\", "\\")


NEW = [sys.executable, "-m", "harness", "new", "reward", "mine", "--out", "réw"]


def written(folder: Path) -> bool:
    return (folder / "réw" / "README.md").is_file()


def test_a_terminal_and_file_names_in_ascii(tmp_path: Path) -> None:
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(NEW, cwd=tmp_path, env=plain, capture_output=True, check=True)
    assert written(tmp_path) and rb"r\xe9w" in done.stdout and done.stdout.isascii() and not done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_is_lost_is_told_when_the_work_is_done(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(NEW, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, check=False)
    assert written(tmp_path) and done.returncode == 2
    assert done.stderr == b"error: the output could not be written: No space left on device\n"


def test_output_that_nobody_wants_ends_no_work(tmp_path: Path) -> None:
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "-", *NEW], cwd=tmp_path, check=False)
    assert written(tmp_path) and done.returncode == 0


@pytest.mark.parametrize("path", ["x[/b]", "exp[v1]", "[link=http:a]b", ":smile:", "a\x1b[2J\nerror: forged"])
def test_a_path_is_printed_as_it_is(harness: Cli, tmp_path: Path, path: str) -> None:
    ended = harness("new", "reward", "mine", "--out", path)
    assert ended.code == 0 and (tmp_path / path).is_dir()
    assert path.replace("\x1b", r"\x1b").replace("\n", "\n  ") in ended.out
    check_said(ended.out)
    again = harness("new", "reward", "mine", "--out", path)
    assert again.code == 2 and again.err.startswith("error: ")
    check_said(again.err)


def test_a_wrong_option_forges_no_message(harness: Cli) -> None:
    for arguments in (["report", f"no{ESCAPES}"], [f"no{ESCAPES}{MARKUP}"], ["list", f"--no{ESCAPES}"]):
        ended = harness(*arguments)
        assert ended.code == 2 and "error: " in ended.err
        check_said(ended.out + ended.err)
