"""The shipped tiny base model: loads with plain transformers, and the fast training path is exact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2VLForConditionalGeneration

import harness.models
from harness.data.video.frames import VideoSettings, process_frames
from harness.io import sha256_file
from harness.world.build import SPLITS
from harness.world.catalogue import CATEGORIES
from harness.world.pretrain.batches import make_batch
from harness.world.pretrain.curriculum import Curriculum, Mix
from harness.world.pretrain.dense import to_patches
from harness.world.pretrain.evaluate import score
from harness.world.pretrain.packed import hidden_states, pack, video_prefix, vision_features
from harness.world.pretrain.probes import relations_of, states_of
from harness.world.pretrain.prompts import prefix_ids, texts
from harness.world.pretrain.shards import TOKENS, make_example
from harness.world.pretrain.tokenizer import build_tokenizer
from harness.world.pretrain.trainer import GRID, Stage, Trainer
from harness.world.pretrain.vocabulary import SPECIAL_TOKENS
from harness.world.questions import make_questions
from harness.world.renderer import render_scene, sample_scene
from harness.world.scenes import WORLD_VERSION, Scene

SETTINGS = VideoSettings(frames=16, min_pixels=28 * 28, max_pixels=84 * 84)
FOLDER = Path(harness.models.__file__).parent / "tiny"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(FOLDER, local_files_only=True).eval()


@pytest.fixture(scope="module")
def scene() -> Scene:
    scenes = (sample_scene(seed) for seed in range(1_900_000_000, 1_900_000_050))
    return next(found for found in scenes if found is not None)


def test_folder_is_a_small_qwen2_vl(model) -> None:
    assert isinstance(model, Qwen2VLForConditionalGeneration)
    assert model.dtype == torch.float32
    assert model.config.text_config.max_position_embeddings == 2048
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 15_000_000


def test_weights_are_those_of_the_recipe() -> None:
    recipe = json.loads((FOLDER / "recipe.json").read_text())
    assert recipe["weights_sha256"] == sha256_file(FOLDER / "model.safetensors")


def test_weights_are_of_this_world_and_saw_no_seed_of_the_other_splits() -> None:
    recipe = json.loads((FOLDER / "recipe.json").read_text())
    assert recipe["world_version"] == WORLD_VERSION
    seen = [SPLITS["pretrain"].first_seed, *recipe["data"]["seeds"], *recipe["data"]["held_out_seeds"]]
    for name, split in SPLITS.items():
        assert all(seed in split.seeds for seed in seen) == (name == "pretrain")
        assert any(seed in split.seeds for seed in seen) == (name == "pretrain")


def test_tokenizer_is_the_one_that_the_code_builds(tokenizer) -> None:
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_tokenizer_round_trips_any_text(tokenizer) -> None:
    rng = np.random.default_rng(0)
    samples = ["".join(map(chr, rng.integers(1, 0x2FFF, 200))) for _ in range(20)]
    samples += ["tabletop chairs 47.9", " left", "a\r\n\tb  c", "\U0001f600 é", "".join(map(chr, range(1, 256)))]
    for text in samples:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_things_digits_letters_and_specials_are_single_tokens(tokenizer) -> None:
    for text in (*CATEGORIES, *"0123456789.ABCD", "left", "front-left", "Turn Back", *SPECIAL_TOKENS):
        assert len(tokenizer.encode(text)) == 1, text
    assert tokenizer.tokenize("the chair")[-2:] == ["Ġ", "chair"]
    assert tokenizer.eos_token == "<|im_end|>"


def test_every_question_mentions_categories_as_single_tokens(tokenizer, scene) -> None:
    kinds = set(tokenizer.convert_tokens_to_ids(list(CATEGORIES)))
    for record in make_questions(scene, np.random.default_rng(0), 2):
        text, _ = texts(record, "official")
        words = sum(text.count(name) for name in CATEGORIES) - text.count("vegetable")
        assert sum(token in kinds for token in tokenizer.encode(text)) == words


def test_chat_template_gives_the_training_layout(tokenizer) -> None:
    content = [{"type": "video"}, {"type": "text", "text": "How many chair(s) are in this room?"}]
    ids = tokenizer.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)["input_ids"]
    trained = prefix_ids(tokenizer, 1) + tokenizer.encode("How many chair(s) are in this room?<|im_end|>\n")
    assert ids == [*trained, *tokenizer.encode("<|im_start|>assistant\n")]


def test_processor_keeps_84_pixel_frames() -> None:
    size = json.loads((FOLDER / "video_preprocessor_config.json").read_text())["size"]
    assert size["shortest_edge"] <= 84 * 84 <= size["longest_edge"]
    assert TOKENS == 72


def test_fast_path_equals_plain_transformers(model, tokenizer, scene) -> None:
    """The packed path with one shared video against one plain forward pass per question."""
    frames = np.stack([render_scene(scene)[0], render_scene(scene)[0][::-1]])
    patches = to_patches(torch.from_numpy(frames))
    for part, clip in zip(patches.split(len(patches) // 2), frames, strict=True):
        assert torch.allclose(part, process_frames(clip, SETTINGS).pixel_values, atol=1e-5)
    records = make_questions(scene, np.random.default_rng(1), 1)
    questions = [tokenizer.encode(texts(record, "official")[0] + "<|im_end|>\n") for record in records][:5]
    owner = [0, 0, 1, 1, 1][: len(questions)]
    head = prefix_ids(tokenizer, TOKENS)
    with torch.no_grad():
        batch = pack(video_prefix(model, head, GRID[None]), questions, owner, 2)
        hidden, _ = hidden_states(model, batch, vision_features(model, patches, GRID))
        for question, which, start in zip(questions, owner, batch.starts.tolist(), strict=True):
            ids = torch.tensor([head + question])
            plain = model(
                input_ids=ids,
                pixel_values_videos=patches[which * 288 : (which + 1) * 288],
                video_grid_thw=GRID[None],
                mm_token_type_ids=(ids == model.config.video_token_id).int() * 2,
            ).logits[0, len(head) :]
            assert int((ids == model.config.video_token_id).sum()) == TOKENS
            fast = model.lm_head(hidden[start : start + len(question)])
            assert torch.allclose(fast, plain, atol=1e-4)


def test_probe_targets_agree_with_the_scene(tokenizer, scene) -> None:
    example = make_example(scene, tokenizer, per_type=1)
    states = states_of(example)
    for name, pieces in scene.by_category.items():
        row = states[CATEGORIES.index(name)]
        assert row[4] == pytest.approx(len(pieces) / 2 - 1)
        if len(pieces) == 1:
            thing = scene.objects[pieces[0]]
            assert row[0] == pytest.approx((thing.x - scene.camera[0]) / 2, abs=1e-5)
        else:
            assert np.isnan(row[:4]).all()
    kinds = Curriculum(tokenizer).kinds
    for question in example.questions:
        if question.type == "object_abs_distance":
            ids, start = question.forms["official"]
            answer = float(tokenizer.decode(ids[start:].tolist()).removesuffix("<|im_end|>"))
            (_, _, value), *rest = relations_of(question.type, ids, kinds, example)
            assert not rest
            assert np.exp(value + 0.5) == pytest.approx(answer, abs=0.051)


def test_scores_follow_the_official_rule() -> None:
    assert score("object_counting", "2", "4") == pytest.approx(0.1)
    assert score("object_counting", "3", "4") == pytest.approx(0.6)
    assert score("object_counting", "four", "4") == 0
    assert score("route_planning", "B", "B") == 1


def test_a_training_step_lowers_the_loss(tokenizer, scene) -> None:
    trainer = Trainer(tokenizer, seed=0)
    example = make_example(scene, tokenizer, per_type=1)
    mix = Mix(questions=4, forms={"official": 1}, lists=1, drills=1)
    stage = Stage("test", 100, 1, mix, vision=1.0)
    frames = render_scene(scene)[0][None]
    losses = []
    for step in range(8):
        batch, _ = make_batch(frames, [example], mix, trainer.curriculum, trainer.prefix, np.random.default_rng(step))
        losses.append(float(trainer.train_step(batch, stage)["text"]))
    assert losses[-1] < losses[0] - 1
