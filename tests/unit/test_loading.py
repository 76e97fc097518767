"""Models by name, folder or hub id: three families, LoRA in 4 and 8 bits, and every refusal with its fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import FAMILIES, stored_quantised, tiny_model, tiny_tokenizer
from huggingface_hub import constants

from harness.config.study import ModelSection, load_study
from harness.data.encode import EncodedPrompt
from harness.engine.policy import Policy
from harness.errors import UserError
from harness.models import loading
from harness.models.loading import load_model, locate, model_config, model_digest
from harness.models.presets import TINY
from harness.models.quantisation import describe_quantisation
from harness.study import setup

CPU = torch.device("cpu")


def folder(path: Path, family: str) -> Path:
    """A tiny random model of a family, as a local folder."""
    tiny_model(family).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_from_a_folder_and_takes_adapters(tmp_path: Path, family: str) -> None:
    name = str(folder(tmp_path / family, family))
    assert model_config(name).model_type == family
    loaded = load_model(ModelSection(name=name), CPU)
    trained = {key.split(".")[-4] for key, value in loaded.model.named_parameters() if value.requires_grad}
    assert trained == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert not any("visual" in key for key, value in loaded.model.named_parameters() if value.requires_grad)
    full = load_model(ModelSection(name=name, tuning="full", freeze_vision=False), CPU)
    assert all(value.requires_grad for value in full.model.parameters())


def test_other_families_are_refused_with_the_list_of_what_is_supported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(UserError) as told:
        load_model(ModelSection(name=str(tmp_path)), CPU)
    for words in ("type llava are not supported", "Qwen2-VL (qwen2_vl), Qwen2.5-VL", "harness/models/families.py"):
        assert words in str(told.value)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot load .*Fetch the folder again"):
        model_config(str(tmp_path))


def test_adapters_in_place_of_a_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct"}))
    with pytest.raises(UserError, match="holds adapters for Qwen/Qwen2-VL-2B-Instruct, not a model"):
        locate(str(tmp_path))


def test_a_model_that_cannot_be_had_offline_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for call in (model_config, model_digest):
        with pytest.raises(UserError, match="model Qwen/Qwen2-VL-2B-Instruct: offline mode is on"):
            call("2b")


def test_a_gated_model_says_how_to_get_access(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import huggingface_hub
    from huggingface_hub import errors

    def gated(*args: Any, **options: Any) -> Any:
        request = SimpleNamespace(url="https://huggingface.co", method="GET")
        raise OSError("You are trying to access a gated repo") from errors.GatedRepoError(
            "403", response=SimpleNamespace(status_code=403, headers={}, request=request)
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    with pytest.raises(UserError, match=r"model a/b: access is restricted\. Accept its terms at https://.*/a/b, log"):
        model_config("a/b")


def _loss(policy: Policy, prompts: list[EncodedPrompt]) -> torch.Tensor:
    values, mask = policy.log_probs(prompts[:2], [[5, 6, 7], [8, 9]])
    return -(values * mask).sum() / mask.sum()


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("stored", [False, True])
def test_adapters_train_on_quantised_weights(
    bits: Any, stored: bool, prompts: list[EncodedPrompt], tmp_path: Path
) -> None:
    """Training after an evaluation too, which bitsandbytes breaks on some CPUs when left alone.

    The weights are quantised while they are loaded, or stored so, the vision tower's too.
    """
    pytest.importorskip("bitsandbytes")
    name = str(stored_quantised(Path(TINY.location), tmp_path, **{f"load_in_{bits}": True})) if stored else "tiny"
    loaded = load_model(ModelSection(name=name, quantisation=bits), CPU)
    quantised = [
        name for name, module in loaded.model.named_modules() if type(module).__module__.startswith("bitsandbytes")
    ]
    layers = loaded.model.config.text_config.num_hidden_layers
    language = [name for name in quantised if "language_model" in name]
    assert len(language) == 7 * layers and (len(quantised) > len(language)) is stored
    tower = "with the vision" if stored else "without the vision"
    assert describe_quantisation(loaded.model).startswith(bits) and tower in describe_quantisation(loaded.model)
    policy = Policy(*loaded)
    plain = Policy(*load_model(ModelSection(), CPU))
    optimizer = torch.optim.SGD([p for p in loaded.model.parameters() if p.requires_grad], lr=0.3)
    losses = []
    for _ in range(3):
        with torch.no_grad():
            losses.append(_loss(policy, prompts).item())
        loaded.model.train()
        _loss(policy, prompts).backward()
        optimizer.step()
        optimizer.zero_grad()
        loaded.model.eval()
    assert losses[2] < losses[1] < losses[0]
    with torch.no_grad():
        assert abs(losses[0] - _loss(plain, prompts).item()) < 0.5, "near the model in full precision"


def test_the_seed_decides_the_first_adapters() -> None:
    """And nothing else does: neither torch's generator before nor the order of calls."""

    def adapters(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)
        model = load_model(ModelSection(), CPU, seed).model
        return torch.cat([value.flatten() for name, value in model.named_parameters() if "lora_A" in name])

    first, other, again = (adapters(seed) for seed in (0, 1, 0))
    assert torch.equal(first, again)
    assert (first - other).norm() > 0.5 * first.norm()


def test_a_cell_draws_its_adapters_by_its_own_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def note(section: ModelSection, device: torch.device, seed: int = 0) -> None:
        seeds.append(seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "load_data", lambda *_, **__: (None, None))
    monkeypatch.setattr(setup, "load_model", note)
    for seed in (0, 3):
        with pytest.raises(KeyboardInterrupt):
            setup.prepare(load_study("tiny"), seed=seed)
    assert seeds == [0, 3]


def test_quantised_weights_cannot_be_trained_themselves() -> None:
    with pytest.raises(ValueError, match='quantisation needs tuning = "lora"'):
        ModelSection(quantisation="4bit", tuning="full")


def test_quantisation_without_bitsandbytes_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r'`model\.quantisation` = "4bit" needs bitsandbytes: pip install'):
        load_model(ModelSection(quantisation="4bit"), CPU)


def test_flash_attention_is_taken_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils

    assert loading.vision_attention(CPU, "fp32") == "sdpa"
    for there in (True, False):
        monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda there=there: there)
        chosen = [
            loading.vision_attention(torch.device(kind), dtype)
            for kind, dtype in (("cuda", "bf16"), ("cuda", "fp32"), ("cpu", "bf16"))
        ]
        assert chosen == ["flash_attention_2" if there else "sdpa", "sdpa", "sdpa"]


def test_the_packaged_model_is_found() -> None:
    assert locate("tiny") == TINY.location
    with pytest.raises(UserError, match="did you mean tiny"):
        locate("tinny")
