"""Questions about regions of an image: from a box to its phrase, and from a phrase to its box.

A box is written `[x1, y1, x2, y2]`: the left, top, right and bottom edge, each divided by the image's width or height,
so between 0 and 1 from the top left corner, with two decimals. The model sees the whole image resized to a square
without padding, so these are also the proportions of what it sees. The paper gives neither convention nor wording for
its regional data; both are those of LLaVA-1.5, whose mixture it follows, as far as they are public.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from owl2.data.annotations import Row
from owl2.data.records import Conversation, turns

MAX_REGIONS = 10
"""The largest number of exchanges in one conversation, as in LLaVA-1.5's regional data."""


class Region(NamedTuple):
    """A part of an image: (x1, y1, x2, y2) from 0 to 1, and its description."""

    box: tuple[float, float, float, float]
    phrase: str


class SizedImage(NamedTuple):
    """The file of an image, and its size in pixels."""

    file: str
    width: float
    height: float

    @classmethod
    def of(cls, file: str, row: Row) -> "SizedImage":
        """Reads the `width` and `height` of a record."""
        return cls(file, row.positive("width"), row.positive("height"))


def normalized_box(
    x: float, y: float, width: float, height: float, image_width: float, image_height: float
) -> tuple[float, float, float, float] | None:
    """The box of a corner and a size in pixels, cut at the edges of the image; `None` if it lies outside."""
    left, right = (min(max(edge / image_width, 0.0), 1.0) for edge in (x, x + width))
    top, bottom = (min(max(edge / image_height, 0.0), 1.0) for edge in (y, y + height))
    return (left, top, right, bottom) if left < right and top < bottom else None


def box_text(box: tuple[float, float, float, float]) -> str:
    """The box in words, such as `[0.25, 0.10, 0.50, 1.00]`."""
    return "[" + ", ".join(f"{edge:.2f}" for edge in box) + "]"


def phrase_question(region: Region) -> tuple[str, str]:
    """Question and answer from the box to its phrase."""
    return f"Please provide a short description for this region: {box_text(region.box)}.", region.phrase


def box_question(region: Region) -> tuple[str, str]:
    """Question and answer from the phrase to its box."""
    wording = "Please provide the bounding box coordinate of the region this sentence describes"
    return f"{wording}: {region.phrase}", box_text(region.box)


def region_conversation(name: str, image: str, regions: Sequence[Region], seed: int, epoch: int) -> Conversation:
    """One conversation about at most `MAX_REGIONS` regions, each asked once, in a random direction.

    Where an image has more, each epoch continues where the last one ended. An odd epoch asks every region in the
    direction opposite to that of the even epochs.
    """
    generator = random.Random(f"{seed}-{name}")
    shuffled = [(region, generator.random() < 0.5) for region in generator.sample(regions, len(regions))]
    first = epoch * MAX_REGIONS % len(regions) if len(regions) > MAX_REGIONS else 0
    taken = (shuffled[first:] + shuffled[:first])[:MAX_REGIONS]
    flipped = epoch % 2 == 1
    exchanges = [phrase_question(region) if coin != flipped else box_question(region) for region, coin in taken]
    return Conversation(name, turns(exchanges, num_images=1), (image,))
