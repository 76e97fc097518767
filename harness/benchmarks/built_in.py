"""The descriptions that come with the package, from the files beside this module."""

from __future__ import annotations

from importlib.resources import files

from harness.benchmarks.description import Description, read_description


def _read(name: str) -> Description:
    return read_description(files(__package__).joinpath(name))


VSI_BENCH = _read("vsibench.toml")
REVSI = _read("revsi.toml")
MMSI_VIDEO_BENCH = _read("mmsi-video-bench.toml")
OSI_BENCH = _read("osi-bench.toml")
STI_BENCH = _read("sti-bench.toml")
