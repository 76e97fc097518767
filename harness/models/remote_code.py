"""Refusing models that ask for code of their own: nothing in a model's folder, or named in it, is ever run.

transformers ignores such a request where it knows the kind of model, which may be another model than the one meant;
otherwise it asks on the terminal whether to run the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.hub import MODEL_SETTINGS
from harness.io import read_json

_CODE = ("auto_map", "auto_mapping", "custom_generate", "custom_pipelines", "trust_remote_code")
_KERNEL = "attn_implementation"
_TOKENIZER = re.compile(r"\w+Tokenizer(Fast)?|TokenizersBackend")
_FOLDER = "custom_generate"


def refuse_remote_code(folder: Path) -> None:
    """Refuse a model whose settings name code: classes, kernels, a function that generates.

    Args:
        folder: Of a model or a checkpoint, with its settings.

    Raises:
        UserError: They do; the message names the file and the key, and the fix.
    """
    for name in sorted(name for name in MODEL_SETTINGS if name.endswith("config.json")):
        if (file := folder / name).is_file():
            for key, value in _requests(read_json(file)):
                raise UserError(
                    f"`{file}`: `{key}` = {str(value)[:80]} asks for code that is not transformers' own, which is "
                    "never run. Delete the key if transformers' own classes are meant, or take another model"
                )
    if any((folder / _FOLDER).glob("*.py")):
        raise UserError(
            f"`{folder / _FOLDER}`: code of the model for generating answers, which is never run. Delete the folder if "
            "its weights alone are meant, or take another model"
        )


def _requests(document: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a document, at any depth, that names code, with its value."""
    waiting = [document]
    while waiting:
        one = waiting.pop()
        waiting += one if isinstance(one, list) else one.values() if isinstance(one, dict) else ()
        for key, value in one.items() if isinstance(one, dict) else ():
            kernel = key.endswith(_KERNEL) and "/" in str(value)
            strange = key == "tokenizer_class" and value is not None and not _TOKENIZER.fullmatch(str(value))
            if kernel or strange or (key in _CODE and value):
                yield key, value
