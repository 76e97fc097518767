"""Files of strangers: nothing of theirs runs or names other files, and every place that loads one is listed."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.config.study import ModelSection
from harness.data.archives import extract_members
from harness.errors import UserError
from harness.models.conversation import conversation_notes
from harness.models.loading import check_model, model_config, model_digest
from harness.models.presets import TINY

ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "configuration": ("config.json", {"auto_map": {"AutoConfig": "evil.Config"}}),
    "unknown family": ("config.json", {"model_type": "odd", "auto_map": {"AutoConfig": "evil.Config"}}),
    "of another repository": ("config.json", {"auto_map": {"AutoModel": "someone/else--evil.Model"}}),
    "tokenizer in config": ("config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
    "deep": ("config.json", {"vision_config": {"auto_map": {"AutoModel": "evil.Model"}}}),
    "in a list": ("config.json", {"parts": [[{"auto_map": {"AutoModel": "evil.Model" * 99}}]]}),
    "kernel": ("config.json", {"_attn_implementation": "someone/kernel"}),
    "tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
    "tokenizer class": ("tokenizer_config.json", {"tokenizer_class": "RagRetriever"}),
    "images": ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.Processor"}}),
    "videos": ("video_preprocessor_config.json", {"auto_map": {"AutoVideoProcessor": "evil.Processor"}}),
    "processor": ("processor_config.json", {"image_processor": {"auto_map": {"AutoProcessor": "evil.Processor"}}}),
    "generation": ("generation_config.json", {"custom_generate": "someone/decoding"}),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The embedded model with a module that leaves a trace when it runs."""
    folder = shutil.copytree(TINY.location, tmp_path / "model")
    classes = "".join(f"class {name}: pass\n" for name in ("Config", "Model", "Tokenizer", "Processor"))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{classes}")
    return folder


