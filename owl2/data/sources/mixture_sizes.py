"""The number of conversations of each source of the instruction mixture: Table 8 of the supplement, 1.23 M in all."""

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
"""Table 8; `source` is the name of the module that reads a source."""
