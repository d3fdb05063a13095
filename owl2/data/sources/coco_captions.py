"""COCO captions in the Karpathy split: `dataset_coco.json`, images in `train2014/`.

Only split `train` is read (82,783 images): Table 8's 82K, without `restval`. The caption is `raw`, with white space
collapsed; see `captions.py` for the prompt and the choice of the caption of an epoch.
"""

from collections.abc import Iterator

from owl2.data.annotations import AnyPath, image_path, rows
from owl2.data.records import Conversation

from .captions import caption_conversation


def conversations(annotations: AnyPath, images: AnyPath, seed: int = 0, epoch: int = 0) -> Iterator[Conversation]:
    """One record an image.

    Args:
        annotations: `dataset_coco.json`: `images`, each with `filepath`, `filename`, `split`, `cocoid`, `sentences`.
        images: The folder that holds `train2014/`.

    Raises:
        ValueError: A broken record, by file and number.
    """
    for row in rows(annotations, "images"):
        if row.text("split") != "train":
            continue
        captions = [sentence.text("raw") for sentence in row.rows("sentences")]
        if not captions:
            raise row.error("has no caption: 'sentences' is empty")
        image = image_path(images, f"{row.text('filepath')}/{row.text('filename')}", row)
        yield caption_conversation(f"coco-{row.integer('cocoid')}", image, captions, seed, epoch)
