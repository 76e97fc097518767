"""An image as one temporal patch of a still video is what Qwen2-VL makes of an image: same pixels, same logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_tiny
from engine_kit import FAMILIES, tiny_model, tiny_policy, tiny_prompt, tiny_video
from PIL import Image
from transformers import Qwen2VLImageProcessor

from harness.data.encode import PromptEncoder
from harness.data.video.stills import StillImages
from harness.errors import UserError
from harness.models.families import video_defaults
from harness.vsibench.records import Record

LEAST, MOST = 56 * 56, 28 * 28 * 12


def picture(path: Path, height: int, width: int) -> Path:
    """A smooth random picture, so that resizing matters."""
    noise = np.random.default_rng(height).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def loader(model: torch.nn.Module) -> StillImages:
    return StillImages(video_defaults(model.config), LEAST, MOST)


@pytest.mark.parametrize(("height", "width"), [(112, 84), (56, 56), (200, 150), (40, 90)])
def test_patches_are_those_of_the_image_processor(tmp_path: Path, height: int, width: int) -> None:
    """To a level or two of 255 where the image is resized: Pillow and torch round differently."""
    path = picture(tmp_path / "image.png", height, width)
    model = random_tiny()
    stock = Qwen2VLImageProcessor(size={"shortest_edge": LEAST, "longest_edge": MOST})(
        images=Image.open(path), return_tensors="pt"
    )
    ours = loader(model).load(path)
    assert ours.grid_thw.tolist() == stock["image_grid_thw"].tolist()
    gap = float((ours.pixel_values - stock["pixel_values"]).abs().max())
    resized = (height % 28, width % 28) != (0, 0)
    assert gap < (0.04 if resized else 1e-6)  # a level of 255 is 0.015


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_are_those_of_the_image_token(family: str) -> None:
    """The same patches, once as our video and once as transformers' image."""
    policy = tiny_policy(tiny_model(family), "shared")
    config, answer = policy.base.config, [4, 5, 6, 1]
    prompt = tiny_prompt(tiny_video((1, 4, 6)), [3, 4, 5], family)
    with torch.no_grad():
        ours, _ = policy.log_probs([prompt], [answer])
        ids = torch.cat([prompt.input_ids, torch.tensor(answer)])[None]
        ids[ids == config.video_token_id] = config.image_token_id
        logits = policy.base(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == config.image_token_id).long(),  # 1: an image
            pixel_values=prompt.video.pixel_values,
            image_grid_thw=prompt.video.grid_thw,
        ).logits[0, -len(answer) - 1 : -1]
    stock = logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]
    torch.testing.assert_close(ours[0, : len(answer)], stock, atol=1e-5, rtol=1e-5)


def test_a_prompt_is_the_template_s_with_an_image(tiny_tokenizer, tmp_path: Path) -> None:
    """One placeholder a merged patch, no words about frames or seconds."""
    path = picture(tmp_path / "image.png", 112, 84)
    model = random_tiny()
    record = Record(id=1, dataset="general", scene_name="i", question_type="all", question="q", ground_truth="4")
    encoder = PromptEncoder(tiny_tokenizer, model.config.video_token_id, loader(model), 2)
    prompt = encoder.encode(record, "official", path, words="How many chairs are there?")
    chat = tiny_tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many chairs are there?"}]},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    image = tiny_tokenizer.convert_ids_to_tokens(model.config.image_token_id)
    ids = torch.tensor(tiny_tokenizer(chat.replace(image, image * 12), add_special_tokens=False)["input_ids"])
    ids[ids == model.config.image_token_id] = model.config.video_token_id
    assert prompt.input_ids.tolist() == ids.tolist()


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    images = loader(random_tiny())
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    for name in ("torn.png", "missing.png"):
        with pytest.raises(UserError, match=rf"{name}: the image cannot be read"):
            images.load(tmp_path / name)
