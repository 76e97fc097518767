"""Checkpoints: whole or absent, refused when changed, readable by plain transformers and PEFT."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainer_kit import Kit, Stop, make_kit, weights

from harness.engine.policy import Policy
from harness.errors import UserError
from harness.io import read_json
from harness.train import checkpoint as ckpt
from harness.train.checkpoint import list_checkpoints, read_checkpoint, restore_state, restore_weights


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


def train(kit: Kit, folder: Path, policy: Policy | None = None, **changes: Any) -> list[Path]:
    settings: dict[str, Any] = {"budget": ("steps", 2), "checkpoints": 2} | changes
    return kit.trainer(folder, "sft", policy or kit.policy(), **settings).train()


@pytest.fixture(scope="module")
def trained(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, list[Path]]:
    """A fully fine-tuned policy and its two checkpoints; tests only read them."""
    policy = kit.policy()
    return policy, train(kit, tmp_path_factory.mktemp("trained"), policy)


def logits(model: Any, kit: Kit, policy: Policy) -> torch.Tensor:
    prompt = kit.prompts(policy)(1)
    with torch.no_grad():
        output = model(
            input_ids=prompt.input_ids[None],
            mm_token_type_ids=prompt.mm_token_type_ids[None],
            pixel_values_videos=prompt.video.pixel_values,
            video_grid_thw=prompt.video.grid_thw,
        )
    values: torch.Tensor = output.logits
    return values


# ---------------------------------------------------------------------------------------------- what is on disk


def test_plain_transformers_reads_a_checkpoint(kit: Kit, trained: tuple[Policy, list[Path]]) -> None:
    from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

    policy, folders = trained
    model = Qwen2VLForConditionalGeneration.from_pretrained(folders[-1]).eval()
    assert type(model) is Qwen2VLForConditionalGeneration
    assert model.config.text_config._attn_implementation in ("sdpa", "eager")
    for name, value in policy.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    torch.testing.assert_close(logits(model, kit, policy), logits(policy.model, kit, policy), atol=1e-4, rtol=1e-4)
    again = AutoTokenizer.from_pretrained(folders[-1])
    assert again("4 chairs")["input_ids"] == policy.tokenizer("4 chairs")["input_ids"]
    assert again.chat_template == policy.tokenizer.chat_template
    first = Qwen2VLForConditionalGeneration.from_pretrained(folders[0])
    assert any(not torch.equal(value, model.state_dict()[name]) for name, value in first.state_dict().items())


def test_plain_peft_reads_an_adapter(kit: Kit, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import Qwen2VLForConditionalGeneration

    policy = kit.policy(tuning="lora")
    folder = train(kit, tmp_path, policy)[-1]
    base = Qwen2VLForConditionalGeneration.from_pretrained(kit.model)
    without = logits(base, kit, policy)
    model = PeftModel.from_pretrained(base, folder).eval()
    torch.testing.assert_close(logits(model, kit, policy), logits(policy.model, kit, policy), atol=1e-4, rtol=1e-4)
    assert (logits(model, kit, policy) - without).abs().max() > 1e-3


def test_only_safetensors_are_on_disk(kit: Kit, tmp_path: Path) -> None:
    for number, (tuning, frozen, optimizer) in enumerate(
        [("full", True, "adamw_8bit"), ("lora", False, "adamw"), ("lora", True, "adamw")]
    ):
        policy = kit.policy(tuning=tuning, freeze_vision=frozen)
        folder = train(kit, tmp_path / str(number), policy, optimizer=optimizer)[-1]
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md"}
        for path in files:
            if path.suffix == ".safetensors":
                load_file(path)
            else:
                path.read_text(encoding="utf-8")
        assert (folder / "vision.safetensors").exists() == (not frozen)
        assert (folder / "trainer" / "optimizer.safetensors").is_file()


def test_the_manifest_names_every_file_and_the_cell(trained: tuple[Policy, list[Path]]) -> None:
    for folder in trained[1]:
        manifest = read_json(folder / "manifest.json")
        assert manifest["cell"] == "a-cell" and manifest["adapter"] is False
        assert manifest["consumed"]["steps"] == manifest["step"]
        there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"manifest.json"}
        assert there == {name for name in manifest["files"] if (folder / "trainer").exists() or "trainer/" not in name}
    assert read_checkpoint(trained[1][0]).digest != read_checkpoint(trained[1][1]).digest


def test_restored_weights_are_those_that_were_saved(kit: Kit, tmp_path: Path) -> None:
    for number, section in enumerate([{}, {"tuning": "lora"}, {"tuning": "lora", "freeze_vision": False}]):
        policy = kit.policy(**section)
        folder = train(kit, tmp_path / str(number), policy)[-1]
        fresh = kit.policy(seed=5, **section)
        restore_weights(fresh.model, read_checkpoint(folder))
        mine, theirs = fresh.model.state_dict(), policy.model.state_dict()
        assert all(torch.equal(mine[name], value) for name, value in theirs.items())


# ---------------------------------------------------------------------------------------------- refusals


def copy_of(folder: Path, place: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, place / "checkpoints" / folder.name))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "trainer/optimizer.safetensors"])
def test_a_flipped_byte_is_refused_and_the_file_named(
    trained: tuple[Policy, list[Path]], tmp_path: Path, name: str
) -> None:
    folder = copy_of(trained[1][-1], tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}.*digest") as caught:
        read_checkpoint(folder)
    assert str(folder.parent) in str(caught.value)


def test_a_missing_file_is_named(kit: Kit, trained: tuple[Policy, list[Path]], tmp_path: Path) -> None:
    folder = copy_of(trained[1][-1], tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"lacks tokenizer\.json"):
        read_checkpoint(folder)
    with pytest.raises(UserError, match=r"lacks tokenizer\.json"):
        train(kit, tmp_path)


def test_a_torn_manifest_is_named(trained: tuple[Policy, list[Path]], tmp_path: Path) -> None:
    folder = copy_of(trained[1][-1], tmp_path)
    (folder / "manifest.json").write_text('{"step": ')
    with pytest.raises(UserError, match=r"manifest\.json.*JSON"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {}},
        {"files": {"../manifest.json": "0"}},
        {"files": None},
        {"step": "first"},
        {"adapter": None},
        {"digest": "0" * 64},
    ],
)
def test_a_manifest_that_does_not_say_what_is_there_is_refused(
    trained: tuple[Policy, list[Path]], tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = copy_of(trained[1][-1], tmp_path)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(read_json(manifest) | change))
    with pytest.raises(UserError, match=rf"manifest\.json.*({next(iter(change))}|digest).*train again"):
        read_checkpoint(folder)
    manifest.write_text("[]")
    with pytest.raises(UserError, match=r"manifest\.json.*train again"):
        read_checkpoint(folder)


def test_an_adapter_is_refused_in_full_tuning_and_the_reverse(
    kit: Kit, trained: tuple[Policy, list[Path]], tmp_path: Path
) -> None:
    adapter = train(kit, tmp_path, kit.policy(tuning="lora"))[-1]
    with pytest.raises(UserError, match=r"holds LoRA adapters.*model\.tuning"):
        restore_weights(kit.policy().model, read_checkpoint(adapter))
    with pytest.raises(UserError, match=r"holds full weights.*model\.tuning"):
        restore_weights(kit.policy(tuning="lora").model, read_checkpoint(trained[1][-1]))
    for other in ({"lora_rank": 4}, {"lora_alpha": 8}):
        with pytest.raises(UserError, match=r"does not fit.*(r|lora_alpha) = "):
            restore_weights(kit.policy(tuning="lora", **other).model, read_checkpoint(adapter))


def _rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file({name: one.clone() for name, one in change(load_file(path)).items()}, path, {"format": "pt"})


ADAPTERS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "one missing": lambda all: dict(list(all.items())[1:]),
    "one renamed": lambda all: {name.replace("layers.0.mlp", "layers.9.mlp"): one for name, one in all.items()},
    "one too many": lambda all: all | {"base_model.model.other.lora_A.weight": torch.ones(1)},
    "another rank": lambda all: {name: one[:1] if "lora_A" in name else one for name, one in all.items()},
    "NaN": lambda all: all | {name: torch.full_like(one, torch.nan) for name, one in list(all.items())[:1]},
}


def test_adapters_are_loaded_whole_or_not_at_all(kit: Kit, tmp_path: Path) -> None:
    """PEFT itself leaves out what does not fit; a digest that agrees is no proof either."""
    checkpoint = read_checkpoint(train(kit, tmp_path, kit.policy(tuning="lora"))[-1])
    file, settings = (checkpoint.folder / f"adapter_{name}" for name in ("model.safetensors", "config.json"))
    model, content = kit.policy(tuning="lora").model, file.read_bytes()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    for case, change in ADAPTERS.items():
        _rewrite(file, change)
        with pytest.raises(UserError, match="NaN" if case == "NaN" else "differ in name or shape: base_model"):
            restore_weights(model, checkpoint)
        file.write_bytes(content)
    settings.write_text(json.dumps(read_json(settings) | {"use_rslora": True}))
    with pytest.raises(UserError, match="use_rslora = True"):
        restore_weights(model, checkpoint)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_full_weights_that_lack_a_tensor_are_refused(
    kit: Kit, trained: tuple[Policy, list[Path]], tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(copy_of(trained[1][-1], tmp_path))
    _rewrite(
        checkpoint.folder / "model.safetensors", lambda all: {n: one for n, one in all.items() if "0.mlp.up" not in n}
    )
    with pytest.raises(UserError, match=r"1 missing: .*layers\.0\.mlp\.up_proj\.weight"):
        restore_weights(kit.policy().model, checkpoint)


def test_weights_of_another_shape_are_refused(kit: Kit, trained: tuple[Policy, list[Path]]) -> None:
    policy = kit.policy()
    policy.model.model.language_model.norm = torch.nn.LayerNorm(3)
    with pytest.raises(UserError, match="does not fit this model"):
        restore_weights(policy.model, read_checkpoint(trained[1][-1]))


def test_only_the_last_checkpoint_can_be_continued(kit: Kit, trained: tuple[Policy, list[Path]]) -> None:
    earlier = read_checkpoint(trained[1][0])
    with pytest.raises(UserError, match=r"no optimiser state.*delete the folder"):
        restore_state(earlier, torch.optim.AdamW(kit.policy().model.parameters()))


# ---------------------------------------------------------------------------------------------- kills and full disks


def test_a_crash_before_the_rename_leaves_no_checkpoint(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that a killed process leaves is rebuilt here by keeping it from being removed."""
    real, removed = Path.rename, ckpt.shutil.rmtree

    def rename(path: Path, target: Path) -> Path:
        if path.name == ".step-000002.tmp":
            raise Stop
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        patch.setattr(ckpt.shutil, "rmtree", lambda path, **_: None if ".tmp" in path.name else removed(path))
        with pytest.raises(Stop):
            train(kit, tmp_path)
    root = tmp_path / "checkpoints"
    assert sorted(path.name for path in root.iterdir()) == [".step-000002.tmp", "step-000001"]
    assert [folder.name for folder in list_checkpoints(root)] == ["step-000001"]
    (root / ".step-notes.tmp").mkdir()
    (root / "step-000001" / "trainer" / "notes.md").write_text("mine")
    assert [folder.name for folder in train(kit, tmp_path)] == ["step-000001", "step-000002"]
    assert sorted(path.name for path in root.iterdir()) == [".step-notes.tmp", "step-000001", "step-000002"]
    assert [path.read_text() for path in (root / "step-000001").rglob("notes.md")] == ["mine"]


