"""Every command and every block of code in the documents is run.

Most run as they stand. What would train for minutes or needs data that nobody can put into a test is stopped at the
last moment: options are parsed, the study is resolved with every name and key checked, and then a recorder stands where
data would be read or a process started. :data:`STOPPED` says which and why. Programs of others (pip, git) do not run.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from conftest import write_small_dataset
from PIL import Image

from harness.cli import app as cli
from harness.config.study import StudyConfig, load_study
from harness.plugins import registry
from harness.plugins.scaffold import KINDS, write_package

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
STOPPED = {
    "harness.study.compare.compare": "trains for minutes; needs the data and weights of 2b",
    "harness.study.compare.train": "trains for minutes",
    "harness.study.compare.write_report": "reads the run directory of an earlier command",
    "harness.study.tune.tune": "trains for minutes",
    "harness.study.work.evaluate_checkpoint": "reads the checkpoint of an earlier command",
    "harness.hub.fetch_dataset": "downloads",
    "harness.cli.data._prepare": "needs VSI-Bench's 5,130 questions and 288 videos, or ScanNet",
}
"""What is replaced by a recorder, and why. `harness check` besides runs without its two training steps."""


def blocks(text: str) -> list[tuple[str, str]]:
    """Code blocks as (language, code): fenced ones, and indented ones of commands."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", plain, flags=re.MULTILINE)
    return [*fenced, *(("", re.sub(r"^    ", "", code, flags=re.MULTILINE)) for code in indented)]


def commands(code: str) -> Iterator[list[str]]:
    """The commands of a block, without comments; `a && b` is two."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


def is_commands(code: str) -> bool:
    return bool(re.match(r"(make|harness|pip|python|git|hf) ", code))


def is_description(language: str, code: str) -> bool:
    return language == "toml" and "[types." in code


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the documents name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_files", {})
    write_small_dataset(tmp_path / "DIR", split="train")
    for folder in ("DIR_OF_VSI_BENCH", "data/vsi-bench", "data/vsi-100k"):
        write_small_dataset(tmp_path / folder)
    answers = "".join(json.dumps({"id": number, "answer": "4"}) + "\n" for number in range(9))
    for name in ("answers.jsonl", "a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(answers)
    far = {"id": 0, "question_type": "far", "question": "How far is it?", "ground_truth": 4, "video": "room"}
    (tmp_path / "my_rooms.jsonl").write_text("".join(json.dumps({**far, "id": number}) + "\n" for number in range(9)))
    (tmp_path / "my_study.toml").write_text('extends = "tiny"\n')
    for folder in ("images", "runs/tiny", "CHECKPOINT", "download"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (56, 56)).save(tmp_path / "images" / "bus.jpg")
    return tmp_path


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Records what the stopped functions were called with."""
    calls: list[Any] = []

    def record(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[0])
        return 0

    for name in STOPPED:
        module, function = name.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(module), function)), name
        monkeypatch.setattr(name, record)
    return calls


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], None]:
    """One command of a document, which must succeed."""

    def call(words: list[str]) -> None:
        program, *rest = words
        if program == "make":
            subprocess.run(["make", "--dry-run", *rest], cwd=ROOT, check=True, capture_output=True)
        elif program == "harness":
            if rest[0] == "check":
                rest.append("--pure")
            monkeypatch.setattr(sys, "argv", words[:1] + rest)
            with pytest.raises(SystemExit) as end:
                cli.main()
            out, err = capsys.readouterr()
            assert not end.value.code, f"{shlex.join(words)}\n{out}{err}"
        else:  # installing is tested in test_plugins; the rest are programs of others
            assert program in ("pip", "git", "python", "hf", "gh"), words

    return call


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_of_a_document_runs(
    name: str, place: Path, run: Callable[[list[str]], None], stopped: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / name).read_text()
    found = blocks(text)
    codes = [code for language, code in found if language == "python"]
    if codes:  # the README's method; the file that the commands after it name
        (place / "my_method.py").write_text(codes[0])
        registry.add_file(place / "my_method.py")
    for language, code in found:
        if language == "json":
            (place / "questions.jsonl").write_text("".join(json.dumps(json.loads(line)) + "\n" for line in [code]))
        if is_description(language, code):
            (place / "mine.toml").write_text(code)
    ran = 0
    for language, code in found:
        if language == "toml" and not is_description(language, code):
            (place / "block.toml").write_text(code)
            load_study(place / "block.toml")
        elif not language and is_commands(code):
            for words in commands(code):
                if words[:2] == ["harness", "new"]:
                    monkeypatch.setattr(registry, "_files", {**registry._files})
                run(words)
                if words[:3] == ["harness", "new", "algorithm"]:
                    _install(monkeypatch, "algorithm", words[3], place / words[3])
                ran += 1
    assert ran > 2
    if name == "README.md":
        studies = [call for call in stopped if isinstance(call, StudyConfig)]
        assert {study.model.name for study in studies} >= {"tiny", "2b"}
        assert any(study.evaluation.more for study in studies)
        # Indented blocks that are no commands show a file's layout; nothing else is left out.
        rest = [code for language, code in found if not language and not is_commands(code)]
        assert len(rest) == 1 and "{dataset}/{scene_name}.mp4" in rest[0]


