"""Pairs in a folder: each image with its caption beside it, as img2dataset writes them by default.

`00000/000000000.jpg` with `00000/000000000.txt` or, where there is none, the field "caption" of `000000000.json`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from owl2.data.media import problem_of_file
from owl2.data.skipped import Fault, InvalidSample
from owl2.files import parse_json

from .record_files import BLOCK, PackedTexts, block_sizes
from .source import StoredPair, caption_text

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


class ImageFolder:
    """Pairs of the image files below a folder, in the order of their paths. Links to other folders are not followed.

    Args:
        name: Name of the source.
        folder: The folder.
        caption_field: Field of `.json` that holds the caption; by default `.txt`, or the field "caption" where there
            is none.

    Raises:
        ValueError: There is no such folder, or no image in it.
    """

    def __init__(self, name: str, folder: str | os.PathLike, caption_field: str | None = None) -> None:
        self.name, self.folder, self.caption_field = name, Path(folder), caption_field
        self._arguments = (name, folder, caption_field)
        if not self.folder.is_dir():
            raise ValueError(f"there is no folder {self.folder}")
        self._names = PackedTexts(image_files(self.folder))
        if not len(self._names):
            raise ValueError(f"{self.folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        self.groups: Sequence[int] = block_sizes(len(self._names))

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageFolder, self._arguments

    def read(self, group: int, index: int) -> StoredPair:
        name = self._names[group * BLOCK + index]
        image, where = self.folder / name, f"{self.folder}/{name}"
        caption = caption_text(self._caption(image, where), where)
        if (problem := problem_of_file(str(image), "image", repr(name), f" in {self.folder}")) is not None:
            raise InvalidSample(Fault.DAMAGED_IMAGE, f"{where}: {problem.text}")
        return StoredPair(name, str(image), caption, self.name)

    def _caption(self, image: Path, where: str) -> Any:
        text, fields = image.with_suffix(".txt"), image.with_suffix(".json")
        if self.caption_field is None and text.is_file():
            return text.read_bytes()
        if not fields.is_file():
            found = sorted(each.name for each in image.parent.glob(f"{image.stem}.*"))
            raise InvalidSample(Fault.MISSING_CAPTION, f"{where}: no .txt and no .json beside it, only {found}")
        try:
            record = parse_json(fields.read_bytes())
        except ValueError as error:
            raise InvalidSample(Fault.INVALID_CAPTION, f"{fields}: {error}") from error
        return record.get(self.caption_field or "caption") if isinstance(record, dict) else None


def image_files(folder: Path) -> list[str]:
    """Paths of the image files below a folder, relative to it, in order."""
    found = []
    for directory, folders, names in os.walk(folder):
        folders.sort()
        inside = os.path.relpath(directory, folder)
        found += [
            os.path.normpath(os.path.join(inside, name))
            for name in sorted(names)
            if name.rpartition(".")[2].lower() in IMAGE_SUFFIXES
        ]
    return found
