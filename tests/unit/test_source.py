"""The digest of a plugin's code: meaning counts, form does not, wherever the code stands."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.plugins import registry
from harness.plugins.source import source_digest

REWARD = '''"""A reward."""
from pydantic import Field

from harness.api.config import StrictConfig
from harness.api.reward import Reward


class LengthConfig(StrictConfig):
    scale: float = Field(1.0, description="What a letter counts.")


class Length(Reward):
    """Long answers."""

    Config = LengthConfig

    def score(self, text, record, mode):
        return self.config.scale * len(text)
'''


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_files", {})


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The digest of the reward `mine` of `--plugin mine.py`, beside which further files are written."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def of(text: str, **files: str) -> str:
        registry._files.clear()
        for name, content in {"mine": text, **files}.items():
            (tmp_path / f"{name}.py").write_text(content)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        registry.add_file(tmp_path / "mine.py")
        return source_digest(registry.load("rewards", "mine"))

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return self", "return -self"),
        ("Field(1.0", "Field(2.0"),
        ("len(text)", "len(text.strip())"),
        ("        return", "        if not text:\n            return None\n        return"),
    ],
)
def test_what_a_reward_computes_changes_the_digest(digest: Callable[..., str], old: str, new: str) -> None:
    assert old in REWARD and digest(REWARD) != digest(REWARD.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class Length(", "# a remark\n\n\nclass Length("),
        ('"""Long answers."""', '"""Short\n\n    answers.\n    """'),
        (
            "    def score(self, text, record, mode):\n",
            '    def score(self, text, record, mode):\n        """Score."""\n',
        ),
        ("self.config.scale * len(text)", "(\n            self.config.scale\n            * len( text )\n        )"),
        ("    Config = LengthConfig\n", '    Config = LengthConfig\n    """Its options."""\n'),
        ("What a letter counts.", "The reward of a letter."),
        ('"""A reward."""\n', ""),
        ("        return self", "        pass\n        return self"),
    ],
)
def test_how_it_is_written_does_not(digest: Callable[..., str], old: str, new: str) -> None:
    assert old in REWARD and digest(REWARD) == digest(REWARD.replace(old, new))


def test_a_description_counts_in_any_call_but_that_of_a_field(digest: Callable[..., str]) -> None:
    mine = REWARD.replace("len(text)", 'dict(description="a")["description"].count(text)')
    assert digest(mine) != digest(mine.replace('description="a"', 'description="b"'))
    qualified = mine.replace("from pydantic import Field", "import pydantic").replace("Field(", "pydantic.Field(")
    assert digest(qualified) == digest(qualified.replace("What a letter counts.", "The reward of a letter."))


def test_modules_beside_a_plugin_file_are_followed_to_the_end(digest: Callable[..., str]) -> None:
    mine = REWARD.replace("from pydantic", "from helper import scale\nfrom pydantic").replace(
        "* len", "* scale() * len"
    )
    helper = "import numpy\nfrom deeper import SCALE\n\n\ndef scale():\n    return SCALE\n"
    before = digest(mine, helper=helper, deeper="SCALE = 1")
    assert digest(mine, helper=helper, deeper="SCALE = 1  # of one") == before
    assert digest(mine, helper=helper, deeper="SCALE = 2") != before
    assert digest(mine, helper=helper.replace("SCALE\n\n", "SCALE\n\nSCALE *= 2\n"), deeper="SCALE = 1") != before


def test_an_import_inside_a_function_is_followed(digest: Callable[..., str]) -> None:
    mine = REWARD.replace("        return", "        from later import scale\n\n        return scale *")
    assert digest(mine, later="scale = 1") != digest(mine, later="scale = 2")


def test_a_base_class_in_another_file_counts(digest: Callable[..., str]) -> None:
    child = "from parent import Length\n\n\nclass Longer(Length):\n    name = 'mine'\n"
    before = digest(child, parent=REWARD)
    assert digest(child, parent=REWARD.replace("return self", "return -self")) != before
    assert digest(child, parent=REWARD + "\n\n# a remark\n") == before


def test_a_moved_plugin_file_is_the_same_plugin(digest: Callable[..., str], tmp_path: Path) -> None:
    before = digest(REWARD)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.py").rename(tmp_path / "elsewhere" / "mine.py")
    registry._files.clear()
    registry.add_file(tmp_path / "elsewhere" / "mine.py")
    assert source_digest(registry.load("rewards", "mine")) == before


def test_a_package_is_followed_by_relative_imports_and_nothing_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "source_digest_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "reward.py").write_text(
        REWARD.replace(
            "        return", "        from . import parts\n        from .parts import letters\n\n        return"
        )
    )
    (package / "parts.py").write_text("raise RuntimeError('executed')\nletters = len\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    cls = importlib.import_module("source_digest_package.reward").Length
    before = source_digest(cls)
    (package / "parts.py").write_text("raise RuntimeError('executed')\nletters = sum\n")
    assert source_digest(cls) != before
    assert "source_digest_package.parts" not in sys.modules


PACK = {"pack/__init__.py": "from .parts import *\n__all__ = ['sub']", "pack/parts.py": "X = 1", "pack/sub.py": "Y = 1"}
WAYS = {
    "from aside import *": ({"aside.py": "X = 1"}, "aside.py"),
    "import importlib; aside = importlib.import_module('aside')": ({"aside.py": "X = 1"}, "aside.py"),
    "aside = __import__('aside')": ({"aside.py": "X = 1"}, "aside.py"),
    "import pack.sub": (PACK, "pack/__init__.py"),
    "from pack import sub": (PACK, "pack/parts.py"),
    "from pack import *": (PACK, "pack/sub.py"),
    "from names.deep import part": ({"names/deep/part.py": "X = 1"}, "names/deep/part.py"),
    "import aside as h": ({"aside.py": "K = open('table.json')", "table.json": "[1]"}, "table.json"),
    "import open_": ({"open_.py": "K = 'lists/words.txt'", "lists/words.txt": "1"}, "lists/words.txt"),
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_a_plugin_file_brings_along_counts(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is imported, without being executed; its own name as a string is no data file."""
    files, edited = WAYS[way]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = f"OWN = 'mine.py'\nif not OWN:\n    {way}\n"
    (tmp_path / "mine.py").write_text(REWARD + mine)
    registry.add_file(tmp_path / "mine.py")
    before = source_digest(registry.load("rewards", "mine"))
    (tmp_path / "mine.py").write_text(REWARD + mine + "# a remark\n")
    assert source_digest(registry.load("rewards", "mine")) == before
    (tmp_path / edited).write_text(files[edited].replace("1", "2") + ("" if "1" in files[edited] else "\nZ = 2"))
    importlib.invalidate_caches()
    assert source_digest(registry.load("rewards", "mine")) != before
    assert not {"aside", "pack", "names", "open_"} & sys.modules.keys()


