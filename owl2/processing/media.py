"""Assigns images and videos to the texts whose placeholders they fill; none may be left over."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image


def share_images(images: Any, counts: Sequence[int], placeholder: str) -> list[list[Any]]:
    """The images of each text: from one image, a flat list in placeholder order, or one list for each text.

    Args:
        images: The images, or None.
        counts: Number of placeholders of each text.
        placeholder: String of the placeholder, for the errors.

    Raises:
        ValueError: Numbers of images and placeholders differ; both are given.
    """
    if isinstance(images, list | tuple):
        nested = any(isinstance(entry, list | tuple) for entry in images)
    else:
        images, nested = [] if images is None else [images], False
    return _share(list(images), nested, counts, "image", placeholder)


def share_videos(videos: Any, counts: Sequence[int], placeholder: str) -> list[list[Any]]:
    """The videos of each text: from one video, a flat list in placeholder order, or one list for each text.

    A video is the path of a file, an array [T, H, W, 3], or a list of frames. A list of PIL images or arrays is one
    video; a string in a list is always a video file, so frames given as files go into a list for each text:
    `[[["first.png", "second.png"]]]`.

    Raises:
        ValueError: Numbers of videos and placeholders differ; both are given.
    """
    if videos is None:
        return _share([], False, counts, "video", placeholder)
    if not isinstance(videos, list | tuple) or (videos and all(_is_frame(entry) for entry in videos)):
        return _share([videos], False, counts, "video", placeholder)
    nested = any(isinstance(entry, list | tuple) and not any(_is_frame(item) for item in entry) for entry in videos)
    return _share(list(videos), nested, counts, "video", placeholder)


def _is_frame(item: Any) -> bool:
    return isinstance(item, Image.Image) or (isinstance(item, np.ndarray) and item.ndim < 4)


def _share(media: list[Any], nested: bool, counts: Sequence[int], kind: str, placeholder: str) -> list[list[Any]]:
    if nested:
        return _check_nested(media, counts, kind, placeholder)
    if len(media) != sum(counts):
        raise ValueError(
            f"{sum(counts)} {placeholder} placeholders in the text but {len(media)} {kind}s were passed: "
            "the numbers must agree"
        )
    remaining = iter(media)
    return [[next(remaining) for _ in range(count)] for count in counts]


def _check_nested(media: list[Any], counts: Sequence[int], kind: str, placeholder: str) -> list[list[Any]]:
    if len(media) != len(counts):
        raise ValueError(f"{len(counts)} texts but {len(media)} lists of {kind}s: give one list for each text")
    shared = []
    for index, (entry, count) in enumerate(zip(media, counts, strict=True)):
        own = [] if entry is None else entry
        if not isinstance(own, list | tuple):
            raise ValueError(
                f"the {kind}s of text {index} must be a list, as those of other texts are, got {type(own)}"
            )
        if len(own) != count:
            raise ValueError(
                f"text {index} has {count} {placeholder} placeholders but {len(own)} {kind}s were passed for it: "
                "the numbers must agree"
            )
        shared.append(list(own))
    return shared
