"""What a fuzz campaign tries: each target makes one damaged input and takes it through the product's doors.

A target returns when the input was accepted. It raises :class:`~harness.errors.UserError` when it was refused, and
:class:`~fuzz_mutations.NonsenseError` when something was accepted that no reader would believe.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fuzz_data
import fuzz_media
import fuzz_models
import fuzz_studies
from fuzz_mutations import Input

TARGETS: dict[str, tuple[Callable[[Input], None], float]] = {
    "records": (fuzz_data.records, 1500),
    "answers": (fuzz_data.answers, 2000),
    "answer files": (fuzz_data.answer_files, 1500),
    "general": (fuzz_data.general, 500),
    "archives": (fuzz_data.archives, 800),
    "prepare": (fuzz_data.prepare, 300),
    "videos": (fuzz_media.videos, 900),
    "images": (fuzz_media.images, 500),
    "caches": (fuzz_media.caches, 300),
    "study files": (fuzz_studies.study_files, 900),
    "settings": (fuzz_studies.settings, 1200),
    "run directories": (fuzz_studies.run_directories, 700),
    "commands": (fuzz_studies.commands, 300),
    "model folders": (fuzz_models.model_folders, 500),
    "checkpoints": (fuzz_models.checkpoints, 500),
}
"""By name: the target, and its share of a campaign's inputs."""


def make_seeds(folder: Path) -> None:
    """Make the valid files that inputs are mutated from."""
    folder.mkdir(parents=True)
    for module in (fuzz_data, fuzz_media, fuzz_models, fuzz_studies):
        module.make_seeds(folder)
