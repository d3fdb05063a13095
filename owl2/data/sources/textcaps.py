"""TextCaps: `TextCaps_0.1_train.json`, images of TextVQA in `train_images/`.

The file has a record for each caption (109,765), five an image; the records of one `image_id` become one conversation
(21,953, Table 8's 22K). See `captions.py` for the prompt and the choice of the caption of an epoch.
"""

from collections.abc import Iterator

from owl2.data.annotations import AnyPath, image_path, rows
from owl2.data.records import Conversation

from .captions import caption_conversation


def conversations(annotations: AnyPath, images: AnyPath, seed: int = 0, epoch: int = 0) -> Iterator[Conversation]:
    """One record an image, in the order of their first captions.

    Args:
        annotations: `TextCaps_0.1_train.json`: `data`, each with `image_id` and `caption_str`.
        images: The folder that holds `train_images/<image_id>.jpg`.

    Raises:
        ValueError: A broken record, by file and number.
    """
    captions: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    for row in rows(annotations, "data"):
        image = row.text("image_id")
        paths.setdefault(image, image_path(images, f"train_images/{image}.jpg", row))
        captions.setdefault(image, []).append(row.text("caption_str"))
    for image, texts in captions.items():
        yield caption_conversation(f"textcaps-{image}", paths[image], texts, seed, epoch)