REWARDS, SAMPLER, ENGINE = (
    {f"{method} {part}" for method in ("grpo", "sft")} for part in ("rewards", "sampler", "engine")
)
CHANGES = [
    ("harness/api/losses.py", "ratio.clamp(1 - low, 1 + high)", "ratio.clamp(1 - low, 1 + 2 * high)", {"grpo method"}),
    ("harness/api/experience.py", "/ max(1, size(scored))", "/ max(2, size(scored))", {"grpo method"}),
    ("harness/vsibench/numbers.py", '"thousand": 1000', '"thousand": 1001', REWARDS),
    ("harness/vsibench/prompts.py", "SYSTEM = ", "SYSTEM = 'Hm. ' + ", REWARDS | ENGINE),
    ("harness/data/corruption.py", "rng", "random", ENGINE),
    ("harness/engine/sampler.py", "temperature", "heat", SAMPLER | {"answers"}),
    ("algorithms/grpo.py", "SCALE_EPSILON = 1e-4", "SCALE_EPSILON = 1e-3", {"grpo method"}),
    ("rewards/choice.py", "float(matches", "-float(matches", REWARDS),
]


@pytest.mark.parametrize(("file", "old", "new", "changed"), CHANGES, ids=[one[0] for one in CHANGES])
def test_what_changes_where_in_the_package(
    file: str, old: str, new: str, changed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of a cell's sources, before and after a change of one file; a comment changes none."""
    from harness.config.study import load_study
    from harness.study.identity import evaluation_identities, training_identity

    def sources(change: Callable[[str], str]) -> dict[str, str]:
        read, study = Path.read_bytes, load_study("tiny", methods=["grpo", "sft"])

        def read_changed(path: Path) -> bytes:
            source = read(path)
            return change(source.decode()).encode() if str(path).endswith(file) else source

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", read_changed)
            found: dict[str, str] = {}
            for method in study.methods:
                parts = training_identity(study, method, study.algorithm(method))["sources"]
                found |= {f"{method} {name}": str(value) for name, value in parts.items()}
            answers = evaluation_identities(study, {"vsibench": "q"})["vsibench"]
            return found | {"answers": answers.sources}

    before = sources(lambda text: text)
    assert sources(lambda text: f"# a remark\n{text}\n\n") == before
    assert old in Path(__file__).parents[2].joinpath(file).read_text()
    after = sources(lambda text: text.replace(old, new))
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_class_without_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.api.reward import Reward

    made = type("Made", (Reward,), {"__module__": "no_such_module_at_all"})
    with pytest.raises(UserError, match="no_such_module_at_all: its source file cannot be found"):
        source_digest(made)
