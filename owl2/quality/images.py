"""Pixels of the model from images of any source or differentiable tensors in 0..1. (B images, H x W pixels)"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

from owl2.processing import load_image, load_video
from owl2.processing.image_processor import Owl2ImageProcessorPil

QualityImages = Any
"""One image or a list of them, each whatever `load_image` reads; or a tensor [B, 3, H, W] or [3, H, W] in 0..1."""


def is_single(images: QualityImages) -> bool:
    """Whether this is one image and not a list or batch."""
    return images.ndim == 3 if isinstance(images, torch.Tensor) else not isinstance(images, list | tuple)


def as_list(images: QualityImages) -> Sequence[Any] | torch.Tensor:
    """A list of sources, or a checked tensor [B, 3, H, W].

    Raises:
        ValueError: There is no image, or a tensor has another shape or values outside 0..1.
    """
    if not isinstance(images, torch.Tensor):
        sources = [images] if is_single(images) else list(images)
        if not sources:
            raise ValueError("there is no image to score")
        return sources
    batch = images.unsqueeze(0) if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[1] != 3 or 0 in batch.shape or not batch.is_floating_point():
        raise ValueError(
            f"a tensor of images must be floating point of shape [B, 3, H, W], got {images.dtype} of shape "
            f"{list(images.shape)}"
        )
    low, high = float(batch.detach().min()), float(batch.detach().max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"the values of a tensor of images must lie in 0..1, but go from {low:g} to {high:g}")
    return batch


def prepare(images: Sequence[Any] | torch.Tensor, processor: Owl2ImageProcessorPil, aspect_ratio: str) -> torch.Tensor:
    """`pixel_values` [B, 3, H, W]: through Pillow for sources, in torch for a tensor, whose graph is kept."""
    if isinstance(images, torch.Tensor):
        return tensor_pixels(images, processor, aspect_ratio)
    loaded = [load_image(image) for image in images]
    return processor(loaded, return_tensors="pt", aspect=aspect_ratio)["pixel_values"]


def tensor_pixels(images: torch.Tensor, processor: Owl2ImageProcessorPil, aspect_ratio: str = "pad") -> torch.Tensor:
    """The steps of the image processor as differentiable operations in torch.

    Both resize with the same antialiased bicubic kernel. Pillow rounds to 8 bits after each direction, this does not:
    pixels agree to half a level of 255 on average, and to two at most.

    Args:
        images: [B, 3, H, W] in 0..1.
        aspect_ratio: Only "pad".

    Raises:
        ValueError: Another `aspect_ratio`.
    """
    if aspect_ratio != "pad":
        raise ValueError(f"tensors of images are padded to a square; there is no aspect_ratio={aspect_ratio!r}")
    colour = [int(channel * 255) / 255 for channel in processor.image_mean]
    squares = _pad_to_square(images, images.new_tensor(colour))
    size = processor.size["height"], processor.size["width"]
    if squares.shape[-2:] != size:
        squares = F.interpolate(squares, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    mean, std = (squares.new_tensor(values).view(1, 3, 1, 1) for values in (processor.image_mean, processor.image_std))
    return (squares - mean) / std


def _pad_to_square(images: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Centres images on a square, as `expand_to_square` does."""
    height, width = images.shape[-2:]
    side = max(height, width)
    if height == width:
        return images
    left, top = (side - width) // 2, (side - height) // 2
    padding = (left, side - width - left, top, side - height - top)
    inside = F.pad(torch.ones_like(images[:1, :1]), padding)
    return F.pad(images, padding) + (1 - inside) * colour.view(1, 3, 1, 1)


def video_frames(video: Any, most: int) -> list[Image.Image]:
    """One frame a second, as Q-Align takes them; where that is more than `most`, `most` of them evenly spread.

    Args:
        video: A file, or a list of frames, which are all taken.

    Raises:
        ValueError: It cannot be read, its frame rate is not known, or a list has more than `most` frames.
    """
    if not isinstance(video, str | os.PathLike):
        if len(video) > most:
            raise ValueError(f"{len(video)} frames do not fit the context, which has room for {most}")
        return load_video(video, most)
    return load_video(video, most, spacing="one_a_second")
