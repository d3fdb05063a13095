"""The interface of all sources of stage-1 pairs: a pair, what can be wrong with it, and how pairs are read."""

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from owl2.data.skipped import Fault, InvalidSample

LARGEST_PAIR = 1 << 28  # bytes; what is larger is damage or an attack, not an image and its caption


class StoredPair(NamedTuple):
    """An image as it is stored, and its caption.

    Attributes:
        id: Names the pair within its source.
        image: The bytes of a file, the path of a file, or a data URL: what `load_image` reads.
        caption: Not empty, white space collapsed.
        source: Name of the source.
    """

    id: str
    image: bytes | str
    caption: str
    source: str


class PairSource(Protocol):
    """Pairs that can be read in any order.

    Attributes:
        name: Unique among the sources of a run.
        groups: Numbers of pairs that lie together, as in one shard; the pairs of a group are read at about the same
            time.
    """

    name: str
    groups: Sequence[int]

    def read(self, group: int, index: int) -> StoredPair:
        """Reads pair `index` of a group.

        Raises:
            InvalidSample: The pair does not exist after all, or lacks its image or caption.
        """
        ...


def caption_text(value: Any, where: str) -> str:
    """A caption as found in a file, with white space collapsed.

    Args:
        value: Text, UTF-8 or nothing.
        where: The place with which the error begins.

    Raises:
        InvalidSample: It is empty, or not valid text.
    """
    if value is None:
        raise InvalidSample(Fault.MISSING_CAPTION, f"{where}: the caption is missing")
    try:
        text = value.decode("utf-8-sig") if isinstance(value, bytes) else value
        if not isinstance(text, str):
            raise InvalidSample(Fault.INVALID_CAPTION, f"{where}: the caption is {value!r:.60}, not a text")
        text.encode()  # half a character, as JSON's \ud83d alone, is no text
    except UnicodeError as error:
        raise InvalidSample(Fault.INVALID_CAPTION, f"{where}: the caption is not UTF-8: {error}") from error
    collapsed = " ".join(text.split())
    if all(unicodedata.category(character).startswith(("C", "Z")) for character in collapsed):
        raise InvalidSample(Fault.EMPTY_CAPTION, f"{where}: the caption is empty")
    return collapsed
