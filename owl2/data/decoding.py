"""From the bytes of an image to its pixels: a box of it, resized to a square of uint8, normalised on the device.

Pillow decodes; torch resizes with `interpolate(mode="bicubic", antialias=True)` on uint8, which is faster than Pillow's
bicubic and within one level of it; of a photograph, about one value in a million is two levels off, since torch rounds
its weights to 16 bits (the tests hold it to that). Rows are resized before columns, as Pillow did; newer versions of
Pillow begin with the columns where that is cheaper, which is seen only where sharp edges overshoot black or white.
JPEGs are decoded at full size: their scaled decoding (`draft`) gives other pixels. (N images, H height, W width)
"""

from collections.abc import Sequence

import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .augmentation import Crop

HIGHEST_LEVEL = 255


def crop_and_resize(image: Image.Image, crop: Crop, size: int) -> torch.Tensor:
    """The box of an RGB image, resized to a square and maybe mirrored.

    Returns:
        uint8 [3, size, size].
    """
    if image.mode != "RGB":
        raise ValueError(f"the image is of mode {image.mode}, not RGB: load it with load_image")
    boxed = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
    # Pillow keeps four bytes a pixel, and torch's fast kernel wants channels last in a multiple of four bytes: the
    # fourth is carried along instead of being taken out and put in again.
    octets = bytearray(boxed.tobytes("raw", "RGBX"))
    pixels = torch.frombuffer(octets, dtype=torch.uint8).view(1, crop.height, crop.width, 4).permute(0, 3, 1, 2)
    resized = interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0, :3]
    return (resized.flip(-1) if crop.flip else resized).contiguous()


def normalize_pixels(
    pixels: torch.Tensor,
    mean: Sequence[float] = OPENAI_CLIP_MEAN,
    std: Sequence[float] = OPENAI_CLIP_STD,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Levels 0 to 255 to what the vision encoder sees; on the device of `pixels`, so that a quarter is copied to it.

    Args:
        pixels: uint8 [N, 3, H, W].
        mean, std: of the channels, for levels from 0 to 1; CLIP's by default.

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
