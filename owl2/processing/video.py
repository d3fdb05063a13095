"""Videos as ordered lists of frames; each frame then goes the way of an image. (T frames, H height, W width)

Files are read with PyAV, animated pictures (GIF, WebP, AVIF, PNG, TIFF) with Pillow.
"""

import logging
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from .file_kinds import looks_like
from .image_loading import ImageSource, check_local_path, load_image, refuse_decompression_bomb
from .video_sampling import FrameSampling, Spacing, Unit

logger = logging.getLogger(__name__)

_ANIMATIONS = (b"GIF8", b"\x89PNG", b"II*\0", b"MM\0*")

VideoSource = str | os.PathLike | np.ndarray | Sequence[ImageSource]


def load_video(
    source: VideoSource,
    num_frames: int = 8,
    *,
    start: float | None = None,
    end: float | None = None,
    unit: Unit = "seconds",
    spacing: Spacing = "centres",
) -> list[Image.Image]:
    """Loads at most `num_frames` frames, spread evenly over a video or a part of it.

    The frames are the centres of `num_frames` equal segments: among T frames, those of index
    `floor((i + 1/2) * T / num_frames)`. A video of no more than `num_frames` frames is taken whole; frames are never
    repeated.

    Args:
        source: The path of a video file (mp4, avi, webm, gif, ...), a list of frames that `load_image` reads, or an
            array [T, H, W, 3] of type uint8.
        num_frames: Number of frames to take.
        start, end: Limits of the part, in `unit` from the beginning of the video; `end` is not in it.
        unit: "seconds", or "frames" (the only one for lists and arrays).
        spacing: "centres", or "seed" or "one_a_second": the frames that other programs take (see `FrameSampling`).

    Returns:
        RGB images in the order of time. A damaged part is skipped, and logged with the number of packets lost.

    Raises:
        ValueError: `num_frames` below 1; a part that is empty or begins after the end of the video; the source is
            missing, empty, not a video, or without a single readable frame.
        ImportError: PyAV is not installed (extra `video`).
    """
    sampling = FrameSampling(num_frames, start, end, unit, spacing)
    if isinstance(source, str | os.PathLike):
        return _load_file(check_local_path(source, "video"), sampling)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise ValueError(f"a video array must have the shape [T, H, W, 3], got {list(source.shape)}")
    if not isinstance(source, list | tuple | np.ndarray):
        raise ValueError(
            f"cannot read a video from {type(source).__name__}: pass the path of a file or a list of frames"
        )
    if len(source) == 0:
        raise ValueError("the video has no frames")
    return [load_image(source[index]) for index in sampling.indices(len(source), None, "the list of frames")]


def _load_file(name: str, sampling: FrameSampling) -> list[Image.Image]:
    with open(name, "rb") as file:
        header = file.read(12)
    if not header:
        raise ValueError(f"the video {name} is empty (0 bytes)")
    if header.startswith(_ANIMATIONS) or header[8:12] == b"WEBP" or header[4:12] in (b"ftypavis", b"ftypavif"):
        return _load_animation(name, sampling)
    return _load_container(name, sampling)


def _load_animation(name: str, sampling: FrameSampling) -> list[Image.Image]:
    durations = [frame.info.get("duration", 0) for frame in _animation_frames(name)]  # milliseconds
    rate = 1000 * len(durations) / sum(durations) if sum(durations) else None
    times = [each / 1000 for each in accumulate([0, *durations])]
    indices = sampling.indices(len(durations), rate, f"the video {name}", times if rate else None)
    frames, _ = _take_frames(_animation_frames(name), indices, load_image)
    return [frames[index] for index in indices]


def _animation_frames(name: str) -> Iterator[Image.Image]:
    """Reads animated pictures by Pillow, which composes each frame on those before it.

    Raises:
        ValueError: Not even the first frame can be read, or it is a decompression bomb.
    """
    count = 0
    try:
        with Image.open(name) as animation:
            for frame in ImageSequence.Iterator(animation):
                refuse_decompression_bomb(frame.width, frame.height, "a frame")  # each has a size of its own in TIFF
                yield frame.copy()
                count += 1
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        if count == 0:
            raise ValueError(f"the video {name} cannot be read: {error}") from error
        logger.warning("%s: damaged after %d frames: %s", name, count, error)


def _load_container(name: str, sampling: FrameSampling) -> list[Image.Image]:
    """Reads containers by PyAV.

    Packets are counted without decoding, since the number of frames that a container states is often missing or wrong.
    Where fewer frames can be decoded (a damaged tail), the frames are chosen again from those.
    """
    shown = f"the video {name}"
    with open_container(name) as container:
        packets = [(packet.pts, packet.duration) for packet in packets_of(container) if packet.size > 0]
        rate, time_base = container.streams.video[0].average_rate, container.streams.video[0].time_base
    times = [time for time, _ in packets]
    seconds = float(rate) if rate else None
    shown_at = _times_in_seconds(packets, time_base)
    to_image = partial(_to_image, name=name)
    indices = sampling.indices(len(times), seconds, shown, shown_at)
    frames = _seek_frames(name, times, indices, to_image) if sampling.start else {}
    if len(frames) < len(set(indices)):
        frames, decoded = _take_frames(_decode(name), indices, to_image)
        if len(frames) < len(set(indices)) and decoded:
            indices = sampling.indices(decoded, seconds, shown, shown_at)
            frames, _ = _take_frames(_decode(name), indices, to_image)
    if not frames:
        raise ValueError(f"the video {name} has no frame that can be read")
    return [frames[index] for index in indices if index in frames]


