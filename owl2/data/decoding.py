"""From the bytes of an image to its pixels: a box of it, resized to a square of uint8, normalised on the device.

Pillow decodes; torch resizes with `interpolate(mode="bicubic", antialias=True)` on uint8, which is faster than Pillow's
bicubic and within one level of it (proven in the tests). JPEGs are decoded at full size: their scaled decoding
(`draft`) gives other pixels. (N images, H height, W width)
"""

from collections.abc import Sequence

import numpy as np
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
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    pixels = torch.from_numpy(np.array(image if image.size == box[2:] else image.crop(box)))  # [H, W, 3]
    # The view is channels-last, for which torch has its fast kernel.
    resized = interpolate(pixels.permute(2, 0, 1)[None], (size, size), mode="bicubic", antialias=True)[0]
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
