"""What a checkpoint says about a conversation: its chat template, the ends of an answer, defaults of generation.

Four files of a checkpoint name ends of an answer, and they often disagree: ``generation_config.json``, ``config.json``,
``tokenizer_config.json`` and the chat template. A library that believes one of them samples past the end that the
model was taught, so an answer ends at any of them, and what is taught ends as the chat template ends it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.errors import UserError, first_few
from harness.io import read_json
from harness.models.families import check_processors
from harness.models.loading import load_tokenizer, model_config, readable, settings_folder
from harness.vsibench.prompts import SYSTEM

_ASKED = "Is the TV  1.5 m left of A, B or C?\nOptions:\nA. Yes, it is .\n<answer>"
"""A question with what careless tokenizers change: capitals, two spaces, a space before a full stop."""

_ANSWERED = "7319"
_OPENED = re.compile(r"<(\w+)>")
_EMPTY_BLOCK = re.compile(r"\s*(<(\w+)>\s*</\2>\s*)?")

_FIX = "use the chat template and the tokenizer of the Instruct model that it comes from"

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("temperature", "top_p", "typical_p", "repetition_penalty", "encoder_repetition_penalty"), (1.0,)),
    **dict.fromkeys(("min_p", "top_h", "epsilon_cutoff", "eta_cutoff", "penalty_alpha"), (0.0,)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens"), (0,)),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias", "stop_strings"), ()),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty"), ()),
    **dict.fromkeys(("watermarking_config", "prompt_lookup_num_tokens", "dola_layers", "max_time"), ()),
    **dict.fromkeys(("num_beams", "guidance_scale"), (1,)),
    "do_sample": (False,),
    "top_k": (0, 50),
}
"""Defaults of transformers' ``generate`` that change what is sampled or chosen, with the values that change nothing.

50 for ``top_k`` is what transformers itself uses where a checkpoint says nothing.
"""


def require_chat_template(tokenizer: Any, name: str) -> None:
    """Give a tokenizer its model's own chat template.

    As transformers' processors, it takes ``chat_template.jinja`` first, then ``chat_template.json``, and only then the
    tokenizer's own, which in a vision-language model may be that of the language model.

    Raises:
        UserError: There is none (no other is substituted, since the model was not trained on it), there are several
            and none is called ``default``, or it depends on the date.
    """
    folder = settings_folder(name)
    # The tokenizer has read chat_template.jinja already.
    if not (folder / "chat_template.jinja").is_file() and (folder / "chat_template.json").is_file():
        content = read_json(folder / "chat_template.json")
        own = content.get("chat_template") if isinstance(content, dict) else None
        if isinstance(own, list):
            own = {one.get("name"): one.get("template") for one in own if isinstance(one, dict)}
        tokenizer.chat_template = own or tokenizer.chat_template
    if not tokenizer.chat_template:
        raise UserError(
            f"`--model {name}`: its tokenizer has no chat template, and no other is substituted. Put the "
            "chat_template.jinja of the Instruct model that it comes from next to its tokenizer_config.json"
        )
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        names = ", ".join(map(str, tokenizer.chat_template))
        raise UserError(
            f"`--model {name}`: its chat templates are {names}, and none is `default`; keep the one to "
            "use as chat_template.jinja next to its tokenizer_config.json"
        )
    if "strftime_now" in str(tokenizer.chat_template):
        raise UserError(
            f"`--model {name}`: its chat template writes today's date into every prompt (strftime_now), so answers of "
            "two days could not be compared; write a fixed date there"
        )


def settle_conversation(tokenizer: Any, config: Any, generation: Any, name: str) -> tuple[str, ...]:
    """Check that a model, its tokenizer and its chat template agree, and say what of theirs is not used.

    Args:
        tokenizer: The model's; it gets its chat template, a padding token, and decodes text as it was written.
        config: The model's configuration.
        generation: Its generation configuration, as the checkpoint brings it.
        name: As the study names the model.

    Returns:
        What a user should know: defaults that are ignored, words that the template adds or leaves out.

    Raises:
        UserError: Something would change numbers without a word; the message says what, and the fix.
    """
    require_chat_template(tokenizer, name)
    tokenizer.clean_up_tokenization_spaces = False
    try:
        beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= config.text_config.vocab_size)
        if beyond:
            raise UserError(
                f"its tokenizer has {len(beyond)} tokens that its embedding of {config.text_config.vocab_size} rows "
                f"lacks ({first_few([f'{token} = {i}' for i, token in beyond])}); use the tokenizer it was trained "
                "with, or save it after resize_token_embeddings"
            )
        ends = answer_ends(tokenizer, config, generation)
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id in vision_tokens(config):
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(ends[0])  # padding is masked wherever it stands
        prompt = _rendered(tokenizer, answered=False, open_answer=True)
        before = _rendered(tokenizer, answered=True).rpartition(_ANSWERED)[0]
        _check_prompt(tokenizer, prompt, config)
        check_processors(settings_folder(name), config)
        _check_opening(prompt, before)
        _check_taught(tokenizer, prompt, before, ends[0])
        return tuple(_notes(tokenizer, generation, prompt, before))
    except UserError as error:
        raise UserError(f"`--model {name}`: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        # A tokenizer's settings are checked by nothing until it is used.
        raise UserError(
            f"`--model {name}`: its tokenizer cannot be used ({type(error).__name__}: {error}); {_FIX}"
        ) from error


def conversation_notes(name: str) -> tuple[str, ...]:
    """As :func:`settle_conversation`, from a model's small files alone: before a study starts.

    Raises:
        UserError: Likewise, or the model cannot be found.
    """
    config, tokenizer = model_config(name), load_tokenizer(name, settings_folder(name))
    return settle_conversation(tokenizer, config, generation_defaults(name), name)


def generation_defaults(name: str) -> Any:
    """A model's own configuration of generation, or what its ``config.json`` says where it has none.

    transformers' loading takes a file that it cannot read for one that is missing.

    Raises:
        UserError: The file is damaged.
    """
    from transformers import GenerationConfig

    folder, config = settings_folder(name), model_config(name)
    with readable(name, folder):
        if not (folder / "generation_config.json").is_file():
            return GenerationConfig.from_model_config(config)
        return GenerationConfig.from_pretrained(folder, trust_remote_code=False)


def answer_ends(tokenizer: Any, config: Any, generation: Any) -> tuple[int, ...]:
    """Token ids that end an answer: the chat template's, then those of the other files that name any.

    The first is the one that supervised answers are taught to end with.

    Raises:
        UserError: An end is not a special token of the tokenizer, or nothing names an end.
    """
    ends: dict[int, None] = {}
    special = special_tokens(tokenizer)
    for source, named in (
        ("its chat template", _template_end(tokenizer)),
        ("`eos_token_id` in its generation_config.json", getattr(generation, "eos_token_id", None)),
        ("`eos_token` of its tokenizer", tokenizer.eos_token_id),
        ("`eos_token_id` in its config.json", getattr(config, "eos_token_id", None)),
        ("`eos_token_id` in its config.json", getattr(config.text_config, "eos_token_id", None)),
    ):
        for end in named if isinstance(named, list | tuple) else [named]:
            if end is None:
                continue
            if type(end) is not int or end not in special:
                raise UserError(
                    f"{source} is {end!r}, which is {_in_words(tokenizer, end)}, so it cannot end an answer; "
                    f"correct it (the special tokens are {first_few([f'{t} = {i}' for i, t in special.items()])})"
                )
            ends[end] = None
    if not ends:
        raise UserError("nothing says where an answer ends; write `eos_token_id` into its generation_config.json")
    return tuple(ends)


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The special tokens of a tokenizer by id, in the order of ids."""
    found = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return dict(sorted((found | {i: str(token) for i, token in named if i is not None}).items()))


