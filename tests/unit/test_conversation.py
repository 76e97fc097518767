"""Ends of an answer, chat templates and generation defaults: checkpoints whose files disagree."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import normalizers
from transformers import GenerationConfig

from harness.config.study import ModelSection
from harness.data.encode import EncodedPrompt
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.errors import UserError
from harness.models.conversation import answer_ends, conversation_notes, require_chat_template, settle_conversation
from harness.models.loading import load_model, model_config
from harness.models.presets import TINY
from harness.vsibench.prompts import answer_text, prompt_text

TEXT_END, TURN_END = 0, 2  # <|endoftext|> and <|im_end|> of the embedded model
OPENING = "<|im_start|>assistant\n"
CLOSING = "{% endif %}<|im_end|>\n"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY.location, tmp_path / "model"))


def change(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text())
    for key, value in values.items():
        place = content
        *path, last = key.split("__")
        for part in path:
            place = place[part]
        place[last] = value
    file.write_text(json.dumps(content))


def policy_of(folder: Path | str) -> Policy:
    section = ModelSection(name=str(folder), tuning="full", precision="fp32")
    return Policy(*load_model(section, torch.device("cpu")))


@pytest.mark.parametrize(
    ("told", "ends"),
    [
        (TEXT_END, (TURN_END, TEXT_END)),
        ([TEXT_END, None], (TURN_END, TEXT_END)),
        (None, (TURN_END,)),
        ([TURN_END, TEXT_END], (TURN_END, TEXT_END)),
        ([TEXT_END, TURN_END], (TURN_END, TEXT_END)),
    ],
)
def test_an_answer_ends_where_any_of_the_files_says(
    checkpoint: Path, prompts: list[EncodedPrompt], told: Any, ends: tuple[int, ...]
) -> None:
    change(checkpoint / "generation_config.json", eos_token_id=told)
    found = policy_of(checkpoint)
    assert found.end_tokens == ends  # the first, which answers are taught with, is the chat template's
    assert not set(ends) & set(found.banned_tokens) and {12, 13} < set(found.banned_tokens)
    answers = [
        [one.text for (one,) in TransformersSampler(p, 8).sample(prompts, 1, temperature=0, max_new_tokens=12, seed=0)]
        for p in (found, policy_of(TINY.location))
    ]
    assert answers[0] == answers[1]


def test_the_templates_own_end_counts_where_all_files_name_another(checkpoint: Path) -> None:
    change(checkpoint / "generation_config.json", eos_token_id=TEXT_END)
    change(checkpoint / "config.json", text_config__eos_token_id=TEXT_END)
    change(checkpoint / "tokenizer_config.json", eos_token="<|endoftext|>")
    assert policy_of(checkpoint).end_tokens == (TURN_END, TEXT_END)
    template = checkpoint / "chat_template.jinja"
    template.write_text(template.read_text().replace(CLOSING, "{% endif %}\n"))  # it ends answers with nothing
    assert policy_of(checkpoint).end_tokens == (TEXT_END,)


@pytest.mark.parametrize(
    ("file", "end", "message"),
    [
        (
            "generation_config.json",
            99_999,
            r"generation_config.json is 99999, which is no token of its tokenizer \(897",
        ),
        ("generation_config.json", [TURN_END, -1], "is -1, which is no token"),
        ("generation_config.json", "<|im_end|>", "is '<|im_end|>', which is no token"),
        ("generation_config.json", True, "is True, which is no token"),
        ("generation_config.json", 40, "is 40, which is the ordinary text '"),
        ("config.json", 99_999, "`eos_token_id` in its config.json is 99999, which is no token"),
    ],
)
def test_what_cannot_end_an_answer_is_refused_by_name(checkpoint: Path, file: str, end: Any, message: str) -> None:
    change(checkpoint / file, **{"eos_token_id" if file.startswith("gen") else "text_config__eos_token_id": end})
    with pytest.raises(UserError, match=message):
        conversation_notes(str(checkpoint))
    with pytest.raises(UserError, match=message):
        policy_of(checkpoint)


def test_a_checkpoint_without_any_end_is_refused(tiny_tokenizer: Any) -> None:
    tokenizer, config = copy.deepcopy(tiny_tokenizer), model_config(TINY.location)
    tokenizer.chat_template = tokenizer.eos_token = config.text_config.eos_token_id = None
    with pytest.raises(UserError, match="nothing says where an answer ends; write `eos_token_id`"):
        answer_ends(tokenizer, config, GenerationConfig())


def test_generate_ends_alike_and_has_no_defaults_of_the_checkpoint(checkpoint: Path) -> None:
    """TRL samples with it, and fills what it does not set itself with what it finds there."""
    change(checkpoint / "generation_config.json", eos_token_id=TEXT_END, no_repeat_ngram_size=2, min_new_tokens=9)
    found = policy_of(checkpoint).base.generation_config
    assert found.eos_token_id == [TURN_END, TEXT_END] and found.pad_token_id == TEXT_END
    assert not found.no_repeat_ngram_size and not found.min_new_tokens


def test_defaults_that_are_not_followed_are_said_by_name_and_value(checkpoint: Path) -> None:
    assert conversation_notes(TINY.location) == ()
    neutral = {"top_p": 1.0, "top_k": 50, "num_beams": 1, "suppress_tokens": [], "repetition_penalty": 1}
    change(checkpoint / "generation_config.json", **neutral)
    assert conversation_notes(str(checkpoint)) == ()
    # What Qwen2.5-VL's Instruct models bring, and what else generate() would follow.
    brought = {"do_sample": True, "temperature": 1e-06, "repetition_penalty": 1.05, "top_k": 1, "min_new_tokens": 3}
    brought |= {"no_repeat_ngram_size": 4, "suppress_tokens": [5], "forced_eos_token_id": 2, "stop_strings": ["."]}
    change(checkpoint / "generation_config.json", **brought)
    (note,) = conversation_notes(str(checkpoint))
    assert all(f"{name} = {value}" in note for name, value in brought.items())
    assert "rollout.temperature" in note and "greedy" in note


def test_ids_without_a_token_are_never_sampled(checkpoint: Path, tiny_tokenizer: Any) -> None:
    model = policy_of(checkpoint).base
    model.resize_token_embeddings(len(tiny_tokenizer) + 3)
    model.config.vision_start_token_id = 20
    banned = Policy(model, tiny_tokenizer, torch.device("cpu"), "fp32").banned_tokens
    assert banned[-3:] == (897, 898, 899) and 20 in banned


def template(text: str, old: str, new: str) -> Callable[[Any], None]:
    def edit(tokenizer: Any) -> None:
        assert old in tokenizer.chat_template
        tokenizer.chat_template = tokenizer.chat_template.replace(old, new)

    edit.__name__ = text
    return edit


def lowercase(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def strip(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("  ", " ")


def add_token(tokenizer: Any) -> None:
    tokenizer.add_tokens(["<new>"])


def two_templates(tokenizer: Any) -> None:
    tokenizer.chat_template = {"rag": tokenizer.chat_template, "tool_use": tokenizer.chat_template}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            template("no video", "<|video_pad|>", ""),
            "writes 0 video tokens .*`video_token_id` in its config.json is 13",
        ),
        (template("other video", "<|video_pad|>", "<|image_pad|>"), r"0 video tokens .*<\|image_pad\|> = 12"),
        (template("two videos", "<|video_pad|>", "<|video_pad|>" * 2), "writes 2 video tokens"),
        (
            template("bare", "<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>"),
            r"not write <\|video_pad\|> between <\|vision_start\|> and <\|vision_end\|>",
        ),
        (template("reversed", "in message['content'] %}", "in message['content'] | reverse %}"), "before its video"),
        (
            template("fails", "{% for message", "{{ raise_exception('no system role') }}{% for message"),
            "no system role",
        ),
        (template("no syntax", "{% for message", "{% for"), "chat template fails .*TemplateSyntaxError"),
        (template("text only", "message['content'] is string", "true"), "0 video tokens"),
        (template("no opening", OPENING, ""), "begins an answer after .* but ends a prompt with"),
        (template("other opening", OPENING, "<|im_start|>model\n"), "not be asked for where they begin"),
        (template("dated", "{% for message", "{{ strftime_now('%d') }}{% for message"), "writes today's date"),
        (template("thinks", OPENING, OPENING + "<think>\n"), "opens every reply with <think>"),
        (template("lower", "content['text']", "content['text'] | lower"), "changes or leaves out the question"),
        (template("mute", "{{ message['content'] }}", ""), "does not write down what the assistant said"),
        (
            template("other end", "<|im_end|>", "<|eot_id|>"),
            r"ends an answer with '<\|eot_id\|>', which does not begin",
        ),
        (lowercase, "its tokenizer changes text: 'You are.*' is read back as 'you are"),
        (strip, "its tokenizer changes text"),
        (add_token, r"1 tokens that its embedding of 897 rows lacks \(<new> = 897\)"),
        (two_templates, "its chat templates are rag, tool_use, and none is `default`"),
    ],
    ids=lambda one: one.__name__ if callable(one) else "",
)
def test_a_conversation_that_would_change_numbers_is_refused(
    tiny_tokenizer: Any, edit: Callable[[Any], None], message: str
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    edit(tokenizer)
    with pytest.raises(UserError, match=f"`--model tiny`: .*{message}"):
        settle_conversation(tokenizer, model_config("tiny"), GenerationConfig(), "tiny")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", '{"pad_token": 3}'),
        ("tokenizer_config.json", '{"model_max_length": "x", "eos_token": "<|im_end|>"}'),
        ("generation_config.json", "{"),
        ("generation_config.json", "[1]"),
        ("generation_config.json", '{"pad_token_id": {"value": 1}}'),
        ("chat_template.json", '[{"name": "default"}]'),
        ("chat_template.json", '{"chat_template": [3]}'),
        ("chat_template.json", '{"chat_template": 3}'),
        ("chat_template.json", '{"chat_template": [{"name": "default"}]}'),
    ],
)
def test_a_damaged_file_is_refused_by_model_and_without_traceback(checkpoint: Path, file: str, content: str) -> None:
    if file.startswith("chat"):
        (checkpoint / "chat_template.jinja").unlink()
    (checkpoint / file).write_text(content)
    with pytest.raises(UserError, match=f"`--model {checkpoint}`: "):
        conversation_notes(str(checkpoint))


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("preprocessor_config.json", "image_mean", [0.5, 0.5, 0.5]),
        ("video_preprocessor_config.json", "image_std", 1),
        ("video_preprocessor_config.json", "patch_size", 16),
        ("preprocessor_config.json", "do_normalize", False),
        ("processor_config.json", "video_processor", {"rescale_factor": 1}),
        ("processor_config.json", "image_processor", {"merge_size": "two"}),
    ],
)
def test_frames_that_a_checkpoint_prepares_otherwise_are_refused(
    checkpoint: Path, file: str, key: str, value: Any
) -> None:
    own = json.loads((checkpoint / file).read_text()) if (checkpoint / file).exists() else {}
    (checkpoint / file).write_text(json.dumps(own | {key: value}))
    with pytest.raises(UserError, match=rf"in its {file} is .*frames of Qwen2-VL are prepared with"):
        conversation_notes(str(checkpoint))


def test_published_processors_and_other_pixel_bounds_are_no_reason_to_refuse(checkpoint: Path) -> None:
    """preprocessor_config.json as Qwen2-VL-2B-Instruct has it."""
    (checkpoint / "video_preprocessor_config.json").unlink()
    published = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2}
    published |= {"merge_size": 2, "image_processor_type": "Qwen2VLImageProcessor"}
    published |= {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(published))
    assert conversation_notes(str(checkpoint)) == ()


def test_a_video_token_of_another_tokenizer_is_refused_by_name(checkpoint: Path) -> None:
    change(checkpoint / "config.json", video_token_id=11)
    with pytest.raises(UserError, match=r"`video_token_id` in its config.json is 11 \(<\|vision_pad\|>\)"):
        conversation_notes(str(checkpoint))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (template("no system", "{% for message in messages %}", "{% for message in messages[1:] %}"), "You are Qwen"),
        (template("system", "{% for message", "You are Qwen, made by A.\n{% for message"), "'You are Qwen, made by A."),
        (template("closed", OPENING, OPENING + "<think>\n\n</think>\n\n"), "</think>"),
    ],
    ids=lambda one: one.__name__ if callable(one) else "",
)
def test_what_a_template_adds_or_leaves_out_is_said(
    tiny_tokenizer: Any, edit: Callable[[Any], None], said: str
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    edit(tokenizer)
    if edit.__name__ == "no system":  # and writes a default of its own
        tokenizer.chat_template = tokenizer.chat_template.replace("a helpful assistant", "Qwen")
    notes = settle_conversation(tokenizer, model_config("tiny"), GenerationConfig(), "tiny")
    assert any(said in note for note in notes)


def test_a_missing_or_visual_padding_token_becomes_an_end(tiny_tokenizer: Any) -> None:
    for pad in (None, "", "<|video_pad|>"):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.pad_token = pad
        settle_conversation(tokenizer, model_config("tiny"), GenerationConfig(), "tiny")
        assert tokenizer.pad_token_id == TURN_END


def test_the_processors_template_goes_before_the_tokenizers(checkpoint: Path, tiny_tokenizer: Any) -> None:
    """A vision-language checkpoint may keep the language model's template in its tokenizer."""
    tokenizer, own = copy.deepcopy(tiny_tokenizer), tiny_tokenizer.chat_template
    (checkpoint / "chat_template.jinja").unlink()
    for told, expected in ((own + "\n", own + "\n"), ([{"name": "default", "template": own}], {"default": own})):
        (checkpoint / "chat_template.json").write_text(json.dumps({"chat_template": told}))
        tokenizer.chat_template = "{{ messages[0].content }}"
        require_chat_template(tokenizer, str(checkpoint))
        assert tokenizer.chat_template == expected
    (checkpoint / "chat_template.json").unlink()
    require_chat_template(tokenizer, str(checkpoint))
    tokenizer.chat_template = None
    with pytest.raises(
        UserError, match=r"no chat template, and no other is substituted\. Put the chat_template\.jinja"
    ):
        require_chat_template(tokenizer, str(checkpoint))


@pytest.mark.parametrize("mode", ["official", "vanilla", "think"])
def test_a_taught_answer_is_the_templates_own_up_to_its_end(prompts: list[EncodedPrompt], mode: str) -> None:
    """What SFT teaches after a prompt is what the chat template writes there, and sampling stops at its last token."""
    found = policy_of(TINY.location)
    for prompt in prompts:
        record, answer = prompt.record, answer_text(prompt.record.ground_truth, mode)
        said = [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": prompt_text(record, mode)}]},
        ]
        whole = found.tokenizer.apply_chat_template(
            [*said, {"role": "assistant", "content": answer}], tokenize=True, return_dict=False
        )
        asked = found.tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=True, return_dict=False)
        taught = [*found.tokenizer(answer, add_special_tokens=False)["input_ids"], found.end_tokens[0]]
        assert whole[: len(asked) + len(taught)] == asked + taught
        assert not set(whole[len(asked) :]) - {*taught, *found.tokenizer("\n")["input_ids"]}
