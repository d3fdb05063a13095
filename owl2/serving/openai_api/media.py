"""Images and videos of a request: never a path, never a fetch that was not allowed, nothing decoded over the limits."""

import base64
import binascii
import io
from typing import Any

from PIL import Image

from owl2.processing import load_image
from owl2.serving.engine.errors import InvalidRequest
from owl2.serving.settings import LimitSettings

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Of all that Pillow reads: some of its other readers run programs, such as Ghostscript."""


def contents_of_data_url(url: str, kind: str, param: str) -> bytes:
    """The bytes in `data:image/png;base64,...`.

    Raises:
        InvalidRequest: another kind of address, another encoding, or damaged.
    """
    header, comma, payload = url.partition(",")
    if not header.startswith("data:"):
        scheme = url.partition(":")[0] if ":" in url[:32] else "a path"
        raise InvalidRequest(
            f"the {kind} is given by {scheme!r}: only data:...;base64,... is taken, and http and https addresses where "
            "the server allows their hosts",
            param,
        )
    if not comma or not header.endswith(";base64"):
        raise InvalidRequest(f"the data URL of the {kind} must look like data:{kind}/...;base64,...", param)
    try:
        contents = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"the data URL of the {kind} is not valid base64: {error}", param) from error
    if not contents:
        raise InvalidRequest(f"the data URL of the {kind} is empty", param)
    return contents


def decode_image(contents: bytes, limits: LimitSettings, number: int, param: str) -> Image.Image:
    """One image as 8-bit RGB.

    Args:
        number: of the image in the request, from 1 on, for the errors.

    Raises:
        InvalidRequest: another format, too many pixels (seen in the header), damaged or cut short.
    """
    image: Any
    try:
        image = Image.open(io.BytesIO(contents), formats=IMAGE_FORMATS)
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
