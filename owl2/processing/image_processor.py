"""Pixels of the vision encoder: resize to one size, then CLIP's normalisation. (N images, H height, W width)

The official code prepares images in three ways, which are the values of the setting `aspect`: "resize" in evaluation
(mplug_owl2/evaluate/evaluate_vqa.py), "pad" in fine-tuning (scripts/finetune.sh), "crop" in a chat (serve/cli.py).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack

from .image_loading import load_image

ASPECTS = ("resize", "pad", "crop")


class Owl2ImagesKwargs(ImagesKwargs, total=False):
    """Settings of the image processor beyond those that every transformers image processor has.

    aspect (`str`): what happens to an image that is not square. "resize" gives up its aspect ratio, "pad" expands it
        to a square with the mean colour, "crop" cuts the centre out.
    """

    aspect: str | None


class Owl2ImageProcessorPil(PilBackend):
    """Images to `pixel_values` [N, 3, H, W], float32, with Pillow.

    Args:
        size (`dict`): `{"height": H, "width": W}`; default 448 x 448, the resolution of the published model. CLIP's
            `{"shortest_edge": S}` is read as a square.
        aspect (`str`): "resize", "pad" or "crop"; see `Owl2ImagesKwargs`. The default "resize" is the official
            inference: bicubic to a square of the longer side, then bicubic to `size`.
        image_mean, image_std (`list[float]`): Mean and standard deviation of the channels, CLIP's by default.

    Raises:
        ValueError: An unknown `aspect`, or an image that `load_image` refuses or that has an absurdly long side.
    """

    valid_kwargs = Owl2ImagesKwargs
    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 448, "width": 448}
    aspect = "resize"
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    def __init__(self, **kwargs: Unpack[Owl2ImagesKwargs]) -> None:
        kwargs.pop("crop_size", None)  # the official preprocessor_config.json is CLIP's: ours crops only by `aspect`
        kwargs.pop("do_center_crop", None)
        super().__init__(**kwargs)  # type: ignore[misc]  # `aspect` is in `valid_kwargs`, which types do not see

    def _standardize_kwargs(  # type: ignore[override]
        self, size: Any = None, aspect: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        if aspect not in ASPECTS:
            raise ValueError(f"aspect={aspect!r} is unknown: choose one of {', '.join(ASPECTS)}")
        settings = super()._standardize_kwargs(size=size, **kwargs)
        settings["aspect"] = aspect
        shortest_edge = settings["size"].shortest_edge
        if shortest_edge:
            settings["size"] = SizeDict(height=shortest_edge, width=shortest_edge)
        if not (settings["size"].height and settings["size"].width):
            raise ValueError(f"size={dict(settings['size'])} must give height and width in pixels")
        return settings

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Loads what transformers would download: local sources only (see `load_image`), nested lists kept."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(image) for image in image_url_or_urls]
        return load_image(image_url_or_urls)

    def _prepare_image_like_inputs(  # type: ignore[override]
        self, images: Any, **kwargs: Any
    ) -> list[Image.Image]:
        return _flatten(self.fetch_images(images))

    def _preprocess(  # type: ignore[override]
        self,
        images: list[Image.Image],
        size: Any,
        aspect: str,
        resample: PILImageResampling,
        do_resize: bool,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        levels = np.arange(256)[None]  # one column for each value that a pixel can have: far fewer than pixels
        if do_rescale:
            levels = (levels * rescale_factor).astype(np.float32)
        if do_normalize:
            levels = (levels - _column(image_mean)) / _column(image_std)
        levels = np.broadcast_to(levels, (3, 256)).astype(np.float32)
        pixel_values = []
        for image in images:
            if do_resize:
                try:
                    image = resize_image(image, size.height, size.width, aspect, image_mean, resample)
                except MemoryError as error:  # Pillow's word for a side of tens of millions of pixels
                    raise ValueError(
                        f"an image of {image.width} x {image.height} pixels cannot be resized: cut it"
                    ) from error
            channels = np.asarray(image).transpose(2, 0, 1)  # [3, H, W]
            pixel_values.append(np.stack([values[pixels] for values, pixels in zip(levels, channels, strict=True)]))
        return BatchFeature(data={"pixel_values": pixel_values}, tensor_type=return_tensors)


def resize_image(
    image: Image.Image,
    height: int,
    width: int,
    aspect: str,
    mean: Sequence[float] = OPENAI_CLIP_MEAN,
    resample: int = PILImageResampling.BICUBIC,
) -> Image.Image:
    """Brings an RGB image to `height` x `width` pixels in one of the official ways (`aspect`).

    The official code first makes an image as large as the square of its longer side. For a very long image that would
    take gigabytes: where it would exceed Pillow's limit (`PIL.Image.MAX_IMAGE_PIXELS`), this step is left out.
    """
    if aspect == "resize":
        longer_side = max(image.size)
        if _too_large(longer_side, longer_side):
            return image.resize((width, height), resample)
        # Both official steps are kept: resizing twice is not the same as resizing once.
        return image.resize((longer_side, longer_side), resample).resize((width, height), resample)
    if aspect == "pad":
        return expand_to_square(_with_square_in_limit(image), mean).resize((width, height), resample)
    return _resize_and_crop(image, height, width, resample)


def expand_to_square(image: Image.Image, mean: Sequence[float] = OPENAI_CLIP_MEAN) -> Image.Image:
    """Centres an image on a square of its longer side filled with the mean colour (official fine-tuning)."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(channel * 255) for channel in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _too_large(width: int, height: int) -> bool:
    limit = Image.MAX_IMAGE_PIXELS
    return limit is not None and width * height > limit


def _with_square_in_limit(image: Image.Image) -> Image.Image:
    """Makes an image smaller if its square would be too large; other images stay as they are."""
    longer_side, limit = max(image.size), Image.MAX_IMAGE_PIXELS
    if limit is None or longer_side**2 <= limit:
        return image
    scale = math.isqrt(limit) / longer_side
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _resize_and_crop(image: Image.Image, height: int, width: int, resample: int) -> Image.Image:
    """CLIP's own preparation: the shorter side to the size, then the centre."""
    shorter_side, target = min(image.size), max(height, width)
    size = int(target * image.width / shorter_side), int(target * image.height / shorter_side)
    if _too_large(*size):
        return _central_square(image).resize((target, target), resample).crop(_centre(target, target, width, height))
    return image.resize(size, resample).crop(_centre(*size, width, height))


def _central_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    return image.crop(_centre(*image.size, side, side))


def _centre(width: int, height: int, inner_width: int, inner_height: int) -> tuple[int, int, int, int]:
    """The box of the given inner size in the centre of an image."""
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return left, top, left + inner_width, top + inner_height


def _column(values: float | Sequence[float]) -> np.ndarray:
    return np.asarray(values, dtype=np.float32).reshape(-1, 1)


def _flatten(images: Any) -> list[Image.Image]:
    if not isinstance(images, list):
        return [images]
    return [image for nested in images for image in _flatten(nested)]


Owl2ImageProcessor = Owl2ImageProcessorPil
