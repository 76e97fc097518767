"""The shipped tiny base model: loads with plain transformers, and the fast training path is exact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizer_kit import PHRASES, SPECIAL_TOKENS, build_tokenizer
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2VLForConditionalGeneration

import harness.models
from harness.data.video.frames import process_frames
from harness.io import sha256_file
from harness.vsibench.prompts import prompt_text
from harness.vsibench.records import Record
from harness.world.build import SPLITS
from harness.world.catalogue import CATEGORIES
from harness.world.pretrain.curriculum import BEFORE_TEXT, Curriculum, Stage
from harness.world.pretrain.readouts import PROBES, relations_of, states_of
from harness.world.pretrain.shards import SETTINGS, TOKENS, make_example
from harness.world.pretrain.trainer import Trainer
from harness.world.questions import make_questions
from harness.world.renderer import render_scene, sample_scene
from harness.world.scenes import WORLD_VERSION, Scene

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


def test_tokenizer_is_built_from_the_words_of_prompts_templates_and_things(tokenizer) -> None:
    built = build_tokenizer()
    assert built.get_vocab() == tokenizer.get_vocab()
    for phrase in PHRASES:
        assert len(tokenizer.encode(phrase)) == 1, phrase
        assert built.encode(f"{phrase} and a {phrase}").ids == tokenizer.encode(f"{phrase} and a {phrase}")


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
        text = prompt_text(Record(**record), "official")
        words = sum(text.count(name) for name in CATEGORIES) - text.count("vegetable")
        assert sum(token in kinds for token in tokenizer.encode(text)) == words


def test_chat_template_gives_the_training_layout(tokenizer) -> None:
    content = [{"type": "video"}, {"type": "text", "text": "How many chair(s) are in this room?"}]
    ids = tokenizer.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)["input_ids"]
    prompt = BEFORE_TEXT.replace("<|video_pad|>" * TOKENS, "<|video_pad|>")
    trained = tokenizer.encode(prompt + "How many chair(s) are in this room?<|im_end|>\n")
    assert ids == [*trained, *tokenizer.encode("<|im_start|>assistant\n")]


def test_processor_keeps_84_pixel_frames() -> None:
    size = json.loads((FOLDER / "video_preprocessor_config.json").read_text())["size"]
    assert size["shortest_edge"] <= 84 * 84 <= size["longest_edge"]
    assert TOKENS == 72


def test_texts_packed_after_one_video_read_as_each_alone(model, tokenizer, scene) -> None:
    """Logits and every probe's input against one plain forward pass of transformers per text."""
    trainer = Trainer(seed=0)
    trainer.model.load_state_dict(model.state_dict())
    trainer.policy.precision = "fp32"
    clips = np.stack([render_scene(scene)[0], render_scene(scene)[0][::-1]])
    stage = Stage("test", 1, 2, questions=6, forms={"official": 1}, lists=1, drills=1)
    examples = [make_example(scene, per_type=1)] * 2
    batch = trainer.curriculum.batch(clips, examples, stage, np.random.default_rng(1))
    with torch.no_grad():
        read_logits, labels, read_streams = trainer.read(trainer.see(batch.frames), batch)
    before = tokenizer.encode(BEFORE_TEXT)
    video = [i for i, token in enumerate(before) if token == model.config.video_token_id]
    assert len(video) == TOKENS
    logits, streams = [], {name: [] for name in PROBES}
    for clip, scene_texts in zip(clips, batch.texts, strict=True):
        for number, text in enumerate(scene_texts):
            ids = torch.tensor([before + text.ids])
            with torch.no_grad():
                plain = model(
                    input_ids=ids,
                    pixel_values_videos=process_frames(clip, SETTINGS).pixel_values,
                    video_grid_thw=torch.tensor([[8, 6, 6]]),
                    mm_token_type_ids=(ids == model.config.video_token_id).int() * 2,
                    output_hidden_states=True,
                )
            logits += [plain.logits[0, len(before) + i - 1] for i in text.supervised]
            read = {name: plain.hidden_states[layer + 1][0] for name, (layer, _) in PROBES.items()}
            for target in text.targets:
                streams[target.probe].append(read[target.probe][len(before) + target.place])
            if number == 0:
                streams["stop"] += list(read["stop"][video])
                streams["summary"].append(read["summary"][len(before) - 1])
    assert torch.allclose(read_logits, torch.stack(logits), atol=1e-4)
    assert labels.tolist() == [text.ids[i] for texts in batch.texts for text in texts for i in text.supervised]
    for name, rows in streams.items():
        assert torch.allclose(read_streams[name], torch.stack(rows), atol=1e-4), name
        assert len(batch.truths[name]) == len(rows)


def test_probe_targets_agree_with_the_scene(tokenizer, scene) -> None:
    example = make_example(scene, per_type=1)
    states = states_of(example)
    for name, pieces in scene.by_category.items():
        row = states[CATEGORIES.index(name)]
        assert row[4] == pytest.approx(len(pieces) / 2 - 1)
        if len(pieces) == 1:
            thing = scene.objects[pieces[0]]
            assert row[0] == pytest.approx((thing.x - scene.camera[0]) / 2, abs=1e-5)
        else:
            assert np.isnan(row[:4]).all()
    curriculum = Curriculum()
    for question in example.questions:
        if question["question_type"] == "object_abs_distance":
            _, prompt, answer = curriculum.encode(question, "official")
            metres = float(tokenizer.decode(answer).removesuffix("<|im_end|>"))
            (target,) = relations_of("object_abs_distance", curriculum.mentions(prompt), example)
            assert np.exp(target.truth[0] + 0.5) == pytest.approx(metres, abs=0.051)


def test_a_training_step_lowers_the_loss(tokenizer, scene) -> None:
    trainer = Trainer(seed=0)
    example = make_example(scene, per_type=1)
    stage = Stage("test", 100, 1, questions=4, forms={"official": 1}, lists=1, drills=1, vision=1.0)
    frames = render_scene(scene)[0][None]
    losses = []
    for step in range(8):
        batch = trainer.curriculum.batch(frames, [example], stage, np.random.default_rng(step))
        losses.append(float(trainer.train_step(batch, stage)["text"]))
    assert losses[-1] < losses[0] - 1
