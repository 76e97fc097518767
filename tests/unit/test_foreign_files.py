"""Files of strangers: nothing in a model's folder runs, wherever it asks for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.config.study import ModelSection
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
