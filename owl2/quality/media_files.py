"""The images and videos that a user names: files, folders with their contents, and lists of files."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga", ".tif"),
    *(".tiff", ".webp"),
    *(".heic", ".heif", ".jxl"),  # of a folder's pictures, those that cannot be read are named too
)
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
LIST_SUFFIX = ".txt"


def is_video(file: str) -> bool:
    """Whether a file is a video by its name."""
    return file.lower().endswith(VIDEO_SUFFIXES)


def written_name(file: str) -> str:
    """The name of a file as UTF-8 text can hold it: other bytes in it become escapes such as `\\udce9`."""
    return file.encode("utf-8", "backslashreplace").decode("utf-8")


def media_files(inputs: Iterable[str]) -> list[str]:
    """Every file once, in the order of the inputs and, in a folder, of the names.

    Args:
        inputs: Each a file; a folder, which is searched with the folders in it for known endings; or a list, a `.txt`
            with one path a line, relative to the folder of the list.

    Raises:
        ValueError: An input is not found, or there is no file at all.
    """
    found = dict.fromkeys(file for item in inputs for file in _expanded(item))
    if not found:
        raise ValueError(f"there is no image or video in {', '.join(inputs)}")
    return list(found)


def _expanded(item: str) -> Iterator[str]:
    if os.path.isdir(item):
        yield from _in_folder(item)
    elif not os.path.isfile(item):
        raise ValueError(f"{item} does not exist")
    elif item.lower().endswith(LIST_SUFFIX):
        yield from _in_list(Path(item))
    else:
        yield item


def _in_folder(folder: str) -> Iterator[str]:
    for directory, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(IMAGE_SUFFIXES) or is_video(name):
                yield os.path.join(directory, name)


def _in_list(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the list {file} is not UTF-8 text: {error}") from error
    for line in text.splitlines():
        if line.strip():
            yield str(file.parent / line.strip())
