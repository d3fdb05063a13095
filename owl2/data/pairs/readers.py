"""The source that reads a file or a folder of pairs, and a check of one."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from owl2.data.skipped import Fault, InvalidSample
from owl2.processing.control_tokens import LLAMA_CONTROL_TOKENS

from .coco import CocoCaptions
from .image_folder import ImageFolder, image_files
from .jsonl import PairLines
from .parquet import PairParquet
from .samples import open_image
from .source import PairSource, StoredPair
from .tar_shards import TarShards
from .window_order import WindowOrder

FORMATS: Mapping[str, tuple[Callable[..., PairSource], tuple[str, ...]]] = {
    "webdataset": (TarShards, ("index", "caption_field")),
    "jsonl": (PairLines, ("root", "image_field", "caption_field")),
    "parquet": (PairParquet, ("root", "image_field", "caption_field")),
    "coco_captions": (CocoCaptions, ("root",)),
    "image_folder": (ImageFolder, ("caption_field",)),
}
"""The source that reads each format, and the settings that it takes."""


def open_pairs(
    name: str,
    path: str | os.PathLike,
    *,
    format: str | None = None,
    root: str | os.PathLike | None = None,
    index: str | os.PathLike | None = None,
    image_field: str | None = None,
    caption_field: str | None = None,
) -> PairSource:
    """Opens a source of pairs.

    Args:
        name: Name of the source.
        path: A folder or address of tar shards; a folder of images with their captions; a `.jsonl` file or a JSON list;
            a `.parquet` file or a folder of them; a `.json` file of COCO captions.
        format: One of `FORMATS`; by default it follows from the path.
        root: Folder of the images that are given as paths; the folder of the file by default.
        index: Folder of the index of tar shards.
        image_field: Field or column of the image in JSON lines and parquet; see the sources for the default.
        caption_field: Field or column of the caption, also of the `.json` members of tar shards.

    Raises:
        ValueError: The format is unknown or has no such setting, or the source refuses the path.
    """
    location = os.fspath(path)
    format = format or _format_of(location)
    if format not in FORMATS:
        raise ValueError(f"{location}: there is no format {format!r} of pairs; there are {', '.join(FORMATS)}")
    given = {"root": root, "index": index, "image_field": image_field, "caption_field": caption_field}
    settings = {key: value for key, value in given.items() if value is not None}
    open_source, known = FORMATS[format]
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"{location}: {format} has no {key}, but {key}={str(value)!r} was given")
    return open_source(name, location, **settings)


def _format_of(location: str) -> str:
    if "://" in location or os.path.isdir(location):
        return "webdataset" if "://" in location else _format_of_folder(Path(location))
    if location.endswith(".json") and os.path.isfile(location) and _begins_with_a_list(location):
        return "jsonl"
    formats = {".jsonl": "jsonl", ".parquet": "parquet", ".json": "coco_captions"}
    suffix = os.path.splitext(location)[1]
    if suffix not in formats:
        raise ValueError(f"{location!r} is neither a folder nor a file that ends in {', '.join(formats)}")
    return formats[suffix]


def _format_of_folder(folder: Path) -> str:
    """img2dataset puts a parquet file of metadata beside each tar file or folder of images, so the images decide."""
    if next(folder.rglob("*.tar"), None) is not None:
        return "webdataset"
    if image_files(folder):
        return "image_folder"
    return "parquet" if next(folder.rglob("*.parquet"), None) is not None else "webdataset"


def _begins_with_a_list(location: str) -> bool:
    with open(location, "rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _refuse_control_tokens(pair: StoredPair) -> None:
    token = next((token for token in LLAMA_CONTROL_TOKENS if token in pair.caption), None)
    if token is not None:
        raise InvalidSample(Fault.CONTROL_TOKEN, f"{pair.source}, {pair.id}: the caption holds {token!r}")


class PairCheck:
    """Reads pairs of a source in the order of training, and counts what is broken.

    Attributes:
        read: Number of valid pairs so far.
        faults: Number of broken pairs by kind of fault.
    """

    def __init__(self, source: PairSource, most: int | None = None) -> None:
        self.source, self.order = source, WindowOrder(source.groups, 0, source.name)
        self.most = self.order.size if most is None else min(most, self.order.size)
        self.read = 0
        self.faults: Counter[Fault] = Counter()

    def __iter__(self) -> Iterator[InvalidSample]:
        """Yields each broken pair."""
        for position in range(self.most):
            try:
                pair = self.source.read(*self.order.place(0, position))
                _refuse_control_tokens(pair)
                open_image(pair)
                self.read += 1
            except InvalidSample as error:
                self.faults[error.fault] += 1
                yield error