@pytest.mark.parametrize("kind", ASKS)
def test_a_model_that_asks_for_code_is_refused_by_file_and_key(
    model: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, asks = ASKS[kind]
    content = json.loads((model / name).read_text()) if (model / name).exists() else {}
    (model / name).write_text(json.dumps(content | asks))
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    for call in (lambda: check_model(ModelSection(name=str(model))), *(lambda f=f: f(str(model)) for f in DOORS)):
        with pytest.raises(UserError, match=rf"{name}`: `\w+` = .* asks for code") as told:
            call()
        assert next(reversed(asks)) in str(told.value) or "auto_map" in str(told.value)
    assert not (model.parent / "ran").exists()


DOORS = (model_config, conversation_notes, model_digest)


def test_a_function_of_the_model_that_generates_is_refused(model: Path) -> None:
    (model / "custom_generate").mkdir()
    (model / "evil.py").rename(model / "custom_generate" / "generate.py")
    with pytest.raises(UserError, match=r"custom_generate`: code .* never run\. Delete the folder"):
        check_model(ModelSection(name=str(model)))
    assert not (model.parent / "ran").exists()


def test_a_checkpoint_that_asks_for_code_is_refused(model: Path) -> None:
    from harness.train.checkpoint import _restore_full

    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(content | {"auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(UserError, match=r"`auto_map` = .* asks for code"):
        _restore_full(object(), model)


LOADERS: dict[str, tuple[dict[str, str], set[str]]] = {
    "from_pretrained": (
        {"trust_remote_code": "False"},
        {
            "harness/models/loading.py",
            "harness/models/conversation.py",
            "harness/models/weights.py",
            "harness/train/checkpoint.py",
            "harness/world/pretrain/network.py",
            "harness/world/pretrain/curriculum.py",
        },
    ),
    "apply_chat_template": ({}, {"harness/models/conversation.py", "harness/data/encode.py"}),
    "safe_open": ({}, {"harness/models/weights.py"}),
    "load_file": ({}, {"harness/train/checkpoint.py"}),
    "torch.load": ({"weights_only": "True"}, {"harness/world/pretrain/trainer.py"}),
    "np.load": ({"allow_pickle": "False"}, {"harness/data/video/cache.py", "harness/world/pretrain/shards.py"}),
    "av.open": (
        {},
        {"harness/data/video/container.py", "harness/data/video/images.py", "harness/world/video.py"},
    ),
    "Image.open": ({}, {"harness/data/video/images.py"}),
    "zipfile.ZipFile": ({}, {"harness/data/archives.py"}),
    "snapshot_download": ({}, {"harness/hub.py"}),
    "jinja2.Environment": ({}, {"reports/page/page.py"}),
    "import_module": ({}, {"harness/api/__init__.py", "harness/study/report.py"}),
    "spec_from_file_location": ({}, {"harness/plugins/registry.py"}),
    "exec_module": ({}, {"harness/plugins/registry.py"}),
    "os.execve": ({}, {"harness/cli/app.py"}),
    "Popen": ({}, {"harness/study/launch.py", "harness/study/process.py"}),
}
"""Every call that loads a foreign file by a library, or runs something: the flags it needs and where it may stand.

Text, JSON and TOML are read by harness/io.py alone (test_architecture.py). ``import_module`` has names of our own.
"""

_RUNS = re.compile(
    r"^(eval|exec|compile|__import__)$|\b(pickle|dill|cloudpickle|joblib|shelve|marshal|yaml|minidom|ElementTree)\.\w+$"
    r"|^os\.(system|popen|exec\w*|spawn\w*)$|^subprocess\.\w+$|\b(load_dataset|run_path|run_module|unpack_archive)$"
    r"|\b(read_pickle|loadtxt|genfromtxt|memmap|fromfile|hf_hub_download|cached_file|from_string|extractall)$|^tarfile\."
)
"""What is not called at all, but for what :data:`LOADERS` names."""


def faults(tree: ast.Module, file: str) -> list[str]:
    """The loaders of a module that stand outside their place or lack their flag."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        last = called.rpartition(".")[2]
        known = LOADERS.get(called) or LOADERS.get(last)
        wrong = known and (file not in known[1] or any(options.get(flag) != value for flag, value in known[0].items()))
        if wrong or (not known and _RUNS.search(called)) or "shell" in options:
            found.append(f"{file}:{node.lineno}: {called}")
    return found


def test_every_place_that_loads_a_foreign_file_is_listed_and_says_its_flag() -> None:
    root = Path(__file__).parents[2]
    paths = [
        path for package in ("harness", "reports", "algorithms", "rewards") for path in (root / package).rglob("*.py")
    ]
    found = [one for path in paths for one in faults(ast.parse(path.read_text()), path.relative_to(root).as_posix())]
    assert not found, "list it in LOADERS, with the flag that keeps it from running what it reads"


@pytest.mark.parametrize(
    ("line", "file", "caught"),
    [
        ("pickle.loads(data)", "harness/io.py", True),
        ("torch.load(path)", "harness/world/pretrain/trainer.py", True),
        ("torch.load(path, weights_only=True)", "harness/world/pretrain/trainer.py", False),
        ("torch.load(path, weights_only=True)", "harness/models/weights.py", True),
        ("np.load(path)", "harness/data/video/cache.py", True),
        ("AutoModel.from_pretrained(x)", "harness/models/weights.py", True),
        ("av.open(path)", "harness/data/prepare.py", True),
        ("subprocess.run(['ls'])", "harness/doctor.py", True),
        ("subprocess.Popen('ls', shell=True)", "harness/study/launch.py", True),
        ("datasets.load_dataset(name)", "algorithms/guests/trl.py", True),
        ("eval(text)", "rewards/mra.py", True),
        ("model.eval()", "rewards/mra.py", False),
        ("re.compile(text)", "rewards/mra.py", False),
    ],
)
def test_which_calls_are_caught(line: str, file: str, caught: bool) -> None:
    assert bool(faults(ast.parse(line), file)) is caught


def test_what_is_written_follows_the_umask(tmp_path: Path) -> None:
    """safetensors writes files that their owner alone can read."""
    from engine_kit import tiny_model, tiny_tokenizer

    from harness.train.checkpoint import save_checkpoint

    before = os.umask(0o027)
    try:
        network = tiny_model()
        optimizer = torch.optim.AdamW(network.parameters())
        folder = save_checkpoint(tmp_path, 1, network, tiny_tokenizer(), optimizer, {}, {}).folder
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a.mp4", b"film")
        list(extract_members(tmp_path / "a.zip", {"a.mp4": folder / "a.mp4"}))
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file()}
    assert {"model.safetensors", "optimizer.safetensors", "a.mp4"} <= modes.keys()
    assert set(modes.values()) == {"0o640"}


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/hostname", "a/../../b.safetensors", "sub/a.safetensors"]
)
def test_an_index_names_no_file_outside_its_folder(model: Path, name: str) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(UserError, match="names a file outside its folder"):
        check_model(ModelSection(name=str(model)))


def test_pretraining_keeps_no_pickles(tmp_path: Path) -> None:
    from harness.world.pretrain.shards import make_example, read_shard, write_shard
    from harness.world.renderer import sample_scene

    write_shard(tmp_path / "0.npy", range(20), 2)
    scenes = [scene for seed in range(20) if (scene := sample_scene(seed))][:2]
    frames, examples = read_shard(tmp_path / "0.npy")
    assert len(frames) == len(examples) == 2
    for ours, scene in zip(examples, scenes, strict=True):
        made = make_example(scene, 4)
        assert ours.questions == made.questions and ours.vision.keys() == made.vision.keys()
        for name in ("known", "nearest"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(made, name))
        for name, values in made.vision.items():
            assert ours.vision[name].dtype == values.dtype
            np.testing.assert_array_equal(ours.vision[name], values)
