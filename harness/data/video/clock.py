"""The times of a video's frames, from the time stamps of the frames that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

NO_TIMES = (
    "Give the frame rate of a folder of stills with -s data.stills_rate=30; write a video file whose frames have no "
    "increasing time stamps again (ffmpeg -r 30 -i IN OUT.mp4, with its true frame rate)"
)
"""What to do about a video whose frames have no times."""


class Clock(NamedTuple):
    """When frames are shown.

    Attributes:
        seconds: How long the whole video is shown, from its first shown frame to the end of its last.
        times: Seconds from the first shown frame to each frame.
    """

    seconds: float
    times: tuple[float, ...]

    def at(self, indices: Sequence[int]) -> Clock:
        """The clock of some of the frames."""
        return Clock(self.seconds, tuple(self.times[index] for index in indices))


def clock_of(stamps: Sequence[int | None], tick: Fraction, last: int | None, rate: Fraction | None) -> Clock | None:
    """The clock of all shown frames, or None if their stamps are missing or do not increase.

    The stamps count; the rate that the header declares serves only where it agrees with all of them, to undo their
    rounding (Matroska's to milliseconds).

    Args:
        stamps: Presentation time stamps of the shown frames, in ticks.
        tick: Seconds of a tick.
        last: Duration of the last frame in ticks, if known; otherwise it is the mean distance of the others.
        rate: Frames a second, as declared.
    """
    known = [stamp for stamp in stamps if stamp is not None]
    if not known or len(known) < len(stamps) or any(later <= earlier for earlier, later in pairwise(known)):
        return None
    times = [(stamp - known[0]) * tick for stamp in known]
    if rate and _agrees(times, rate, tick):
        return even_clock(len(times), rate)
    if not last or last < 0:
        if len(times) < 2:
            return None
        length = times[-1] / (len(times) - 1)
    else:
        length = last * tick
    return Clock(float(times[-1] + length), tuple(map(float, times)))


def even_clock(frames: int, rate: Fraction) -> Clock:
    """The clock of a constant frame rate."""
    each = float(rate)
    return Clock(frames / each, tuple(number / each for number in range(frames)))


def _agrees(times: Sequence[Fraction], rate: Fraction, tick: Fraction) -> bool:
    slack = min(tick, 1 / (4 * rate))
    return all(abs(time - number / rate) <= slack for number, time in enumerate(times))
