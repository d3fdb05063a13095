"""Hiding parts of an image, against forward passes one at a time."""

import pytest
import torch
from helpers import IMAGE, sample, tiny_model

from owl2.analysis.attention.occlusion import occlusion_map


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_map_is_the_log_probability_lost_group_by_group(batch_size):
    model = tiny_model()
    inputs = sample(model.config, [2, IMAGE, 1, IMAGE, 3], seed=0)
    found = occlusion_map(model, inputs, token=7, image=1, groups=2, batch_size=batch_size)
    side = inputs["pixel_values"].shape[-1] // 2

    def log_probability(pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(**{**inputs, "pixel_values": pixels}).logits[0, -1].log_softmax(-1)[7]

    for row in range(2):
        for column in range(2):
            pixels = inputs["pixel_values"].clone()
            mean = pixels[1].mean(dim=(1, 2))
            pixels[1, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = mean[:, None, None]
            lost = log_probability(inputs["pixel_values"]) - log_probability(pixels)
            torch.testing.assert_close(found[row, column], lost, atol=1e-5, rtol=1e-4)


def test_there_are_no_more_groups_than_patches():
    model = tiny_model()
    inputs = sample(model.config, [2, IMAGE, 3], seed=1)
    assert occlusion_map(model, inputs, token=5, groups=100).shape == (4, 4)
    assert occlusion_map(model, inputs, token=5, groups=3).shape == (3, 3)


def test_an_image_that_is_not_there_is_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="image 1, but the prompt has 1"):
        occlusion_map(model, sample(model.config, [2, IMAGE], seed=0), token=1, image=1)
    with pytest.raises(ValueError, match="groups=0"):
        occlusion_map(model, sample(model.config, [2, IMAGE], seed=0), token=1, groups=0)
