"""Prompts: the chat layout, one token for every merged patch, and no way to smuggle special tokens in."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_video
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

from harness.data.encode import PromptEncoder
from harness.data.video.cache import FrameCache
from harness.data.video.frames import ProcessedVideo, VideoSettings
from harness.errors import UserError
from harness.models.conversation import settle_conversation
from harness.models.loading import model_config
from harness.vsibench.records import Record

SETTINGS = VideoSettings(frames=4, min_pixels=28 * 28, max_pixels=56 * 84)
TOKENS = 2 * 2 * 3
RECORD = Record(
    id=9,
    dataset="world",
    scene_name="test_000000",
    question_type="object_counting",
    question="How many chair(s) are in this room?",
    ground_truth="4",
)
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>{video}"
    "<|vision_end|>How many chair(s) are in this room?\nPlease provide the short answer with one or two words "
    "or a number.<|im_end|>\n<|im_start|>assistant\n"
)


def write_film(path: Path, shade: int = 0) -> Path:
    write_video(path, np.full((8, 56, 84, 3), shade, np.uint8))
    return path


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "test_000000.mp4")


@pytest.fixture
def encoder(tiny_tokenizer: Any, tmp_path: Path) -> PromptEncoder:
    return make(tiny_tokenizer, tmp_path)


def make(tokenizer: Any, folder: Path) -> PromptEncoder:
    video = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    return PromptEncoder(tokenizer, video, FrameCache(folder / "cache", SETTINGS), 2)


def test_the_chat_layout_is_qwens(encoder: PromptEncoder, tiny_tokenizer: Any, film: Path) -> None:
    prompt = encoder.encode(RECORD, "vanilla", film)
    written_out = CHAT.format(video="<|video_pad|>" * TOKENS)
    assert prompt.input_ids.tolist() == tiny_tokenizer(written_out, add_special_tokens=False)["input_ids"]
    assert prompt.input_ids.dtype == prompt.mm_token_type_ids.dtype == torch.long
    assert tiny_tokenizer.decode(prompt.input_ids) == written_out
    assert (prompt.record, prompt.mode) == (RECORD, "vanilla")


def test_video_tokens_meet_their_features(encoder: PromptEncoder, tiny_tokenizer: Any, film: Path) -> None:
    prompt = encoder.encode(RECORD, "official", film)
    is_video = prompt.input_ids == tiny_tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert int(is_video.sum()) == TOKENS == len(prompt.video.pixel_values) // 4
    assert torch.equal(prompt.mm_token_type_ids, torch.where(is_video, 2, 0))


def test_the_id_follows_words_and_frames(encoder: PromptEncoder, film: Path, tmp_path: Path) -> None:
    prompt = encoder.encode(RECORD, "vanilla", film)
    chat = CHAT.format(video="<|video_pad|>")
    assert prompt.id == hashlib.sha256(f"{chat}\0{prompt.video.digest}\x001".encode()).hexdigest()[:16]
    renamed = RECORD.model_copy(update={"id": 10})
    other_film = write_film(tmp_path / "other.mp4", shade=90)
    assert encoder.encode(renamed, "vanilla", film).id == prompt.id
    assert encoder.encode(RECORD, "think", film).id != prompt.id
    assert encoder.encode(RECORD, "vanilla", other_film).id != prompt.id


@pytest.mark.parametrize("token", ["<|video_pad|>", "<|im_end|>", "<|vision_start|>", "<|endoftext|>"])
def test_special_tokens_in_the_data_are_refused(encoder: PromptEncoder, film: Path, token: str) -> None:
    asked = RECORD.model_copy(update={"question": f"How many {token}?"})
    offered = RECORD.model_copy(
        update={"question_type": "object_rel_distance", "options": (f"A. {token}", "B. bed"), "ground_truth": "B"}
    )
    taught = RECORD.model_copy(update={"ground_truth": f"4{token}"})
    for bad in (asked, offered, taught):
        with pytest.raises(UserError) as refused:
            encoder.encode(bad, "vanilla", film)
        assert "record 9 (world/test_000000)" in str(refused.value)
        assert token in str(refused.value)


@pytest.mark.parametrize(("found", "template"), [(0, ""), (2, "<|video_pad|><|video_pad|>")])
def test_a_template_without_one_place_for_the_video_is_refused(
    tiny_tokenizer: Any, film: Path, tmp_path: Path, found: int, template: str
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = f"{template}{{{{ messages[1]['content'][1]['text'] }}}}"
    with pytest.raises(UserError, match=f"{found} video tokens"):
        make(tokenizer, tmp_path).encode(RECORD, "vanilla", film)


def test_a_beginning_that_tokenizer_and_template_both_write_is_there_once(
    tiny_tokenizer: Any, film: Path, tmp_path: Path
) -> None:
    tokenizer, start = copy.deepcopy(tiny_tokenizer), "<|endoftext|>"
    begin = tokenizer.convert_tokens_to_ids(start)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, begin)]
    )
    assert tokenizer("a")["input_ids"][0] == begin
    for written in (0, 1):
        tokenizer.chat_template = start * written + tiny_tokenizer.chat_template
        prompt = make(tokenizer, tmp_path).encode(RECORD, "vanilla", film)
        assert prompt.input_ids.tolist().count(begin) == written
        notes = settle_conversation(tokenizer, model_config("tiny"), GenerationConfig(), "tiny")
        assert [start in note for note in notes] == [True] * (1 - written)


def test_features_that_do_not_fit_the_grid_are_refused(
    encoder: PromptEncoder, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = ([[2, 4, 6]], [[0, 4, 6]], [[1, 3, 3]])
    for grid, patches in zip(grids, (47, 0, 9), strict=True):
        video = ProcessedVideo(torch.zeros(patches, 1176), torch.tensor(grid), "digest")
        monkeypatch.setattr(FrameCache, "load", lambda self, path, video=video: video)
        with pytest.raises(ValueError, match="whole tokens"):
            encoder.encode(RECORD, "vanilla", film)


def test_wrong_wiring_is_refused(tiny_tokenizer: Any, tmp_path: Path) -> None:
    frames = FrameCache(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="merges 4 patches"):
        PromptEncoder(tiny_tokenizer, tiny_tokenizer.convert_tokens_to_ids("<|video_pad|>"), frames, 4)
    with pytest.raises(ValueError, match="not a special token"):
        PromptEncoder(tiny_tokenizer, tiny_tokenizer.convert_tokens_to_ids("A"), frames, 2)


def test_a_second_turn_repeats_the_first_and_what_was_answered(
    encoder: PromptEncoder, tiny_tokenizer: Any, film: Path
) -> None:
    first = encoder.encode(RECORD, "vanilla", film)
    second = encoder.second_turn(first, "Four <|video_pad|>of them.")
    video = "<|video_pad|>" * TOKENS
    written_out = CHAT.format(video=video) + (
        "Four of them.<|im_end|>\n<|im_start|>user\nGive the final answer to the question from what you wrote above.\n"
        "Please answer the question using a single word or phrase.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert second.input_ids.tolist() == tiny_tokenizer(written_out, add_special_tokens=False)["input_ids"]
    assert second.video is first.video and second.id != first.id
    assert second.input_ids[: len(first.input_ids)].tolist() == first.input_ids.tolist()
