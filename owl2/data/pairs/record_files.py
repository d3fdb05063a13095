"""The common parts of sources of records in files: groups of records, packed texts, and images of a record."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from owl2.data.media import MediaRoot
from owl2.data.problems import Problem, ProblemKind
from owl2.data.skipped import Fault, InvalidSample

BLOCK = 1 << 14  # records of a group, where any record can be read at once

_FAULTS = {ProblemKind.MISSING: Fault.MISSING_IMAGE, ProblemKind.REFUSED: Fault.REFUSED}


def block_sizes(count: int) -> list[int]:
    """`count` records in groups of `BLOCK`."""
    full, rest = divmod(count, BLOCK)
    return [BLOCK] * full + [rest] * (rest > 0)


class PackedTexts:
    """Many texts in two arrays: processes that are forked share their memory, unlike that of Python's strings."""

    def __init__(self, texts: Iterable[str]) -> None:
        pieces = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        self._octets = np.frombuffer(b"".join(pieces), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return self._octets[start : self._ends[index]].tobytes().decode("utf-8", "surrogatepass")


def named_image(root: MediaRoot, value: Any, where: str) -> str:
    """The file or data URL that a record names as its image.

    Raises:
        InvalidSample: It is missing, outside of the root, an address, or not a name.
    """
    if not isinstance(value, str) or not value:
        raise InvalidSample(Fault.MISSING_IMAGE, f"{where}: the image is {value!r:.60}, not a path")
    try:
        found = root.resolve(value, "image")
    except (UnicodeError, OSError) as error:
        raise InvalidSample(Fault.REFUSED, f"{where}: the image {value!r:.100}: {error}") from error
    if isinstance(found, Problem):
        raise InvalidSample(_FAULTS.get(found.kind, Fault.DAMAGED_IMAGE), f"{where}: {found.text}")
    return found


def image_root(file: str | os.PathLike, root: str | os.PathLike | None) -> MediaRoot:
    """The folder of the images of a file of records: `root`, or that of the file."""
    return MediaRoot(os.path.dirname(os.path.abspath(file)) if root is None else root)
