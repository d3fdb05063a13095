"""Visual Genome's region descriptions: `region_descriptions.json`, `image_data.json`, images in two folders.

One record an image (108,077; Table 8's 86K are a part of them that the paper does not name), with at most ten of its
regions. `regions.py` has the wording and the form of a box, and the choice of the regions of an epoch. Boxes are cut at
the edges of the image; regions that then have no area or that have no phrase are left out, counted and logged.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from owl2.data.annotations import AnyPath, Row, image_path, rows
from owl2.data.problems import Problem, ProblemKind, Rejected
from owl2.data.records import Conversation

from .regions import Region, SizedImage, normalized_box, region_conversation

logger = logging.getLogger(__name__)


def conversations(
    regions: AnyPath,
    image_data: AnyPath,
    images: AnyPath,
    seed: int = 0,
    epoch: int = 0,
    rejected: Rejected | None = None,
) -> Iterator[Conversation]:
    """One record an image that has a usable region.

    Args:
        regions: `region_descriptions.json`: a list, each with `id` (of the image) and `regions`, these with `x`, `y`,
            `width`, `height` in pixels and `phrase`.
        image_data: `image_data.json`: a list, each with `image_id`, `width`, `height`, and `url`, whose last two parts
            (`VG_100K_2/1.jpg`) are the file.
        images: The folder that holds `VG_100K` and `VG_100K_2`.
        rejected: Counts and names images without a usable region.

    Raises:
        ValueError: A broken record, by file and number; regions of an image that `image_data` lacks.
    """
    known = _images(image_data, images)
    reasons: Counter[str] = Counter()
    for row in rows(regions):
        number = row.integer("id")
        if number not in known:
            raise row.error(f"image {number} is not in {image_data}")
        usable = _usable(row, known[number], reasons)
        if usable:
            yield region_conversation(f"visual_genome-{number}", known[number].file, usable, seed, epoch)
        elif rejected is not None:
            rejected.add(row.where, [Problem(ProblemKind.NO_REGION, f"image {number} has no region to ask about")])
    if reasons:
        logger.warning("%s: left out %d regions: %s", regions, reasons.total(), dict(reasons))


def _usable(row: Row, image: SizedImage, reasons: Counter[str]) -> list[Region]:
    found = []
    for region in row.rows("regions"):
        x, y, width, height = (region.number(name) for name in ("x", "y", "width", "height"))
        box = normalized_box(x, y, width, height, image.width, image.height)
        phrase = " ".join(region.string("phrase").split())
        if box is None:
            reasons["no area inside the image"] += 1
        elif not phrase:
            reasons["no phrase"] += 1
        else:
            found.append(Region(box, phrase))
    return found


def _images(image_data: AnyPath, images: AnyPath) -> dict[int, SizedImage]:
    found = {}
    for row in rows(image_data):
        parts = PurePosixPath(urlsplit(row.text("url")).path).parts[-2:]
        file = image_path(images, "/".join(parts), row)
        found[row.integer("image_id")] = SizedImage.of(file, row)
    return found
