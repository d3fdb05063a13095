"""Finds the images and videos of a record: files below one root, data URLs, or web addresses if allowed.

A record is not trusted, so a path must not lead out of the root: no `..`, no absolute path elsewhere, no symbolic
link to elsewhere, and nothing but regular files.
"""

import os
import re
import stat
from typing import Any

from owl2.processing.image_loading import path_of_file_url

from .problems import Problem, ProblemKind, shown

_DATA_URL = re.compile(r"data:[\w.+/-]*;base64,")
_WEB = ("http://", "https://")


class MediaRoot:
    """Resolves the sources of images and videos.

    Args:
        root: The directory below which all files lie.
        allow_urls: Let http and https addresses pass as they are; owl2 itself fetches nothing.

    Raises:
        ValueError: `root` is not a directory.
    """

    def __init__(self, root: str | os.PathLike, allow_urls: bool = False) -> None:
        if not os.path.isdir(root):
            raise ValueError(f"the root of images and videos {os.fspath(root)!r} is not a directory")
        self.root = os.path.realpath(root)
        self.allow_urls = allow_urls

    def resolve(self, source: str, kind: str) -> str | Problem:
        """The source that `load_image` or `load_video` reads, or an error that says why it is refused.

        Args:
            source: A path (relative to the root, or absolute and below it), one as `file://`, a data URL or a web
                address.
            kind: "image" or "video".

        Returns:
            The absolute path without symbolic links; data URLs and allowed addresses as they are.
        """
        if source.startswith("data:"):
            return self._data_url(source, kind)
        source = path_of_file_url(source)
        if "://" in source:
            if self.allow_urls and source.startswith(_WEB):
                return source
            return Problem(ProblemKind.REFUSED, f"the {kind} {shown(source)} is an address, not a file: download it")
        return self._file(source, kind)

    def _data_url(self, source: str, kind: str) -> str | Problem:
        if kind == "video":
            return Problem(ProblemKind.REFUSED, f"the video {shown(source[:40])} is a data URL: keep it in a file")
        if not _DATA_URL.match(source):
            return Problem(ProblemKind.UNREADABLE, f"the image {shown(source[:40])} is not data:image/png;base64,...")
        return source

    def _file(self, source: str, kind: str) -> str | Problem:
        if ".." in re.split(r"[/\\]", source):
            return Problem(ProblemKind.REFUSED, f"the {kind} {shown(source)} climbs with '..'")
        try:
            path = os.path.realpath(os.path.join(self.root, source))
            if os.path.commonpath((path, self.root)) != self.root:
                return Problem(ProblemKind.REFUSED, f"the {kind} {shown(source)} leads out of the root {self.root}")
        except (OSError, ValueError) as error:  # ValueError: a null character, or another drive on Windows
            return _no_file(error, kind, f"{shown(source)} in {self.root}")
        return problem_of_file(path, kind, shown(source), f" in {self.root}") or path


def problem_of_file(path: str, kind: str, name: str, place: str = "") -> Problem | None:
    """What is wrong with the file of an image or video, as far as can be told without opening it.

    Args:
        kind: "image" or "video".
        name, place: Name and place of the file, as the problem states them.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        return _no_file(error, kind, name + place)
    if not stat.S_ISREG(status.st_mode):
        return Problem(ProblemKind.UNREADABLE, f"the {kind} {name} is not a regular file")
    if status.st_size == 0:
        return Problem(ProblemKind.UNREADABLE, f"the {kind} {name} is empty (0 bytes)")
    return None


def _no_file(error: OSError | ValueError, kind: str, name: str) -> Problem:
    kind_of_problem = ProblemKind.UNREADABLE if isinstance(error, PermissionError) else ProblemKind.MISSING
    reason = error.strerror if isinstance(error, OSError) else error
    return Problem(kind_of_problem, f"the {kind} {name}: {reason}")


def is_web_address(source: Any) -> bool:
    """Whether a source of a record is an address that was allowed."""
    return isinstance(source, str) and source.startswith(_WEB)
