"""Random resized crop and flip."""

import random

import numpy as np
import pytest

from owl2.data.augmentation import names_a_side, random_crop


def crops(width: int, height: int, count: int = 4000) -> list[tuple[int, ...]]:
    return [tuple(random_crop(width, height, random.Random(seed))) for seed in range(count)]


def test_crops_are_of_half_to_all_of_the_area_in_the_shapes_of_blip_2() -> None:
    left, top, width, height, _ = np.array(crops(640, 480)).T
    assert (left >= 0).all() and (top >= 0).all()
    assert (left + width <= 640).all() and (top + height <= 480).all()
    area, ratio = width * height / (640 * 480), width / height
    assert 0.495 < area.min() and area.max() <= 1.0
    assert 0.745 < ratio.min() and ratio.max() < 1.34
    # Restated for the mean: areas are uniform and ratios log-uniform, given that the box fits.
    generator = np.random.default_rng(0)
    areas, ratios = generator.uniform(0.5, 1, 200_000), np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3), 200_000))
    fits = (np.sqrt(areas * ratios * 480 / 640) <= 1) & (np.sqrt(areas / ratios * 640 / 480) <= 1)
    assert area.mean() == pytest.approx(areas[fits].mean(), abs=0.005)
    assert np.log(ratio).mean() == pytest.approx(np.log(ratios[fits]).mean(), abs=0.01)
    assert (left / np.maximum(640 - width, 1)).mean() == pytest.approx(0.5, abs=0.02)


def test_every_second_image_is_flipped() -> None:
    assert np.mean([crop[4] for crop in crops(64, 64)]) == pytest.approx(0.5, abs=0.03)


def test_a_panorama_is_cropped_in_its_centre() -> None:
    # Half of 1000 x 100 is wider than 4/3 in any box that fits, so the fallback is 133 x 100 in the middle.
    assert random_crop(1000, 100, random.Random(0))[:4] == (433, 0, 133, 100)
    assert random_crop(100, 1000, random.Random(0))[:4] == (0, 433, 100, 133)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (2, 3)])
def test_tiny_images_give_boxes_that_are_not_empty(size: tuple[int, int]) -> None:
    for seed in range(100):
        left, top, width, height, _ = random_crop(*size, random.Random(seed))
        assert width >= 1 and height >= 1 and left + width <= size[0] and top + height <= size[1]


def test_a_caption_that_names_a_side_keeps_its_side_and_its_box() -> None:
    flipped = next(seed for seed in range(100) if random_crop(64, 48, random.Random(seed)).flip)
    kept = random_crop(64, 48, random.Random(flipped), may_flip=False)
    assert not kept.flip
    assert kept[:4] == random_crop(64, 48, random.Random(flipped))[:4]


@pytest.mark.parametrize(
    ("caption", "names"),
    [
        ("the dog on the LEFT", True),
        ("a right-handed player", True),
        ("leftmost of three", True),
        ("turning rightwards", True),
        ("a bright, upright chair", False),
        ("cleft rock, copyright 2020", False),
    ],
)
def test_captions_with_left_or_right_are_found(caption: str, names: bool) -> None:
    assert names_a_side(caption) is names
