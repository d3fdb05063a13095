"""Stage 1's augmentation: random resized crop, and horizontal flip with probability 0.5 (section 4.1: as in BLIP-2).

BLIP-2's code (LAVIS, `Blip2ImageTrainProcessor`) crops an area of 0.5 to 1 of the image with torchvision's
`RandomResizedCrop`, whose sampling is restated here: the aspect ratio is drawn log-uniformly from 3/4 to 4/3, up to ten
times until the box fits. All draws come from the generator that is passed in, so that they depend on nothing else.
"""

import math
import random
import re
from typing import NamedTuple

AREA = (0.5, 1.0)  # share of the image's area
ASPECT_RATIO = (3 / 4, 4 / 3)  # width / height of the box
_ATTEMPTS = 10
FLIP_PROBABILITY = 0.5

_SIDES = re.compile(r"\b(?:left|right)(?:most|wards?|(?:\s|-)?hand(?:ed)?)?\b", re.IGNORECASE)


class Crop(NamedTuple):
    """A box in pixels, and whether its contents are mirrored."""

    left: int
    top: int
    width: int
    height: int
    flip: bool = False


def random_crop(width: int, height: int, generator: random.Random, may_flip: bool = True) -> Crop:
    """Box and flip of one sample.

    The numbers drawn do not depend on `may_flip`, so that the box does not either.
    """
    left, top, box_width, box_height = _random_box(width, height, generator)
    flip = generator.random() < FLIP_PROBABILITY
    return Crop(left, top, box_width, box_height, flip and may_flip)


def names_a_side(caption: str) -> bool:
    """Whether a caption says left or right, which a mirrored image would make wrong.

    Also where the word means something else ("right now", "left the house"): such an image is only not flipped.
    """
    return _SIDES.search(caption) is not None


def _random_box(width: int, height: int, generator: random.Random) -> tuple[int, int, int, int]:
    lowest, highest = (math.log(ratio) for ratio in ASPECT_RATIO)
    for _ in range(_ATTEMPTS):
        area = width * height * generator.uniform(*AREA)
        ratio = math.exp(generator.uniform(lowest, highest))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = generator.randint(0, width - box_width), generator.randint(0, height - box_height)
            return left, top, box_width, box_height
    return _central_box(width, height)


def _central_box(width: int, height: int) -> tuple[int, int, int, int]:
    """The largest central box of an allowed aspect ratio, for images that are much longer in one direction."""
    lowest, highest = ASPECT_RATIO
    box_width, box_height = width, height
    if width / height < lowest:
        box_height = min(height, round(width / lowest))
    elif width / height > highest:
        box_width = min(width, round(height * highest))
    return (width - box_width) // 2, (height - box_height) // 2, box_width, box_height
