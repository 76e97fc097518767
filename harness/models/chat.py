"""A model must have its own chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.io import read_json
from harness.models.loading import locate


def require_chat_template(tokenizer: Any, name: str) -> None:
    """Give a tokenizer its model's own chat template, which some keep only in ``chat_template.json``.

    Raises:
        UserError: There is none. No other is substituted, since the model was not trained on it.
    """
    from transformers.utils import cached_file

    if not tokenizer.chat_template:
        file = cached_file(locate(name), "chat_template.json", _raise_exceptions_for_missing_entries=False)
        tokenizer.chat_template = read_json(Path(file)).get("chat_template") if file else None
    if not tokenizer.chat_template:
        raise UserError(
            f"`--model {name}`: its tokenizer has no chat template, and no other is substituted. Put the "
            "chat_template.jinja of the Instruct model that it comes from next to its tokenizer_config.json"
        )
