"""Cropping, resizing and normalising, beside Pillow and NumPy."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from owl2.data.augmentation import Crop
from owl2.data.decoding import crop_and_resize, normalize_pixels
from owl2.processing import Owl2ImageProcessor, load_image

CROPS = [Crop(0, 0, 320, 240), Crop(13, 7, 201, 180), Crop(100, 3, 137, 237), Crop(5, 9, 300, 60)]


def photograph(seed: int) -> Image.Image:
    """A picture whose power falls with the square of the frequency, as in photographs."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(240)[:, None] * 240, np.fft.rfftfreq(320)[None] * 320)
    waves = np.fft.rfft2(generator.standard_normal((3, 240, 320))) / np.maximum(frequency, 1)
    pixels = np.fft.irfft2(waves)
    return Image.fromarray((128 + 50 * pixels / pixels.std()).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def noise(edges: bool) -> Image.Image:
    """The hardest cases: any level beside any other, or black and white only."""
    pixels = np.random.default_rng(0).integers(0, 256, (240, 320, 3))
    return Image.fromarray(np.where(pixels < 128, 0, 255).astype(np.uint8) if edges else pixels.astype(np.uint8))


def differences(picture: Image.Image, crop: Crop, size: int) -> np.ndarray:
    """Levels between our pixels and those of Pillow, rows first."""
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    rows = picture.crop(box).resize((size, crop.height), Image.Resampling.BICUBIC)
    expected = np.asarray(rows.resize((size, size), Image.Resampling.BICUBIC), dtype=int)
    pixels = crop_and_resize(picture, crop, size)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, size, size) and pixels.is_contiguous()
    return np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - expected)


@pytest.mark.parametrize("size", [16, 224, 448])
def test_pixels_of_photographs_are_within_one_level_of_pillows_bicubic(size: int) -> None:
    found = np.concatenate([differences(photograph(seed), crop, size).ravel() for seed in range(4) for crop in CROPS])
    assert found.max() <= 2
    assert (found > 1).mean() <= 1e-5, "one in a million, with some room"
    assert (found > 0).mean() <= 0.02


@pytest.mark.parametrize("size", [16, 224, 448])
@pytest.mark.parametrize("edges", [True, False])
def test_pixels_of_noise_are_within_two_levels(size: int, edges: bool) -> None:
    found = np.concatenate([differences(noise(edges), crop, size).ravel() for crop in CROPS])
    assert found.max() <= 2 and (found > 1).mean() <= 1e-3


@pytest.mark.parametrize("crop", [Crop(319, 239, 1, 1), Crop(0, 0, 1, 1), Crop(7, 0, 1, 240), Crop(0, 3, 320, 1)])
def test_boxes_of_one_pixel_or_one_line_are_resized(crop: Crop) -> None:
    assert differences(photograph(0), crop, 32).max() <= 1


def test_a_large_jpeg_is_decoded_at_full_size_before_it_is_made_small() -> None:
    buffer = io.BytesIO()
    noise(edges=False).resize((1280, 960)).save(buffer, "JPEG")
    image = load_image(buffer.getvalue())
    expected = np.asarray(Image.open(buffer).resize((16, 16), Image.Resampling.BICUBIC), dtype=int)
    pixels = crop_and_resize(image, Crop(0, 0, 1280, 960), 16)
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_a_flipped_crop_is_the_mirror_image() -> None:
    picture = photograph(0)
    plain, flipped = (crop_and_resize(picture, Crop(10, 20, 100, 90, flip), 32) for flip in (False, True))
    assert torch.equal(flipped, plain.flip(-1)) and not torch.equal(flipped, plain)


def test_pixels_normalised_on_the_device_are_those_of_the_image_processor() -> None:
    picture = noise(edges=False).resize((28, 28))
    expected = Owl2ImageProcessor(size={"height": 28, "width": 28})([picture], return_tensors="pt")["pixel_values"]
    levels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    assert (normalize_pixels(levels) - expected).abs().max() < 1e-5
    assert normalize_pixels(levels, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_pixels_are_not_normalised_twice() -> None:
    with pytest.raises(ValueError, match="not uint8"):
        normalize_pixels(torch.zeros(1, 3, 4, 4))
