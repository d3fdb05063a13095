"""LLaVA-Instruct-150K: `llava_instruct_150k.json`, images of COCO in `train2017/`; 157,712 records, Table 8's 158K.

The questions and answers are taken as they are. The file writes `<image>` before or after the first question; the image
goes before it, as in the published prompt.
"""

from collections.abc import Iterator

from owl2.data.annotations import AnyPath, Row, image_path, rows
from owl2.data.records import Conversation

from .chat import Turn, fault, messages, turns_of

PLACEHOLDER = "<image>"


def conversations(annotations: AnyPath, images: AnyPath) -> Iterator[Conversation]:
    """One record a conversation, the same in every epoch.

    Args:
        annotations: A list, each with `id`, `image` and `conversations`.
        images: The folder that holds `train2017/<image>`.

    Raises:
        ValueError: A broken record, by file and number: also roles out of order, empty turns, and anything but one
            `<image>`, in the first turn.
    """
    for number, row in enumerate(rows(annotations), start=1):
        image = image_path(images, f"train2017/{row.text('image')}", row)
        turns = _without_placeholder(turns_of(row), row)
        problem = fault(turns)
        if problem is not None:
            raise row.error(f"{problem}: {turns!r:.200}")
        # Several conversations are about one image, and `id` is the image's.
        yield Conversation(f"llava_instruct-{number}-{row.text('id')}", messages(turns, num_images=1), (image,))


def _without_placeholder(turns: list[Turn], row: Row) -> list[Turn]:
    counts = [text.count(PLACEHOLDER) for _, text in turns]
    if sum(counts) != 1 or counts[0] != 1:
        raise row.error(f"the numbers of {PLACEHOLDER} in its turns are {counts}, not 1 in the first and then 0")
    return [(role, text.replace(PLACEHOLDER, "").strip()) for role, text in turns]
