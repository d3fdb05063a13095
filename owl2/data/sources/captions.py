"""One caption an image, another each epoch (supplement, B.1: one is randomly selected from the ground truth)."""

import random
from collections.abc import Sequence

from owl2.data.records import Conversation, turns

PROMPT = "Provide a one-sentence caption for the provided image."  # of the published captioning evaluation


def caption_conversation(name: str, image: str, captions: Sequence[str], seed: int, epoch: int) -> Conversation:
    """The image with one of its captions.

    The seed shuffles an image's distinct captions, and the epochs go through them in turn: no caption comes again
    before all others came.
    """
    distinct = list(dict.fromkeys(" ".join(caption.split()) for caption in captions))
    order = random.Random(f"{seed}-{name}").sample(distinct, len(distinct))
    return Conversation(name, turns([(PROMPT, order[epoch % len(order)])], num_images=1), (image,))
