"""A record and its video as the token ids and vision input of one prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.data.video.clock import NO_TIMES
from harness.data.video.frames import ProcessedVideo, VideoSettings
from harness.errors import UserError
from harness.vsibench.prompts import OFFICIAL, PROMPTS_VERSION, SYSTEM, Wording, prompt_text, second_turn_text
from harness.vsibench.records import Record

VIDEO_TOKEN_TYPE = 2
"""What ``mm_token_type_ids`` holds on video tokens (0 on text), as Qwen2-VL's forward expects."""


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One prompt, ready for the model.

    Attributes:
        id: 16 hex digits hashed from the text, the frames and :data:`~harness.vsibench.prompts.PROMPTS_VERSION`.
        record: The question.
        mode: The prompt mode.
        input_ids: (P,) int64, up to and including the generation prompt.
        mm_token_type_ids: (P,) int64, 2 on video tokens and 0 elsewhere.
        video: The vision input; it has as many merged patches as there are video tokens.
    """

    id: str
    record: Record
    mode: str
    input_ids: Tensor
    mm_token_type_ids: Tensor
    video: ProcessedVideo


class VideoLoader(Protocol):
    """Turns files into vision input: :class:`~harness.data.video.cache.FrameCache`, or the loader of still images."""

    settings: VideoSettings

    def load(self, path: Path) -> ProcessedVideo: ...


class PromptEncoder:
    """Encodes prompts with a model's own tokenizer and chat template: system, video, question."""

    def __init__(
        self, tokenizer: Any, video_token_id: int, frames: VideoLoader, merge_size: int, *, stamped: bool = False
    ) -> None:
        """Bind a tokenizer of transformers, the id of its video token, and the video loader.

        With ``stamped``, every temporal patch is its own vision block, preceded by its time in seconds, as Qwen3-VL
        expects.

        Raises:
            ValueError: ``merge_size`` differs from that of the frames, or the id is not a special token.
        """
        if merge_size != frames.settings.merge_size:
            raise ValueError(f"the model merges {merge_size} patches, the frames {frames.settings.merge_size}")
        self._special = _special_tokens(tokenizer)
        if tokenizer.convert_ids_to_tokens(video_token_id) not in self._special:
            raise ValueError(f"token {video_token_id} is not a special token of the tokenizer")
        self._tokenizer = tokenizer
        self._video_token_id = video_token_id
        self._frames = frames
        self._merged = merge_size**2
        self._stamped = stamped

    def encode(
        self,
        record: Record,
        mode: str,
        video_path: Path,
        *,
        words: str | None = None,
        wording: Wording = OFFICIAL,
    ) -> EncodedPrompt:
        """The prompt of a record in a mode.

        Args:
            record: The question.
            mode: The prompt mode, which determines the text.
            video_path: The video shown before the text.
            words: A text to use instead of the mode's.
            wording: The benchmark's own words, which the modes official and cot use.

        Raises:
            UserError: The video cannot be read, the mode is unknown, the record's text or answer contains a
                special token, or the chat template does not place exactly one video.
        """
        words = prompt_text(record, mode, wording) if words is None else words
        self._refuse_special_tokens(record, words)
        said = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": words}]}
        return self._encoded(record, mode, [said], self._frames.load(video_path))

    def second_turn(self, prompt: EncodedPrompt, answer: str, wording: Wording = OFFICIAL) -> EncodedPrompt:
        """The follow-up prompt that asks for the answer alone, after the model's response to the first prompt.

        Special tokens that the model wrote out as text are removed from its response.
        """
        for token in self._special:
            answer = answer.replace(token, "")
        first = prompt_text(prompt.record, prompt.mode, wording)
        said: list[Mapping[str, Any]] = [
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": first}]},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": second_turn_text(prompt.record, wording)},
        ]
        return self._encoded(prompt.record, prompt.mode, said, prompt.video)

    def _encoded(
        self, record: Record, mode: str, said: Sequence[Mapping[str, Any]], video: ProcessedVideo
    ) -> EncodedPrompt:
        """Encode a conversation whose first turn shows the video."""
        chat = self._tokenizer.apply_chat_template(
            [{"role": "system", "content": SYSTEM}, *said], tokenize=False, add_generation_prompt=True
        )
        if self._stamped:
            chat = self._with_time_stamps(chat, video, record)
        input_ids = self._expand(self._tokenizer(chat, add_special_tokens=False)["input_ids"], video)
        return EncodedPrompt(
            id=_sha256(f"{chat}\0{video.digest}\0{PROMPTS_VERSION}")[:16],
            record=record,
            mode=mode,
            input_ids=input_ids,
            mm_token_type_ids=(input_ids == self._video_token_id).long() * VIDEO_TOKEN_TYPE,
            video=video,
        )

    def _with_time_stamps(self, chat: str, video: ProcessedVideo, record: Record) -> str:
        """Replace the single vision block by ``<1.5 seconds>`` and a vision block for each temporal patch."""
        token = self._tokenizer.convert_ids_to_tokens(self._video_token_id)
        before, _, after = chat.partition(token)
        start = next((one for one in self._special if before.endswith(one)), "")
        end = next((one for one in self._special if after.startswith(one)), "")
        if token in after or not start or not end:
            raise self._wrong_template(chat.count(token), ", each between two special tokens")
        if len(video.patch_times) != int(video.grid_thw[0, 0]):
            raise UserError(
                f"{record.scene}: Qwen3-VL's prompts state the time of every frame, which this video does not tell. "
                f"{NO_TIMES}, or use a Qwen2-VL model"
            )
        blocks = "".join(f"<{seconds:.1f} seconds>{start}{token}{end}" for seconds in video.patch_times)
        return before.removesuffix(start) + blocks + after.removeprefix(end)

    def _expand(self, ids: list[int], video: ProcessedVideo) -> Tensor:
        """Repeat the video token of each block once for every merged patch, the vision tower's output rows."""
        patches = int(video.grid_thw.prod())
        blocks = int(video.grid_thw[0, 0]) if self._stamped else 1
        tokens, rest = divmod(patches, self._merged * blocks)
        if tokens == 0 or rest or len(video.pixel_values) != patches:
            raise ValueError(
                f"{len(video.pixel_values)} patches in a grid {video.grid_thw.tolist()} do not form whole tokens"
            )
        made = torch.tensor(ids, dtype=torch.long)
        places = made == self._video_token_id
        if int(places.sum()) != blocks:
            raise self._wrong_template(int(places.sum()))
        return made.repeat_interleave(torch.where(places, tokens, 1))

    def _wrong_template(self, found: int, more: str = "") -> UserError:
        return UserError(
            f"the tokenizer's chat template writes {found} video tokens for a prompt with one video "
            f"(id {self._video_token_id}) instead of 1{more}; use the chat template of a Qwen2-VL model"
        )

    def _refuse_special_tokens(self, record: Record, words: str) -> None:
        # An end in the right answer would be taught twice, and no reading of an answer could ever be equal to it.
        found = sorted(token for token in self._special if token in words or token in record.ground_truth)
        if found:
            raise UserError(
                f"record {record.key} ({record.scene}): its text contains "
                f"{', '.join(map(repr, found))}, special tokens of the model; remove them from the data"
            )


def _special_tokens(tokenizer: Any) -> frozenset[str]:
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return frozenset({*added, *tokenizer.all_special_tokens} - {""})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
