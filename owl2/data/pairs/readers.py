"""Which source reads a file or a folder of pairs, and a check of one."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from owl2.data.skipped import Fault, InvalidSample

from .coco import CocoCaptions
from .jsonl import PairLines
from .loader import open_image
from .parquet import PairParquet
from .sampler import SourceOrder
from .source import PairSource
from .tar_shards import TarShards


def open_pairs(
    name: str,
    path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    index: str | os.PathLike | None = None,
    image_field: str | None = None,
    caption_field: str | None = None,
) -> PairSource:
    """The source of a path, by what it is.

    Args:
        name: of the source.
        path: a folder or address of tar shards; a `.jsonl` file; a `.parquet` file or a folder of them; a `.json` file
            of COCO captions.
        root: folder of the images that are paths.
        index: folder of the index of tar shards.
        image_field, caption_field: of JSON lines and parquet; see the sources for what they are by default.

    Raises:
        ValueError: it is nothing of these, or what its source refuses.
    """
    location = os.fspath(path)
    given = {"root": root, "index": index, "image_field": image_field, "caption_field": caption_field}
    if "://" in location or os.path.isdir(location) and not _is_parquet_folder(Path(location)):
        _refuse(location, "tar shards", given, "root", "image_field")
        return TarShards(name, location, index, caption_field)
    if location.endswith(".jsonl"):
        _refuse(location, "JSON lines", given, "index")
        return PairLines(name, location, root, image_field or "image", caption_field or "caption")
    if location.endswith(".parquet") or os.path.isdir(location):
        _refuse(location, "parquet", given, "index")
        return PairParquet(name, location, root, image_field or "image", caption_field or "caption")
    if location.endswith(".json"):
        _refuse(location, "COCO captions", given, "index", "image_field", "caption_field")
        if root is None:
            raise ValueError(f"{location}: COCO captions need a root, the folder of their images, as train2014")
        return CocoCaptions(name, location, root)
    raise ValueError(f"{location!r} is neither a folder, nor a file .jsonl, .parquet or .json")


def _refuse(location: str, kind: str, given: Mapping[str, Any], *unused: str) -> None:
    """Raise `ValueError` for settings that this kind of source does not have."""
    for name in unused:
        if given[name] is not None:
            raise ValueError(f"{location}: {kind} have no {name}, but {name}={str(given[name])!r} was given")


def _is_parquet_folder(folder: Path) -> bool:
    """img2dataset puts a parquet file of metadata beside each tar file, so tar files decide."""
    return next(folder.rglob("*.tar"), None) is None and next(folder.rglob("*.parquet"), None) is not None


class PairCheck:
    """Reads pairs of a source in the order of training, and counts what is broken.

    Attributes:
        read: pairs without a fault so far.
        faults: those with one, by kind.
    """

    def __init__(self, source: PairSource, most: int | None = None) -> None:
        self.source, self.order = source, SourceOrder(source.groups, 0, source.name)
        self.most = self.order.size if most is None else min(most, self.order.size)
        self.read = 0
        self.faults: Counter[Fault] = Counter()

    def __iter__(self) -> Iterator[InvalidSample]:
        """Each broken pair."""
        for position in range(self.most):
            try:
                open_image(self.source.read(*self.order.place(0, position)))
                self.read += 1
            except InvalidSample as error:
                self.faults[error.fault] += 1
                yield error