def vision_tokens(config: Any) -> set[int]:
    """Ids that stand for images and videos, or around them: features would be expected where one was sampled."""
    kinds = ("video_token_id", "image_token_id", "vision_start_token_id", "vision_end_token_id")
    return {i for kind in kinds if (i := getattr(config, kind, None)) is not None}


def ignored_defaults(generation: Any) -> dict[str, Any]:
    """What a checkpoint's generation configuration sets that the harness does not follow."""
    values = {name: getattr(generation, name, None) for name in NEUTRAL}
    return {k: v for k, v in values.items() if v is not None and v != [] and v not in NEUTRAL[k]}


def _in_words(tokenizer: Any, end: Any) -> str:
    known = isinstance(end, int) and not isinstance(end, bool) and 0 <= end < len(tokenizer)
    token = tokenizer.convert_ids_to_tokens(end) if known else None
    return f"no token of its tokenizer ({len(tokenizer)} tokens)" if token is None else f"the ordinary text {token!r}"


def _rendered(tokenizer: Any, *, answered: bool, open_answer: bool = False) -> str:
    """The chat template on a system message, a video with a question and perhaps its answer."""
    said: list[dict[str, Any]] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": _ASKED}]},
        *([{"role": "assistant", "content": _ANSWERED}] if answered else []),
    ]
    try:
        made: str = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=open_answer)
    except Exception as error:  # a template is a program and may fail in any way
        raise UserError(
            "its chat template fails on a system message, a question with a video, and its answer "
            f"({type(error).__name__}: {error}); {_FIX}"
        ) from error
    if answered and made.count(_ANSWERED) != 1:
        raise UserError(f"its chat template does not write down what the assistant said; {_FIX}")
    return made


