"""JPEGs decoded by simplejpeg where it is installed: the pixels are Pillow's, in three quarters of the time.

Both are libjpeg-turbo, but simplejpeg (MIT) hands it the bytes as they are and takes the pixels without another copy.
It knows neither EXIF nor colours other than RGB and grey, so everything but a plain and complete JPEG is left to
Pillow, and so are all images where Pillow itself was built with another library, whose pixels differ.
"""

from functools import cache
from types import ModuleType

import numpy as np
from PIL import Image, features

_START = b"\xff\xd8\xff"
_EXIF_OR_XMP = 0xE1  # segment APP1; either may say that the image is turned
_START_OF_SCAN = 0xDA
_COLORS = ("YCbCr", "RGB", "Gray")  # of the others simplejpeg makes no RGB


def decode_jpeg(contents: bytes) -> np.ndarray | None:
    """The pixels of a JPEG, if they are those that Pillow would give.

    Returns:
        uint8 [height, width, 4]: red, green, blue and an unused byte; `None` for what Pillow should read, or refuse.
    """
    library = _simplejpeg()
    if library is None or not _is_plain(contents):
        return None
    try:
        height, width, colors, _ = library.decode_jpeg_header(contents)
        is_too_large = Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS
        return None if is_too_large or colors not in _COLORS else library.decode_jpeg(contents, "RGBX")
    except ValueError:  # damaged or cut short
        return None


@cache
def _simplejpeg() -> ModuleType | None:
    if not features.check_feature("libjpeg_turbo"):
        return None
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _is_plain(contents: bytes) -> bool:
    """Whether this is a JPEG whose segments before the pixels are neither EXIF nor XMP."""
    if not contents.startswith(_START):
        return False
    position = 2
    while position + 4 <= len(contents) and contents[position] == 0xFF:
        marker = contents[position + 1]
        if marker == _START_OF_SCAN:
            return True
        if marker == _EXIF_OR_XMP or not (0xC0 <= marker <= 0xCF or 0xDB <= marker <= 0xFE):
            return False  # the others have no length, or may not stand here
        position += 2 + int.from_bytes(contents[position + 2 : position + 4], "big")
    return False
