"""VSI-Bench: ten question types, eight tasks, and the mean of the tasks as the headline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from harness.benchmarks.built_in import VSI_BENCH
from harness.benchmarks.description import Description
from harness.data.layout import BENCHMARK_SPLITS, SUFFIXES
from harness.vsibench.questions import part_of_vsi_bench
from harness.vsibench.records import Record
from harness.world.build import is_of_the_world
from reports.benchmarks.described import Described
from reports.text import listed


class VSIBench(Described):
    """The protocol of VSI-Bench (arXiv 2412.14171), on its own questions or on others in its form."""

    description: ClassVar[Description] = VSI_BENCH
    published: ClassVar[bool] = True

    def title(self, records: Sequence[Record], source: str = "") -> str:
        """VSI-Bench or how much of it, the embedded world, or else the name of the user's own questions.

        By what is asked: neither the name of a folder nor of a data set makes questions VSI-Bench's.
        """
        name, _, split = source.partition("#")
        if part := part_of_vsi_bench(records):
            of = f", split {split}" if split in BENCHMARK_SPLITS[1:] else ""
            return f"VSI-Bench{of}{f' ({part.words})' if part.words else ''}"
        if is_of_the_world(records):
            return f"the embedded world ({source if source.startswith('world:') else split})".removesuffix(" ()")
        own = Path(name).stem if name.endswith(SUFFIXES) else Path(name).name or Path(name).resolve().name
        if not source or _claims_vsi_bench(own):
            about = sorted({record.dataset for record in records if not _claims_vsi_bench(record.dataset)})
            own = f"questions about {listed(about)}" if about else "questions of one's own"
        return f"{own} ({split})" if split else own


def _claims_vsi_bench(name: str) -> bool:
    """Whether a name says that its questions are VSI-Bench's; a title must not repeat it if they are not."""
    return "vsibench" in "".join(filter(str.isalnum, name)).casefold()