@pytest.mark.parametrize("name", (*DOCUMENTS, "CHANGELOG.md", "Makefile"))
def test_every_path_in_a_document_exists(name: str) -> None:
    rooms = r"(?:harness|algorithms|rewards|reports|tests|\.ci)/[\w./*-]*\w"
    paths = re.findall(rf"(?<![\w/.]){rooms}", (ROOT / name).read_text())
    missing = [path for path in paths if not list(ROOT.glob(path))]
    assert not missing
    assert len(paths) > 10 or name in ("CHANGELOG.md", "Makefile")


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_of_a_new_package_runs(
    kind: str, place: Path, run: Callable[[list[str]], None], stopped: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its README; its tests are run in test_plugins."""
    folder = write_package(kind, f"my-own-{kind}", place / f"my-own-{kind}")
    _install(monkeypatch, kind, f"my-own-{kind}", folder)
    monkeypatch.chdir(folder)
    lines = [words for _, code in blocks((folder / "README.md").read_text()) for words in commands(code)]
    for words in lines:
        run(words)
    assert any(words[0] == "harness" for words in lines) and stopped


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_api_reference_builds_from_docstrings(tmp_path: Path) -> None:
    """As `make docs` does: a page for every public module, and not a warning but those that the Makefile names."""
    pytest.importorskip("pdoc")
    target = subprocess.run(["make", "-n", "docs"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    words = shlex.split(next(line for line in target.splitlines() if "pdoc" in line))
    words = [sys.executable, *words[1:]]
    words[words.index("docs/api")] = str(tmp_path)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "Warn" not in done.stderr, done.stderr
    for module, name in (("harness/api", "advantage_samples"), ("harness/api/testing", "check_reward")):
        assert f'id="{name}"' in (tmp_path / f"{module}.html").read_text()
    for package in ("harness", "algorithms", "rewards", "reports"):
        for file in (ROOT / package).rglob("*.py"):
            listed = any("__all__" in (folder / "__init__.py").read_text() for folder in _packages(file))
            name = str(file.relative_to(ROOT).with_suffix(""))
            assert listed or file.stem in ("__init__", "__main__") or (tmp_path / f"{name}.html").is_file(), name


def _packages(file: Path) -> list[Path]:
    return [folder for folder in file.parents if folder.is_relative_to(ROOT) and folder != ROOT]


def _install(monkeypatch: pytest.MonkeyPatch, kind: str, name: str, folder: Path) -> None:
    """What `pip install -e FOLDER` would do, for this test."""
    module, group = name.replace("-", "_"), f"harness.{kind}s"
    cls = "".join(part.capitalize() for part in name.split("-"))
    known, made = registry.entry_points, EntryPoint(name, f"{module}:{cls}", group)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [*known(group=group), *([made] if group == made.group else [])]
    )
