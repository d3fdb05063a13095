"""How many conversations each source of the instruction mixture gives: Table 8 of the supplement, 1.23 M in all."""

from collections.abc import Mapping
from typing import NamedTuple


class Expected(NamedTuple):
    """A row of Table 8, in thousands rounded as printed there."""

    kind: str
    source: str
    size: int


TABLE_8 = (
    Expected("text", "sharegpt", 40_000),
    Expected("text", "slim_orca", 518_000),
    Expected("dialogue", "llava_instruct", 158_000),
    Expected("caption", "coco_captions", 82_000),
    Expected("caption", "textcaps", 22_000),
    Expected("vqa", "vqav2", 83_000),
    Expected("vqa", "gqa", 72_000),
    Expected("vqa", "okvqa", 9_000),
    Expected("vqa", "ocr_vqa", 80_000),
    Expected("vqa", "a_okvqa", 50_000),
    Expected("regional vqa", "refcoco", 30_000),
    Expected("regional vqa", "visual_genome", 86_000),
)
"""`source` is the name of the module that reads it."""


class Comparison(NamedTuple):
    """What was found of a source; `expected` is `None` for one that Table 8 does not have."""

    source: str
    found: int
    expected: int | None


def found_beside_expected(found: Mapping[str, int]) -> list[Comparison]:
    """Numbers of conversations beside Table 8's: its sources in its order, other sources, and the total.

    Args:
        found: number of conversations by source; sources of the table that it lacks count as 0.
    """
    expected = {row.source: row.size for row in TABLE_8}
    comparisons = [Comparison(source, found.get(source, 0), size) for source, size in expected.items()]
    comparisons += [Comparison(source, number, None) for source, number in found.items() if source not in expected]
    return [*comparisons, Comparison("total", sum(found.values()), sum(expected.values()))]
