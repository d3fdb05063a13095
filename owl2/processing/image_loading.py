"""Reads one image from any source: a PIL image, a file, bytes, a data URL or an array.

The result is an upright 8-bit RGB image; anything else is a `ValueError` that names the source.
Nothing is ever fetched from a network.
"""

import base64
import binascii
import io
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from .file_kinds import looks_like

ImageSource = Image.Image | str | os.PathLike | bytes | np.ndarray

_HIGHEST_16_BIT = 65535
_LONGEST_PATH = 4096

BASE64_SIGNATURES = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk0", "SUkq", "TU0A")
"""The beginnings of PNG, JPEG, GIF, WebP, BMP and both kinds of TIFF in base64."""


def load_image(source: ImageSource) -> Image.Image:
    """Loads one image as 8-bit RGB.

    Args:
        source: A PIL image; the path of a file; the bytes of a file, or these in base64, plain or as a data URL
            (`data:image/png;base64,...`); an array [H, W], [H, W, 3] or [H, W, 4] of type uint8.

    Returns:
        An RGB image. The EXIF orientation of files and bytes is applied; transparent areas become white; 16-bit grey
        is scaled to 8 bits; the first frame of an animation is taken.

    Raises:
        ValueError: The source is missing, empty, damaged, of another kind, a web address, or larger than
            `PIL.Image.MAX_IMAGE_PIXELS` (a decompression bomb).
    """
    if isinstance(source, Image.Image):
        is_file = isinstance(source, ImageFile.ImageFile)  # as Image.open gives it, not turned or edited since
        return _decode(source, f"the PIL image of mode {source.mode} and size {source.size}", is_file)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), f"the image of {len(source)} bytes")
    if isinstance(source, str) and source.startswith("data:"):
        return _from_bytes(_decode_data_url(source), f"the data URL {source[:40]}...")
    if isinstance(source, str) and (contents := _plain_base64(source)) is not None:
        return _from_bytes(contents, f"the base64 image {source[:40]}...")
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        return _from_bytes(read_file(name, "image"), f"the image {name}")
    raise ValueError(
        f"cannot read an image from {type(source).__name__}: pass a PIL image, the path or bytes of a file, "
        "a data URL, or a uint8 array [H, W, 3]"
    )


def read_file(path: Any, kind: str) -> bytes:
    """The contents of a local file that must exist and not be empty; `kind` names it in the errors.

    Raises:
        ValueError: It names the file and what is wrong with it.
    """
    name = check_local_path(path, kind)
    try:
        contents = Path(name).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the {kind} {name}: {error.strerror or error}") from error
    if not contents:
        raise ValueError(f"the {kind} {name} is empty (0 bytes)")
    return contents


def check_local_path(path: Any, kind: str) -> str:
    """The path as a string, if it names a local file.

    Raises:
        ValueError: It is a web address, a missing file or a directory.
    """
    name = path_of_file_url(os.fspath(path))
    if "://" in name:
        raise ValueError(f"the {kind} {name} is a web address, and owl2 fetches nothing: download it and pass the file")
    shown = name if len(name) <= 200 else f"{name[:200]}... ({len(name)} characters)"
    if not os.path.isfile(name):
        raise ValueError(f"the {kind} {shown!r} {'is not a file' if os.path.exists(name) else 'does not exist'}")
    return name


def path_of_file_url(name: str) -> str:
    """The path of `file:///data/a.png`, or of `file://./a.png` as it is often written; other names as they are."""
    if not name.lower().startswith("file://"):
        return name
    path = unquote(name[len("file://") :])
    return path.removeprefix("localhost") if path.startswith("localhost/") else path


def refuse_decompression_bomb(width: int, height: int, name: str) -> None:
    """Raises `ValueError` if an image of this size exceeds Pillow's limit, where Pillow itself would only warn."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(
            f"{name} has {width * height} pixels ({width} x {height}), over the limit of {limit}: "
            "it may be a decompression bomb. Make it smaller"
        )


def _decode_data_url(url: str) -> bytes:
    header, _, payload = url.partition(",")
    if not header.endswith(";base64"):
        raise ValueError(f"the data URL {url[:40]}... is not base64: it must look like data:image/png;base64,...")
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the data URL {url[:40]}... is not valid base64: {error}") from error


def _plain_base64(text: str) -> bytes | None:
    """The bytes of an image that a text encodes in base64; `None` for the path of a file."""
    if not text.startswith(BASE64_SIGNATURES) or os.path.exists(text[:_LONGEST_PATH]):
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _from_array(array: np.ndarray) -> Image.Image:
    height_width_channels = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))
    if array.dtype != np.uint8 or not height_width_channels or 0 in array.shape:
        raise ValueError(
            f"an image array must be uint8 of shape [H, W, 3] (or [H, W], [H, W, 4]), got {array.dtype} "
            f"of shape {list(array.shape)}"
        )
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _from_bytes(contents: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(contents))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} is refused: {error}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that can be read{looks_like(contents)}") from error
    except Exception as error:  # Pillow's readers raise many kinds on damaged headers
        raise ValueError(f"{name} is not an image that can be read: {error}{looks_like(contents)}") from error
    return _decode(image, name, is_file=True)


def _decode(image: Image.Image, name: str, is_file: bool) -> Image.Image:
    if is_file:
        refuse_decompression_bomb(image.width, image.height, name)
    try:
        image.load()
        if is_file and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else it would only be copied
            image = ImageOps.exif_transpose(image)
        return _to_rgb(image)
    except Exception as error:  # Pillow's decoders raise many kinds: OSError, SyntaxError, struct.error, EOFError ...
        raise ValueError(f"{name} is damaged or cut short: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(background, image).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Scales grey of 16 bits, 32 bits or floating point; Pillow's own conversion would cut everything above 255."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16") or values.max() > 255:
        values = values / _HIGHEST_16_BIT * 255
    elif image.mode == "F" and values.max() <= 1:
        values = values * 255
    return Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))
