"""Videos as ordered lists of frames; each frame then goes the way of an image. (T frames, H height, W width)

Files are read with PyAV, GIF and animated WebP with Pillow.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from .image_loading import ImageSource, check_local_path, load_image, refuse_decompression_bomb

logger = logging.getLogger(__name__)

VideoSource = str | os.PathLike | np.ndarray | Sequence[ImageSource]


def load_video(source: VideoSource, num_frames: int = 8) -> list[Image.Image]:
    """Load at most `num_frames` frames, spread evenly over a video.

    The frames are the centres of `num_frames` equal segments: of T frames, those of index
    `floor((i + 1/2) * T / num_frames)`. A video of no more than `num_frames` frames is taken whole; frames are never
    repeated.

    Args:
        source: the path of a video file (mp4, avi, webm, gif, ...), a list of frames that `load_image` reads, or an
            array [T, H, W, 3] of type uint8.
        num_frames: how many frames to take.

    Returns:
        RGB images in the order of time. A damaged part is skipped, and logged with the number of packets lost.

    Raises:
        ValueError: `num_frames` below 1; the source is missing, empty, not a video, or without a single readable
            frame.
        ImportError: PyAV is not installed (extra `video`).
    """
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames}: at least one frame is needed")
    if isinstance(source, str | os.PathLike):
        return _load_file(check_local_path(source, "video"), num_frames)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise ValueError(f"a video array must have the shape [T, H, W, 3], got {list(source.shape)}")
    if not isinstance(source, list | tuple | np.ndarray):
        raise ValueError(
            f"cannot read a video from {type(source).__name__}: pass the path of a file or a list of frames"
        )
    if len(source) == 0:
        raise ValueError("the video has no frames")
    return [load_image(source[index]) for index in sample_indices(len(source), num_frames)]


def sample_indices(total: int, num_frames: int) -> list[int]:
    """Indices of the frames to take from `total`: the centres of `num_frames` equal segments, or all of them."""
    if total <= num_frames:
        return list(range(total))
    return [(2 * index + 1) * total // (2 * num_frames) for index in range(num_frames)]


def _load_file(name: str, num_frames: int) -> list[Image.Image]:
    with open(name, "rb") as file:
        header = file.read(12)
    if not header:
        raise ValueError(f"the video {name} is empty (0 bytes)")
    if header.startswith(b"GIF8") or header[8:12] == b"WEBP":
        return _load_animation(name, num_frames)
    return _load_container(name, num_frames)


def _load_animation(name: str, num_frames: int) -> list[Image.Image]:
    total = sum(1 for _ in _animation_frames(name))
    frames, _ = _take_frames(_animation_frames(name), sample_indices(total, num_frames), load_image)
    return frames


def _animation_frames(name: str) -> Iterator[Image.Image]:
    """GIF and WebP through Pillow, which composes each frame on those before it.

    Raises:
        ValueError: not even the first frame can be read, or it is a decompression bomb.
    """
    count = 0
    try:
        with Image.open(name) as animation:
            refuse_decompression_bomb(animation.width, animation.height, f"the video {name}")
            for frame in ImageSequence.Iterator(animation):
                yield frame.copy()
                count += 1
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        if count == 0:
            raise ValueError(f"the video {name} cannot be read: {error}") from error
        logger.warning("%s: damaged after %d frames: %s", name, count, error)


def _load_container(name: str, num_frames: int) -> list[Image.Image]:
    """Containers through PyAV.

    Packets are counted without decoding, since containers often do not know their number of frames, or wrongly. Where
    fewer frames can be decoded than that (a damaged tail), the frames are chosen again from those that can.
    """
    with _open_container(name) as container:
        expected = sum(packet.size > 0 for packet in _packets(container))
    to_image = partial(_to_image, name=name)
    frames, decoded = _take_frames(_decode(name), sample_indices(expected, num_frames), to_image)
    if len(frames) < min(expected, num_frames) and decoded:
        frames, _ = _take_frames(_decode(name), sample_indices(decoded, num_frames), to_image)
    if not frames:
        raise ValueError(f"the video {name} has no frame that can be read")
    return frames


def _take_frames(
    frames: Iterable[Any], indices: list[int], to_image: Callable[[Any], Image.Image]
) -> tuple[list[Image.Image], int]:
    """The frames of these indices, as far as there are so many, and how many were decoded on the way."""
    wanted, taken, decoded = set(indices), [], 0
    for frame in frames:
        if decoded in wanted:
            taken.append(to_image(frame))
        decoded += 1
        if len(taken) == len(indices):
            break
    return taken, decoded


def _decode(name: str) -> Iterator[Any]:
    import av

    lost = decoded = 0
    try:
        with _open_container(name) as container:
            for packet in _packets(container):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    lost += 1
                    continue
                decoded += len(frames)
                yield from frames
    finally:
        if lost:
            logger.warning("%s: %d damaged packets skipped, %d frames decoded", name, lost, decoded)


def _packets(container: Any) -> Iterator[Any]:
    """Packets of the first video stream, up to the end of the file or the first place where it cannot be followed."""
    import av

    try:
        yield from container.demux(container.streams.video[0])
    except av.FFmpegError as error:
        logger.warning("%s: the file is damaged and was read only in part: %s", container.name, error)


def _open_container(name: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(f"reading the video {name} needs PyAV: pip install 'owl2[video]'") from error
    try:
        container = av.open(name)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{name} is not a video that can be read: {error}") from error
    if not container.streams.video:
        container.close()
        raise ValueError(f"{name} has no video in it")
    return container


def _to_image(frame: Any, name: str) -> Image.Image:
    refuse_decompression_bomb(frame.width, frame.height, f"the video {name}")
    image = frame.to_image()
    # Phones store the way they were held beside the frames; both libraries count degrees anticlockwise.
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