def test_a_kill_while_old_states_are_dropped_costs_nothing(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.unlink

    def half(path: Path, **options: Any) -> None:
        there = path.exists()
        real(path, **options)
        if there and path.parent.name == ".trainer.tmp":
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", half)
        with pytest.raises(Stop):
            train(kit, tmp_path, budget=("steps", 3), checkpoints=3)
    found = list_checkpoints(tmp_path / "checkpoints")
    assert [read_checkpoint(folder).step for folder in found] == [1, 2]
    folders = train(kit, tmp_path, budget=("steps", 3), checkpoints=3)
    assert [read_checkpoint(folder).step for folder in folders] == [1, 2, 3]
    assert [sorted(path.name for path in folder.iterdir() if "trainer" in path.name) for folder in folders] == [
        [],
        [],
        ["trainer"],
    ]


@pytest.mark.parametrize("where", ["weights", "state", "sync"])
def test_a_full_disk_keeps_the_last_checkpoint_and_gives_its_space_back(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    policy = kit.policy()

    def progress(step: int, steps: int, numbers: dict[str, float]) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise full

        if where == "weights":
            monkeypatch.setattr(policy.model, "save_pretrained", refuse)
        elif where == "state":
            monkeypatch.setattr(ckpt, "save_file", refuse)
        else:
            monkeypatch.setattr(ckpt, "_sync", refuse)

    with pytest.raises(OSError, match="No space left"):
        train(kit, tmp_path, policy, progress=progress)
    monkeypatch.undo()
    root = tmp_path / "checkpoints"
    assert [path.name for path in root.iterdir()] == ["step-000001"]
    assert read_checkpoint(root / "step-000001").step == 1
    assert (root / "step-000001" / "trainer").is_dir()
    assert len(train(kit, tmp_path)) == 2


def test_checkpoints_are_ordered_by_step(tmp_path: Path) -> None:
    for step in (1_000_000, 20, 999_999):
        folder = tmp_path / ckpt.folder_name(step)
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps({}))
    (tmp_path / ckpt.folder_name(30)).mkdir()  # without a manifest it is none
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-000020", "step-999999", "step-1000000"]


def test_a_checkpoint_survives_its_model(kit: Kit, trained: tuple[Policy, list[Path]]) -> None:
    """Weights are copied out of the file, so that training on does not write into the checkpoint."""
    policy, folder = kit.policy(), trained[1][-1]
    restore_weights(policy.model, read_checkpoint(folder))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.zero_()
    assert any(value.any() for value in weights(trained[0]).values())
    read_checkpoint(folder)
