"""Checkpoints as people have them: torn, pruned, wrapped, mixed up or quantised. They load whole or are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import FAMILIES, stored_quantised, tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.config.study import ModelSection
from harness.errors import UserError
from harness.models.conversation import conversation_notes
from harness.models.loading import check_model, load_model, model_digest

CPU = torch.device("cpu")
MLP = "model.language_model.layers.1.mlp"
Tensors = dict[str, Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


def model_folder(path: Path, family: str = "qwen2_vl", **save: Any) -> Path:
    tiny_model(family).save_pretrained(path, save_original_format=False, **save)
    tiny_tokenizer().save_pretrained(path)
    return path


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file({name: one.clone() for name, one in change(load_file(path)).items()}, path, {"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    """Change config.json; ``text__key`` is a key of the language model."""
    document = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        place, _, name = key.rpartition("__")
        (document["text_config"] if place else document)[name] = value
    (folder / "config.json").write_text(json.dumps(document))


def refused(folder: Path, words: str, **section: Any) -> None:
    """By the check alone and by loading, in the same words; in no case with a traceback of a library."""
    for call in (lambda one: check_model(one), lambda one: load_model(one, CPU)):
        with pytest.raises(UserError, match=words):
            call(ModelSection(name=str(folder), **section))


def same_as(folder: Path, weights: Tensors) -> bool:
    loaded = load_model(ModelSection(name=str(folder), tuning="full"), CPU).model.state_dict()
    return all(torch.equal(loaded[name], one) for name, one in weights.items())


BROKEN: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "tensors dropped": (
        lambda all: {name: one for name, one in all.items() if not name.startswith(MLP)},
        rf"3 missing: {MLP}\.down_proj\.weight, .*up_proj\.weight\. Fetch the folder again",
    ),
    "a layer too many": (
        lambda all: (
            all | {name.replace("layers.1", "layers.3"): one for name, one in all.items() if "layers.1" in name}
        ),
        r"without a place in it: model\.language_model\.layers\.3\.",
    ),
    "a prefix and a tensor short": (
        lambda all: {f"module.{name}": one for name, one in all.items() if f"{MLP}.up" not in name},
        r"without a place in it: module\.",
    ),
    "a prefix on some": (
        lambda all: {f"module.{name}" if "visual" in name else name: one for name, one in all.items()},
        r"missing: model\.visual\.",
    ),
    "adapters that were not merged": (
        lambda all: all | {f"{MLP}.up_proj.lora_A.default.weight": torch.ones(2, 32)},
        "merge_and_unload",
    ),
    "ZeRO-3": (
        lambda all: {name: one if "norm" in name else torch.empty(0) for name, one in all.items()},
        r"empty tensors: lm_head\.weight, .*ZeRO-3.*zero_to_fp32",
    ),
    "NaN": (
        lambda all: (
            all | {f"{MLP}.up_proj.weight": all[f"{MLP}.up_proj.weight"].index_fill(0, torch.tensor(3), torch.nan)}
        ),
        rf"NaN or infinite values in {MLP}\.up_proj\.weight",
    ),
    "infinity": (
        lambda all: all | {"lm_head.weight": all["lm_head.weight"].half().index_fill(1, torch.tensor(0), -torch.inf)},
        r"NaN or infinite values in lm_head\.weight",
    ),
    "whole numbers": (
        lambda all: all | {f"{MLP}.up_proj.weight": all[f"{MLP}.up_proj.weight"].to(torch.int8)},
        rf"no floating-point numbers in {MLP}\.up_proj",
    ),
    "under the names of two versions": (
        lambda all: (
            all | {name.replace("model.visual", "visual"): one for name, one in all.items() if "visual" in name}
        ),
        "there twice, under the names of two versions",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_tensors_that_do_not_fit_are_named(folder: Path, case: str) -> None:
    change, words = BROKEN[case]
    rewrite(folder, change)
    refused(folder, words)


def test_matrices_of_zeros_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A download into a file of full size that was cut off; a bias of zeros is nothing special."""
    name = f"{MLP}.up_proj.weight"
    rewrite(folder, lambda all: {n: one * 0 if n == name or one.ndim < 2 else one for n, one in all.items()})
    assert [one for one in check_model(ModelSection(name=str(folder))) if "zeros" in one] == [
        f"nothing but zeros, as a download that was cut off leaves them: {name}"
    ]
    load_model(ModelSection(name=str(folder), tuning="full"), CPU)
    assert name in caplog.text


