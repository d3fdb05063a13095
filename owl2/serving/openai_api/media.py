"""Images and videos of a request: never a path, never a fetch that was not allowed, nothing decoded over the limits."""

import base64
import binascii
import io
import tempfile
from typing import Any

from PIL import Image

from owl2.processing import load_image, load_video
from owl2.processing.video import open_container, packets_of
from owl2.serving.engine.errors import InvalidRequest
from owl2.serving.settings import RequestLimits

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are read; some of Pillow's other readers run programs, such as Ghostscript."""


def contents_of_data_url(url: str, kind: str, param: str) -> bytes:
    """The bytes in `data:image/png;base64,...`.

    Raises:
        InvalidRequest: Another kind of address, another encoding, or damaged.
    """
    header, comma, payload = url.partition(",")
    if not header.startswith("data:"):
        scheme = url.partition(":")[0] if ":" in url[:32] else "a path"
        raise InvalidRequest(f"the {kind} is given by {scheme!r}: only data:...;base64,... is taken", param)
    if not comma or not header.endswith(";base64"):
        raise InvalidRequest(f"the data URL of the {kind} must look like data:{kind}/...;base64,...", param)
    try:
        contents = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"the data URL of the {kind} is not valid base64: {error}", param) from error
    if not contents:
        raise InvalidRequest(f"the data URL of the {kind} is empty", param)
    return contents


def decode_image(contents: bytes, limits: RequestLimits, number: int, param: str) -> Image.Image:
    """One image as 8-bit RGB.

    Args:
        number: Number of the image in the request, from 1 on, for the errors.

    Raises:
        InvalidRequest: Another format, too many pixels (seen in the header), damaged or cut short.
    """
    image: Any
    try:
        image = Image.open(io.BytesIO(contents), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        raise InvalidRequest(f"image {number} has pixels over the limit of {limits.image_pixels}", param) from error
    except Exception as error:  # Pillow's readers raise many kinds on damaged headers
        raise InvalidRequest(
            f"image {number} cannot be read: it is damaged, or none of {', '.join(IMAGE_FORMATS)}", param
        ) from error
    pixels = image.width * image.height
    if pixels > limits.image_pixels:
        raise InvalidRequest(
            f"image {number} has {pixels} pixels ({image.width} x {image.height}), over the limit of "
            f"{limits.image_pixels}",
            param,
        )
    try:
        return load_image(image)
    except ValueError as error:
        raise InvalidRequest(f"image {number} is damaged or cut short", param) from error


def decode_video(contents: bytes, limits: RequestLimits, num_frames: int, param: str) -> list[Image.Image]:
    """At most `num_frames` frames of a video or an animation.

    Raises:
        InvalidRequest: Another format, too many frames or pixels (seen in the header), or damaged.
    """
    is_animation = contents.startswith(b"GIF8") or contents[8:12] == b"WEBP"
    # Of all that FFmpeg reads: its lists of other files, such as those of HLS, would have it open what they name.
    is_container = contents[4:8] == b"ftyp" or contents.startswith(b"\x1a\x45\xdf\xa3") or contents[8:12] == b"AVI "
    if not (is_animation or is_container):
        raise InvalidRequest("the video cannot be read: it is none of MP4, MOV, WebM, MKV, AVI, GIF, WebP", param)
    with tempfile.NamedTemporaryFile(prefix="owl2-video-") as file:
        file.write(contents)
        file.flush()
        try:
            frames, pixels = _animation_size(file.name) if is_animation else _container_size(file.name)
            for value, limit, what in (
                (frames, limits.video_frames, "frames"),
                (pixels, limits.image_pixels, "pixels a frame"),
            ):
                if value > limit:
                    raise InvalidRequest(f"the video has {value} {what}, over the limit of {limit}", param)
            return load_video(file.name, num_frames)
        except (ValueError, ImportError) as error:
            shown = str(error).replace(file.name, "file")
            raise InvalidRequest(f"the video cannot be read: {shown}", param) from error


def _animation_size(name: str) -> tuple[int, int]:
    """The number of frames, and the pixels of each."""
    try:
        with Image.open(name, formats=("GIF", "WEBP")) as animation:
            return getattr(animation, "n_frames", 1), animation.width * animation.height
    except Exception as error:  # Pillow's readers raise many kinds on damaged headers
        raise ValueError("it is damaged") from error


def _container_size(name: str) -> tuple[int, int]:
    """The number of packets, one a frame, and the pixels of each."""
    with open_container(name) as container:
        codec = container.streams.video[0].codec_context
        return sum(packet.size > 0 for packet in packets_of(container)), codec.width * codec.height
