"""What several benchmarks share: instructions, and where COCO's images lie."""

from pathlib import Path

from owl2.data.sources.annotations import Row, image_path

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""Specification, 2.4 and 5."""


def coco_val2014(root: Path, name: str, row: Row) -> Path:
    """An image of COCO val2014 by its file name."""
    return Path(image_path(root / "coco" / "val2014", name, row))