def _template_end(tokenizer: Any) -> int | None:
    """The token that the chat template writes after an answer; None without a template or an end of its own."""
    if not tokenizer.chat_template:
        return None
    after = _rendered(tokenizer, answered=True).rpartition(_ANSWERED)[2].strip()
    if not after:
        return None
    first: int = _ids(tokenizer, after)[0]
    special = special_tokens(tokenizer)
    if first not in special or not after.startswith(special[first]):
        raise UserError(
            f"its chat template ends an answer with {after!r}, which does not begin with a special token of its "
            f"tokenizer; {_FIX}"
        )
    return first


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _check_prompt(tokenizer: Any, prompt: str, config: Any) -> None:
    """Check that a prompt has the question and one video, and that the tokenizer keeps it as it is."""
    ids, special, video = _ids(tokenizer, prompt), special_tokens(tokenizer), config.video_token_id
    if ids.count(video) != 1:
        written = [f"{special[i]} = {i}" for i in dict.fromkeys(ids) if i in special]
        raise UserError(
            f"its chat template writes {ids.count(video)} video tokens for a prompt with one video: `video_token_id` "
            f"in its config.json is {video} ({special.get(video, 'no special token of its tokenizer')}), and the "
            f"special tokens in the prompt are {', '.join(written) or 'none'}; {_FIX}"
        )
    at, around = ids.index(video), (config.vision_start_token_id, config.vision_end_token_id)
    if (*ids[at - 1 : at], *ids[at + 1 : at + 2]) != around:
        raise UserError(
            f"its chat template does not write {special.get(video)} between {special.get(around[0])} and "
            f"{special.get(around[1])} (`vision_start_token_id` and `vision_end_token_id` in its config.json); {_FIX}"
        )
    if _ASKED not in prompt:
        raise UserError(f"its chat template changes or leaves out the question; {_FIX}")
    if prompt.index(_ASKED) < prompt.index(special[video]):
        raise UserError(f"its chat template puts a question before its video, which is given first; {_FIX}")
    if (read := tokenizer.decode(ids)) != prompt:
        at = next((k for k, (a, b) in enumerate(zip(prompt, read, strict=False)) if a != b), len(read))
        raise UserError(
            f"its tokenizer changes text: {prompt[at : at + 20]!r} is read back as {read[at : at + 20]!r}; {_FIX}"
        )


def _check_opening(prompt: str, before: str) -> None:
    """Check that a prompt ends where the chat template begins an answer."""
    reply = prompt.rpartition(_ASKED)[2]
    if unclosed := [tag for tag in _OPENED.findall(reply) if f"</{tag}>" not in reply]:
        raise UserError(
            f"its chat template opens every reply with <{unclosed[0]}>, so answers would begin inside of it, and "
            "taught answers too; use an Instruct model, or a template that closes the tag before a reply"
        )
    shorter, longer = sorted((prompt, before), key=len)
    if not (longer.startswith(shorter) and _EMPTY_BLOCK.fullmatch(longer.removeprefix(shorter))):
        raise UserError(
            f"its chat template begins an answer after {before[-40:]!r} but ends a prompt with {prompt[-40:]!r}, so "
            f"answers would not be asked for where they begin; {_FIX}"
        )


def _check_taught(tokenizer: Any, prompt: str, before: str, end: int) -> None:
    """Check that an answer as it is taught (its tokens, then the end) is what the chat template writes."""
    if prompt != before:
        return
    taught = [*_ids(tokenizer, prompt), *_ids(tokenizer, _ANSWERED), end]
    written = _ids(tokenizer, _rendered(tokenizer, answered=True).rstrip())
    if written[: len(taught)] != taught[: len(written)]:
        raise UserError(
            f"its chat template ends an answer as {tokenizer.decode(written[len(taught) - 4 :])!r}, and answers would "
            f"be taught as {tokenizer.decode(taught[-4:])!r}; {_FIX}"
        )


def _notes(tokenizer: Any, generation: Any, prompt: str, before: str) -> Iterator[str]:
    if ignored := ignored_defaults(generation):
        listed = ", ".join(f"{name} = {value}" for name, value in ignored.items())
        yield (
            f"The model's generation_config.json sets {listed}. The harness does not follow it, as generate() of "
            "transformers would: training samples from the whole distribution at rollout.temperature, and evaluation "
            "is greedy."
        )
    if SYSTEM not in prompt:
        yield f"The model's chat template leaves out the system message {SYSTEM!r}."
    if prompt != before:
        yield f"The model's chat template writes {before[-40:]!r} before an answer and {prompt[-40:]!r} before a reply."
    if own := _own_words(tokenizer, prompt):
        yield f"The model's chat template adds words of its own to every prompt: {first_few(own)}."
    added = [i for i in tokenizer("a")["input_ids"] if i not in _ids(tokenizer, "a")]
    if not set(added) <= set(_ids(tokenizer, prompt)):
        names = ", ".join(map(str, tokenizer.convert_ids_to_tokens(added)))
        yield f"The model's tokenizer would add {names} to a text; prompts hold what the chat template writes, no more."


def _own_words(tokenizer: Any, prompt: str) -> Sequence[str]:
    """Texts of more than one word that the template itself writes."""
    known = sorted([SYSTEM, _ASKED, *special_tokens(tokenizer).values()], key=len, reverse=True)
    parts = re.split("|".join(re.escape(one) for one in known if one), prompt)
    return [repr(part.strip()) for part in parts if len(part.split()) > 1]
