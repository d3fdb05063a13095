"""Opinion scores of how beautiful images are, such as AVA's: the files of `quality`, asked for aesthetics."""

from collections.abc import Iterator

from owl2.data.annotations import AnyPath
from owl2.data.records import Conversation

from .quality import opinion_conversations


def conversations(annotations: AnyPath, images: AnyPath) -> Iterator[Conversation]:
    """Each image with the question for its aesthetics and the level as the answer; see `quality.conversations`.

    Raises:
        ValueError: As there.
    """
    return opinion_conversations(annotations, images, "aesthetics")
