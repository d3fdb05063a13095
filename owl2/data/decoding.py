"""Decodes a box of an image, resizes it to a square of uint8, and normalises it on the device.

Pillow or simplejpeg decodes, to the same pixels; torch resizes with `interpolate(mode="bicubic", antialias=True)` on
uint8, which is faster than Pillow's bicubic and within one level of it; about one value in a million of a photograph
is two levels off, since torch rounds its weights to 16 bits (the tests hold it to that). Rows are resized before
columns, as Pillow did; newer versions of Pillow begin with the columns where that is cheaper, which is seen only where
sharp edges overshoot black or white. JPEGs are decoded at full size: their scaled decoding (`draft`) gives other
pixels. (N images, H height, W width)

Both decoders give four bytes a pixel, and torch's fast kernel wants channels last in a multiple of four bytes: the
fourth is carried along instead of being taken out and put in again.
"""

import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from owl2.processing.image_loading import ImageSource, load_image, read_file

from .augmentation import Crop
from .jpeg import decode_jpeg

HIGHEST_LEVEL = 255

Decoded = Image.Image | np.ndarray
"""An image of Pillow in mode RGB, or uint8 [H, W, 4]: red, green, blue and an unused byte."""


def decode_image(source: ImageSource) -> Decoded:
    """Reads what `load_image` reads, to the same pixels, and faster where simplejpeg can decode it.

    Raises:
        ValueError: As in `load_image`.
    """
    contents = source
    if isinstance(source, str | os.PathLike) and os.fspath(source).lower().endswith((".jpg", ".jpeg")):
        contents = read_file(source, "image")
    pixels = decode_jpeg(contents) if isinstance(contents, bytes) else None
    return load_image(source) if pixels is None else pixels


def width_and_height(image: Decoded) -> tuple[int, int]:
    """Width and height in pixels."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def crop_and_resize(image: Decoded, crop: Crop, size: int) -> torch.Tensor:
    """The box of an image, resized to a square and maybe mirrored.

    Returns:
        uint8 [3, size, size].

    Raises:
        ValueError: The image of Pillow is not RGB.
    """
    pixels = torch.from_numpy(_box(image, crop))[None].permute(0, 3, 1, 2)  # [1, 4, h, w], channels last
    resized = interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    mirrored = resized[:, ::-1] if crop.flip else resized
    planes = np.empty((3, size, size), np.uint8)  # NumPy takes channels apart faster than torch
    for channel, plane in enumerate(planes):
        plane[:] = mirrored[..., channel]
    return torch.from_numpy(planes)


def _box(image: Decoded, crop: Crop) -> np.ndarray:
    """The pixels of a box, uint8 [crop.height, crop.width, 4], contiguous."""
    if isinstance(image, np.ndarray):
        return np.ascontiguousarray(image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width])
    if image.mode != "RGB":
        raise ValueError(f"the image is of mode {image.mode}, not RGB: load it with load_image")
    boxed = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
    octets = bytearray(boxed.tobytes("raw", "RGBX"))
    return np.frombuffer(octets, np.uint8).reshape(crop.height, crop.width, 4)


def normalize_pixels(
    pixels: torch.Tensor,
    mean: Sequence[float] = OPENAI_CLIP_MEAN,
    std: Sequence[float] = OPENAI_CLIP_STD,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Turns levels 0 to 255 into the vision encoder's inputs, on the device of `pixels`: bytes are copied, not floats.

    Args:
        pixels: uint8 [N, 3, H, W].
        mean, std: Mean and standard deviation of the channels, for levels from 0 to 1; CLIP's by default.

    Returns:
        [N, 3, H, W] of `dtype`, computed in float32.

    Raises:
        ValueError: `pixels` is not uint8.
    """
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels are {pixels.dtype}, not uint8: are they normalised already?")
    offset, scale = (
        torch.tensor(values, device=pixels.device, dtype=torch.float32).view(-1, 1, 1) * HIGHEST_LEVEL
        for values in (mean, std)
    )
    return ((pixels.float() - offset) / scale).to(dtype)