@pytest.mark.parametrize("left", [[], ["tokenizer_config.json"]])
def test_a_folder_without_a_tokenizer_is_refused(folder: Path, left: list[str]) -> None:
    """As ``model.save_pretrained`` leaves it; transformers would make a tokenizer of one token."""
    for path in folder.glob("*token*"):
        if path.name not in left:
            path.unlink()
    for call in (lambda: conversation_notes(str(folder)), lambda: load_model(ModelSection(name=str(folder)), CPU)):
        with pytest.raises(UserError, match=r"it has no tokenizer\.json\. Copy the tokenizer's files"):
            call()


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "width": (
        {"text__hidden_size": 64},
        r"of another shape: lm_head\.weight \(\[64, 32\] in the file, \[64, 64\] by",
    ),
    "fewer layers": (
        {"text__num_hidden_layers": 2, "text__layer_types": None},
        r"without a place in it: model\.language_model\.layers\.2\.",
    ),
    "more layers": (
        {"text__num_hidden_layers": 4, "text__layer_types": None},
        r"missing: model\.language_model\.layers\.3\.",
    ),
    "vocabulary": ({"text__vocab_size": 50}, r"of another shape: lm_head\.weight"),
    "tied": ({"tie_word_embeddings": True}, r"`tie_word_embeddings` = true, but lm_head\.weight is another matrix"),
    "heads": ({"text__num_attention_heads": 2, "text__head_dim": None}, "`mrope_section` = .* 8 wide, .* 16 wide"),
    "no sections": ({"text__rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, "`mrope_section` = null"),
    "a padding token out of range": ({"text__pad_token_id": 10**12}, "cannot load .*Padding_idx"),
    "other files": ({"transformers_weights": "other.safetensors"}, "`transformers_weights`"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_of_another_model_is_refused(folder: Path, case: str) -> None:
    changes, words = CONFIGS[case]
    configure(folder, **changes)
    refused(folder, words)


def test_an_output_layer_may_be_absent_or_stored_twice_where_it_is_the_embedding(folder: Path) -> None:
    """As published Qwen2-VL-2B has it, and as DeepSpeed saves it."""
    embedding = load_file(folder / "model.safetensors")["model.language_model.embed_tokens.weight"]
    configure(folder, tie_word_embeddings=True)
    for head in ({"lm_head.weight": embedding}, {}):
        rewrite(folder, lambda all, head=head: {n: one for n, one in all.items() if n != "lm_head.weight"} | head)
        model = load_model(ModelSection(name=str(folder), tuning="full"), CPU).model
        assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
        assert torch.equal(model.lm_head.weight, embedding)
        assert check_model(ModelSection(name=str(folder))) == []
    configure(folder, tie_word_embeddings=False)
    refused(folder, r"1 missing: lm_head\.weight\. .*tie_word_embeddings = true")


@pytest.mark.parametrize("prefix", ["module.", "base_model.model.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("old", [False, True])
def test_a_known_prefix_of_all_names_is_taken_off(
    folder: Path, tmp_path: Path, prefix: str, old: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Of today's names and of those before transformers 4.52; a checkpoint saved afterwards has plain names."""
    before = load_file(folder / "model.safetensors")

    def wrapped(name: str) -> str:
        return prefix + (
            name.replace("model.language_model.", "model.").replace("model.visual", "visual") if old else name
        )

    rewrite(folder, lambda all: {wrapped(name): one for name, one in all.items()})
    (remark,) = check_model(ModelSection(name=str(folder)))
    assert f"all {len(before)} names of its tensors begin with {prefix}" in remark
    assert same_as(folder, before) and prefix in caplog.text
    load_model(ModelSection(name=str(folder), tuning="full"), CPU).model.save_pretrained(tmp_path / "again")
    assert not any(name.startswith(("module", "base")) for name in load_file(tmp_path / "again" / "model.safetensors"))


def test_buffers_of_older_versions_are_ignored_and_named(folder: Path) -> None:
    before, name = load_file(folder / "model.safetensors"), "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(folder, lambda all: all | {name: torch.ones(4)})
    (remark,) = check_model(ModelSection(name=str(folder)))
    assert name in remark and same_as(folder, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_load_like_one_file(tmp_path: Path, family: str) -> None:
    whole = load_file(model_folder(tmp_path / "one", family) / "model.safetensors")
    parts = model_folder(tmp_path / "parts", family, max_shard_size="30KB")
    assert len(list(parts.glob("model-*.safetensors"))) > 2 and same_as(parts, whole)
    save_file({"other": torch.ones(2)}, parts / "consolidated.safetensors")
    (remark,) = check_model(ModelSection(name=str(parts)))
    assert "not read" in remark and "consolidated.safetensors" in remark


def test_shard_lists_that_do_not_say_what_is_there_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", max_shard_size="30KB")
    index, first = folder / "model.safetensors.index.json", sorted(folder.glob("model-*.safetensors"))[0]
    listed, content = json.loads(index.read_text()), first.read_bytes()
    index.write_text(json.dumps(listed | {"weight_map": listed["weight_map"] | {"model.ghost": first.name}}))
    refused(folder, r"index\.json.*in no file: model\.ghost")
    index.write_text(json.dumps(listed | {"weight_map": {"a": "../b.safetensors"}}))
    refused(folder, "outside its folder")
    for nonsense in ({"metadata": {}}, {"weight_map": []}, [], {"weight_map": {"a": 1}}):
        index.write_text(json.dumps(nonsense))
        refused(folder, "`weight_map` names no files")
    index.write_text("{")
    refused(folder, "cannot be read as JSON")
    index.write_text(json.dumps(listed))
    (folder / "model-00009-of-00009.safetensors").write_bytes(content)
    refused(folder, r"two sets of weights: .*of model-00009-of-00009\.safetensors is in")
    (folder / "model-00009-of-00009.safetensors").unlink()
    first.unlink()
    refused(folder, rf"weight files are missing: {first.name}\. Fetch the folder again")


FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda content: content[:-500], "cannot load these weights: .*Fetch the folder again"),
    "cut in its header": (lambda content: content[:100], "cannot load these weights"),
    "empty": (lambda content: b"", "cannot load these weights"),
    "Git LFS": (lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
}


@pytest.mark.parametrize("case", FILES)
def test_torn_files_are_named(folder: Path, case: str) -> None:
    change, words = FILES[case]
    weights = folder / "model.safetensors"
    weights.write_bytes(change(weights.read_bytes()))
    refused(folder, rf"{weights}.*{words}")


def test_a_folder_without_safetensors_is_refused(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(folder, "only safetensors are loaded")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["[]", "5", '"x"', "{", ""])
def test_settings_that_are_something_else_end_in_no_traceback(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=rf"cannot load {folder}|{folder / name}`: (cannot be read as|it is no) JSON"):
        load_model(ModelSection(name=str(folder)), CPU)


def test_whatever_changes_a_number_changes_the_digest(folder: Path) -> None:
    first = model_digest(str(folder))
    (folder / "README.md").write_text("words")
    (folder / "optimizer.pt").write_bytes(b"1")
    assert model_digest(str(folder)) == first
    seen = {first}
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        seen.add(model_digest(str(folder)))
        (folder / name).write_bytes(content)
    for name in ("chat_template.jinja", "chat_template.json", "added_tokens.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
        seen.add(model_digest(str(folder)))
    assert len(seen) == 10


# ------------------------------------------------------------------------------------------ quantised checkpoints


@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_a_quantised_checkpoint_is_loaded_as_the_study_says_or_not_at_all(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("bitsandbytes")
    stored = stored_quantised(folder, tmp_path / "stored", **{f"load_in_{kind}": True})
    other = {"4bit": "8bit", "8bit": "4bit"}[kind]
    for wrong in ({}, {"tuning": "full"}, {"quantisation": other}):
        refused(stored, rf"`model\.quantisation` = .* stored in {kind} .*Set model\.quantisation = {kind}", **wrong)
    refused(stored, r"`model\.freeze_vision` = false", quantisation=kind, freeze_vision=False)
    assert check_model(ModelSection(name=str(stored), quantisation=kind)) == [f"its weights are stored in {kind}"]
    model = load_model(ModelSection(name=str(stored), quantisation=kind), CPU).model
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    rewrite(stored, lambda all: {name: one for name, one in all.items() if not name.startswith(MLP)})
    refused(stored, rf"missing: {MLP}", quantisation=kind)


def test_quantisation_that_is_claimed_and_not_there_is_refused(folder: Path) -> None:
    """As merged adapters are often saved: full weights beside the quantization_config of their base."""
    configure(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    refused(folder, "stored in 4bit, and none is; delete that key", quantisation="4bit")


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantised by gptq, which cannot be trained here"),
        ({"quant_method": "awq", "bits": 4}, "quantised by awq"),
        ({"quant_method": "fp8"}, "quantised by fp8"),
        ({"quant_method": "compressed-tensors"}, "quantised by compressed-tensors"),
        ({"quant_method": "unheard-of"}, "quantised by unheard-of"),
        ({"bits": 4}, "quantised by an unnamed method"),
    ],
)
def test_other_kinds_of_quantisation_are_refused_by_name(folder: Path, own: dict[str, Any], words: str) -> None:
    configure(folder, quantization_config=own)
    refused(folder, words)
