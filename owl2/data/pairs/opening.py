"""Which source reads a file or a folder of pairs, and a check of one."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .coco import CocoCaptions
from .loader import open_image
from .order import SourceOrder
from .pair_lines import PairLines
from .parquet import PairParquet
from .source import BrokenPair, Fault, PairSource
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
    fields = {"image_": image_field, "caption_": caption_field}
    given = {field: value for field, value in fields.items() if value is not None}
    if "://" in location or os.path.isdir(location) and not _is_parquet_folder(Path(location)):
        return TarShards(name, location, index, caption_field)
    if location.endswith(".jsonl"):
        return PairLines(name, location, root, **{f"{field}field": value for field, value in given.items()})
    if location.endswith(".parquet") or os.path.isdir(location):
        return PairParquet(name, location, root, **{f"{field}column": value for field, value in given.items()})
    if location.endswith(".json"):
        if root is None:
            raise ValueError(f"{location}: COCO captions need the folder of their images, as train2014")
        return CocoCaptions(name, location, root)
    raise ValueError(f"{location!r} is neither a folder, nor a file .jsonl, .parquet or .json")


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

    def __iter__(self) -> Iterator[BrokenPair]:
        """Each broken pair."""
        for position in range(self.most):
            try:
                open_image(self.source.read(*self.order.place(0, position)))
                self.read += 1
            except BrokenPair as error:
                self.faults[error.fault] += 1
                yield error
