"""The choice of the frames of a video. (T frames)"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Unit = Literal["seconds", "frames"]
Spacing = Literal["centres", "seed", "one_a_second"]


@dataclass(frozen=True)
class FrameSampling:
    """The choice of frames from a video or, with `start` or `end`, from a part of it.

    Attributes:
        num_frames: Number of frames; a part with no more frames is taken whole.
        start, end: Limits of the part, from the beginning of the video; `end` is not in it. A part holds at least one
            frame, and ends where the video does. None is the video's own.
        unit: Unit of `start` and `end`. Seconds become frames by the frame rate, rounded down, or by the times of
            the frames where it is not constant.
        spacing: "centres" takes the centres of equal segments: of T frames, those of index
            `floor((i + 1/2) * T / num_frames)`. "seed" takes what SEED-Bench's program takes (evaluation
            specification, section 7): with `step = (T - 1) / num_frames` those of index
            `floor(step / 2) + round(step * i)`, of which two are equal if T is `num_frames`; there the last frame of
            a video does not count, unless the part is given in frames. "one_a_second" takes what Q-Align's program
            takes, of F frames a second those of index `floor(F * i)` for each whole second, but at least the first;
            where these are more than `num_frames`, the centres of equal segments of them.

    Raises:
        ValueError: A number is out of range, or an unknown unit or spacing.
    """

    num_frames: int
    start: float | None = None
    end: float | None = None
    unit: Unit = "seconds"
    spacing: Spacing = "centres"

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"num_frames={self.num_frames}: at least one frame is needed")
        start, end = self.start or 0.0, math.inf if self.end is None else self.end
        if not 0 <= start < end:
            raise ValueError(f"a part of a video needs 0 <= start < end, got start={self.start}, end={self.end}")
        if self.unit not in get_args(Unit) or self.spacing not in get_args(Spacing):
            raise ValueError(
                f"unit={self.unit!r}, spacing={self.spacing!r}: the units are {', '.join(get_args(Unit))}, the "
                f"spacings {', '.join(get_args(Spacing))}"
            )

    @property
    def is_part(self) -> bool:
        return self.start is not None or self.end is not None

    def indices(self, total: int, rate: float | None, name: str, times: Sequence[float] | None = None) -> list[int]:
        """The indices of the frames to take from `total`, in increasing order; some may be equal.

        Args:
            rate: Frames a second, if it is known.
            name: Name of the video, for the errors.
            times: Seconds at which each frame is shown, and at which the last one ends, if that is known. They count
                instead of the rate where it is not constant, but for the spacing "seed", which is a program's.

        Raises:
            ValueError: The part begins after the end of the video, or is in seconds and the rate is not known.
        """
        if total == 0:
            return []
        clock = self._clock(total, rate, times)
        first, last = self._part(total, clock, name)
        if self.spacing == "one_a_second":
            if rate is None or clock is None:
                raise ValueError(f"the frame rate of {name} is not known: pass its frames as a list")
            if clock.times is not None:
                began, ended = clock.times[first], clock.times[last]
                seconds = [clock(began + second) for second in range(max(1, int(ended - began)))]
                return [seconds[index] for index in sample_indices(len(seconds), self.num_frames)]
            seconds = [int(rate * second) for second in range(max(1, int((last - first) / rate)))]
            return [first + seconds[index] for index in sample_indices(len(seconds), self.num_frames)]
        choose = _seed_indices if self.spacing == "seed" else sample_indices
        return [first + index for index in choose(last - first, self.num_frames)]

    def _clock(self, total: int, rate: float | None, times: Sequence[float] | None) -> "FrameClock | None":
        if rate is None:
            return None
        is_constant = times is None or len(times) != total + 1 or _is_constant(times[:-1], rate)
        return FrameClock(rate, None if is_constant or self.spacing == "seed" else times)

    def _part(self, total: int, clock: "FrameClock | None", name: str) -> tuple[int, int]:
        """The first frame of the part, and the one after its last."""
        limit = total - 1 if self.spacing == "seed" and not (self.is_part and self.unit == "frames") else total
        first = 0 if self.start is None else self._frame(self.start, clock, name)
        last = limit if self.end is None else min(self._frame(self.end, clock, name, is_end=True), limit)
        if first >= total:
            raise ValueError(f"{name} has {total} frames, but its part from {self.start} {self.unit} on is asked for")
        return first, max(last, first + 1)

    def _frame(self, position: float, clock: "FrameClock | None", name: str, is_end: bool = False) -> int:
        if self.unit == "frames":
            return int(position)
        if clock is None:
            raise ValueError(f"the frame rate of {name} is not known: give its part in frames (unit='frames')")
        return clock.before(position) if is_end else clock(position)


class FrameClock(NamedTuple):
    """Converts seconds to frames, by a constant rate or by the times of the frames and of the end."""

    rate: float
    times: Sequence[float] | None

    def __call__(self, second: float) -> int:
        """The frame that is shown at a time; the number of frames from the end on."""
        if self.times is None:
            return int(second * self.rate)
        return max(0, bisect_right(self.times, second + 1e-6) - 1)

    def before(self, second: float) -> int:
        """The number of frames of which some part is shown before a time."""
        if self.times is None:
            return int(second * self.rate)
        return bisect_left(self.times, second - 1e-6)


def _is_constant(times: Sequence[float], rate: float) -> bool:
    """Whether every frame is shown within a frame's time of where the rate puts it."""
    return all(abs(time - index / rate) <= 1 / rate for index, time in enumerate(times))


def sample_indices(total: int, num_frames: int) -> list[int]:
    """Indices of the frames to take from `total`: the centres of `num_frames` equal segments, or all of them."""
    if total <= num_frames:
        return list(range(total))
    return [(2 * index + 1) * total // (2 * num_frames) for index in range(num_frames)]


def _seed_indices(total: int, num_frames: int) -> list[int]:
    if total < num_frames:
        return list(range(total))
    step = (total - 1) / num_frames
    return [int(step / 2) + round(step * index) for index in range(num_frames)]  # halves go to the even neighbour