def _times_in_seconds(packets: list[tuple[int | None, int | None]], time_base: Any) -> list[float] | None:
    """The times at which each frame is shown and the last one ends, from the first frame on; None if not known."""
    known = sorted((time, duration or 0) for time, duration in packets if time is not None)
    if not known or len(known) < len(packets) or not time_base:
        return None
    times = [time for time, _ in known]
    return [float((time - times[0]) * time_base) for time in (*times, times[-1] + known[-1][1])]


def _take_frames(
    frames: Iterable[Any], indices: list[int], to_image: Callable[[Any], Image.Image]
) -> tuple[dict[int, Image.Image], int]:
    """The frames of these indices that exist, and the number of frames that were decoded."""
    wanted, taken, decoded = set(indices), {}, 0
    for frame in frames:
        if decoded in wanted:
            taken[decoded] = to_image(frame)
        decoded += 1
        if len(taken) == len(wanted):
            break
    return taken, decoded


def _seek_frames(
    name: str, times: list[int | None], indices: list[int], to_image: Callable[[Any], Image.Image]
) -> dict[int, Image.Image]:
    """The frames of these indices, decoded from the keyframe before the first one.

    Args:
        times: Presentation times of all packets; the n-th frame has the n-th smallest.

    Returns:
        The frames; some are missing where the times are not known or the file is damaged.
    """
    av = _pyav(name)
    known = sorted(time for time in times if time is not None)
    if len(set(known)) < len(times):
        return {}
    wanted, taken = {known[index]: index for index in indices}, {}
    try:
        with open_container(name) as container:
            container.seek(known[indices[0]], stream=container.streams.video[0])
            for packet in packets_of(container):
                for frame in packet.decode():
                    if frame.pts in wanted:
                        taken[wanted[frame.pts]] = to_image(frame)
                if len(taken) == len(wanted):
                    break
    except av.FFmpegError:
        return {}  # decoding from the beginning on counts what is damaged
    return taken


def _decode(name: str) -> Iterator[Any]:
    av = _pyav(name)
    lost = decoded = 0
    try:
        with open_container(name) as container:
            for packet in packets_of(container):
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


def packets_of(container: Any) -> Iterator[Any]:
    """Packets of the first video stream, up to the end of the file or the first place where reading fails."""
    av = _pyav(container.name)
    try:
        yield from container.demux(container.streams.video[0])
    except av.FFmpegError as error:
        logger.warning("%s: the file is damaged and was read only in part: %s", container.name, error)


def _pyav(name: str) -> Any:
    """PyAV, which is needed only to read videos."""
    try:
        import av
    except ImportError as error:
        raise ImportError(f"reading the video {name} needs PyAV: pip install 'owl2[video]'") from error
    return av


def open_container(name: str) -> Any:
    """A file opened by PyAV, whose first video stream can be decoded.

    Raises:
        ValueError: It is not a video, or one of a codec that FFmpeg has no decoder for.
        ImportError: PyAV is not installed (extra `video`).
    """
    av = _pyav(name)
    try:
        container = av.open(name, metadata_errors="replace")  # titles are often in another encoding, and not read
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error  # without FFmpeg's number, and the name once
        raise ValueError(f"{name} is not a video that can be read: {reason}{_what_it_is(name)}") from error
    streams = container.streams.video
    if streams and streams[0].codec_context is not None:
        return container
    container.close()
    # PyAV up to 18.0 would end the whole process at the first packet of a stream without a decoder.
    raise ValueError(f"{name} has {'a video of an unknown codec' if streams else 'no video'} in it")


def _what_it_is(name: str) -> str:
    with open(name, "rb") as file:
        found = looks_like(file.read(1024))
    return ", but cut off or damaged" if found == ": it is a video" else found


def _to_image(frame: Any, name: str) -> Image.Image:
    refuse_decompression_bomb(frame.width, frame.height, f"the video {name}")
    try:
        image = frame.to_image()
    except (_pyav(name).FFmpegError, ValueError) as error:
        raise ValueError(f"the video {name} has a frame that cannot be shown: {error}") from error
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return image if matrix is None else upright(image, struct.unpack("=9i", bytes(matrix)[:36]))


def upright(image: Image.Image, matrix: Sequence[int]) -> Image.Image:
    """Turns a frame upright: phones store how they were held beside it, and front cameras also a mirroring.

    Args:
        matrix: Its entries a, b, u, c, d, v, x, y, w as in ISO/IEC 14496-12, section 8.3.2.3: a pixel at (p, q) is
            shown at (a p + c q, b p + d q), without the shift. Turns other than by quarters go to the nearest.
    """
    a, b, _, c, d = matrix[:5]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        mirrored, upside_down = a < 0, d < 0
    else:
        image, mirrored, upside_down = image.transpose(Image.Transpose.TRANSPOSE), c < 0, b < 0
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if upside_down else image
