"""Tiny random models of each family and prompts for them, made of numbers alone, for the tests of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, PreTrainedTokenizerFast

from harness.data.encode import EncodedPrompt
from harness.data.video.frames import ProcessedVideo
from harness.engine.model_runner import Engine
from harness.engine.policy import Policy
from harness.models.presets import TINY
from harness.vsibench.records import Record

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
VOCABULARY, PAD, END = 64, 0, 1
START, STOP, IMAGE, VIDEO = 58, 59, 60, 61
PATCH = 4
Grid = tuple[int, int, int]

_SPECIAL = {"<pad>": PAD, "<end>": END, "<start>": START, "<stop>": STOP, "<image>": IMAGE, "<video>": VIDEO}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{index}": index for index in range(VOCABULARY) if index not in _SPECIAL.values()}
    plain = Tokenizer(WordLevel(words | _SPECIAL, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<pad>",
        eos_token="<end>",
        additional_special_tokens=["<start>", "<stop>", "<image>", "<video>"],
    )


def tiny_config(family: str) -> Any:
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    }
    vision = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32}
    if family == "qwen2_5_vl":
        vision |= {"window_size": 4 * PATCH, "fullatt_block_indexes": [1], "tokens_per_second": 2}
    if family == "qwen3_vl":
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
        text["rope_parameters"] = text["rope_parameters"] | {"mrope_interleaved": True}
    ids = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": STOP,
    }
    return AutoConfig.for_model(family, text_config=text, vision_config=vision, **ids)


def write_family(family: str, folder: Path) -> Path:
    """A random model of a family with the embedded model's tokenizer, as a folder that ``--model`` takes."""
    tokenizer = AutoTokenizer.from_pretrained(TINY.location)
    special = ("video_pad", "image_pad", "vision_start", "vision_end")
    video, image, start, stop = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in special)
    config = tiny_config(family)
    config.text_config.vocab_size, config.text_config.max_position_embeddings = len(tokenizer), 1024
    config.text_config.eos_token_id, config.text_config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    config.vision_config.patch_size = 16 if family == "qwen3_vl" else 14
    if family == "qwen2_5_vl":
        config.vision_config.window_size = 4 * 14
    config.video_token_id, config.image_token_id = video, image
    config.vision_start_token_id, config.vision_end_token_id = start, stop
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_model(family: str = "qwen2_vl", dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.nn.Module:
    """Random weights large enough for peaked distributions, biases and norms too."""
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(tiny_config(family), dtype=dtype, attn_implementation="sdpa")
    model.generation_config.eos_token_id = END
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 1.2 / parameter.flatten(1).shape[1] ** 0.5 if parameter.ndim >= 2 else 0.1
            parameter.add_(torch.randn_like(parameter) * spread)
    return model.eval()


def stored_quantised(folder: Path, place: Path, **kind: bool) -> Path:
    """The model of a folder as bitsandbytes and ``save_pretrained`` store it: all linear layers but the output's."""
    from transformers import BitsAndBytesConfig

    model = AutoModelForImageTextToText.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(**kind), device_map={"": "cpu"}, dtype=torch.float32
    )
    model.save_pretrained(place, save_original_format=False)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place


def tiny_policy(model: torch.nn.Module, engine: Engine = "shared", precision: str = "fp32") -> Policy:
    return Policy(model, tiny_tokenizer(), torch.device("cpu"), precision, engine=engine)


def tiny_video(grid: Grid, seed: int = 0, dtype: torch.dtype = torch.float32) -> ProcessedVideo:
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(grid[0] * grid[1] * grid[2], 3 * 2 * PATCH**2, generator=generator).to(dtype)
    return ProcessedVideo(patches, torch.tensor([grid]), f"{grid}-{seed}", seconds_per_patch=0.75)


def tiny_prompt(
    video: ProcessedVideo, words: Sequence[int], family: str = "qwen2_vl", system: Sequence[int] = (5, 9, 7)
) -> EncodedPrompt:
    """System words, the video, words; Qwen3-VL has a time stamp before each frame, all in one vision block each."""
    frames, height, width = video.grid_thw[0].tolist()
    tokens = height * width // 4
    if family == "qwen3_vl":
        places = [token for frame in range(frames) for token in (20 + frame, 57, START, *[VIDEO] * tokens, STOP)]
    else:
        places = [START, *[VIDEO] * (frames * tokens), STOP]
    ids = torch.tensor([*system, *places, *words])
    record = Record(
        id="-".join(map(str, words)),
        dataset="kit",
        scene_name=video.digest,
        question_type="object_counting",
        question="?",
        options=None,
        ground_truth="1",
    )
    return EncodedPrompt(f"{video.digest}|{ids.tolist()}", record, "vanilla", ids, (ids == VIDEO).long() * 2, video)


def stock_logits(model: Any, prompt: EncodedPrompt, completion: Sequence[int]) -> Tensor:
    """(len(completion), vocabulary) logits from the stock forward with pixels, as a user of transformers writes it."""
    ids = torch.cat([prompt.input_ids, torch.tensor(completion, dtype=torch.long)])[None]
    kinds = torch.cat([prompt.mm_token_type_ids, torch.zeros(len(completion), dtype=torch.long)])[None]
    seconds = prompt.video.seconds_per_patch
    timed = {"second_per_grid_ts": torch.tensor([seconds])} if model.config.model_type == "qwen2_5_vl" else {}
    model.model.rope_deltas = None
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=kinds,
        pixel_values_videos=prompt.video.pixel_values,
        video_grid_thw=prompt.video.grid_thw,
        **timed,
    ).logits[0]
    start = len(prompt.input_ids) - 1
    return logits[start : start + len(completion)]


def stock_log_probs(model: Any, prompt: EncodedPrompt, completion: Sequence[int]) -> Tensor:
    rows = stock_logits(model, prompt, completion).log_softmax(-1)
    return rows.gather(-1, torch.tensor(completion)[:, None])[:, 0]


def compute_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' norms and vision rotary embeddings compute in float32 even for a float64 model: lift that."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
    from transformers.models.qwen2_vl import modeling_qwen2_vl
    from transformers.models.qwen3_vl import modeling_qwen3_vl

    def norm(self: Any, hidden: Tensor) -> Tensor:
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (hidden * scale)

    for module, norms in (
        (modeling_qwen2_vl, ["Qwen2VLRMSNorm"]),
        (modeling_qwen2_5_vl, ["Qwen2_5_VLRMSNorm"]),
        (modeling_qwen3_vl, ["Qwen3VLTextRMSNorm"]),
    ):

        def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, half: Any = module.rotate_half) -> Any:
            cos, sin = cos.unsqueeze(-2).to(q.dtype), sin.unsqueeze(-2).to(q.dtype)
            return q * cos + half(q) * sin, k * cos + half(k) * sin

        monkeypatch.setattr(module, "apply_rotary_pos_emb_vision", rotate)
        for name in norms:
            monkeypatch.setattr(getattr(module, name), "forward", norm)
