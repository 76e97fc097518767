"""Published benchmarks next to VSI-Bench, each by its description; their sources are in these files.

What could be verified of each, and what could not, stands at the head of its file in ``harness/benchmarks``.
"""

from __future__ import annotations

from typing import ClassVar

from harness.benchmarks.built_in import MMSI_VIDEO_BENCH, OSI_BENCH, REVSI, STI_BENCH
from harness.benchmarks.description import Description
from reports.benchmarks.described import Described


class ReVSI(Described):
    """VSI-Bench's questions rebuilt, with truths for 16, 32, 64 or all frames (arXiv 2604.24300)."""

    description: ClassVar[Description] = REVSI


class MMSIVideoBench(Described):
    """Choices written by people on videos of many kinds (arXiv 2512.10863)."""

    description: ClassVar[Description] = MMSI_VIDEO_BENCH


class OSIBench(Described):
    """Metric answers and choices on open-world videos (arXiv 2512.19683)."""

    description: ClassVar[Description] = OSI_BENCH


class STIBench(Described):
    """Choices on space and time (arXiv 2503.23765)."""

    description: ClassVar[Description] = STI_BENCH
