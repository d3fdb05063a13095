"""Batches of a stage: every sample, both modalities, the same for the same seed, from any batch on."""

import itertools
import random

import pytest
import torch
from helpers import GOLDENS

from owl2.data.training_set import PixelStore, TrainingSet
from owl2.processing import Owl2ImageProcessor, Owl2Processor


class NamedPixels(PixelStore):
    """Pixels that tell the name of their image."""

    def __init__(self, count: int) -> None:
        self._index = {str(index): index for index in range(count)}
        ramp = torch.arange(4).float().expand(3, 4, 4)
        self._pixels = torch.stack([ramp + 10 * index for index in range(count)])


def training_set(multimodal: int, text: int) -> TrainingSet:
    lengths = [5 + index % 7 for index in range(multimodal + text)]
    samples = [
        {"input_ids": [3] * n, "attention_mask": [1] * n, "mm_token_type_ids": [0] * n, "labels": [3] * n}
        for n in lengths
    ]
    images = [[str(index)] if index < multimodal else [] for index in range(multimodal + text)]
    return TrainingSet(samples, images, NamedPixels(multimodal))


@pytest.fixture(scope="module")
def processor() -> Owl2Processor:
    image_processor = Owl2ImageProcessor(size={"height": 4, "width": 4})
    from transformers import AutoTokenizer

    return Owl2Processor(image_processor, AutoTokenizer.from_pretrained(GOLDENS / "tokenizer"), num_image_tokens=4)


def first(data: TrainingSet, size: int, count: int, seed: int = 0, start: int = 0) -> list[list[int]]:
    return list(itertools.islice(data.batches(size, seed, start), count))


def test_an_epoch_holds_every_sample_once() -> None:
    assert sorted(itertools.chain(*first(training_set(24, 0), 8, 3))) == list(range(24))


def test_every_batch_holds_both_modalities_in_the_proportion_of_the_set() -> None:
    for batch in first(training_set(90, 10), 10, 50):
        assert (sum(index < 90 for index in batch), sum(index >= 90 for index in batch)) == (9, 1)


def test_few_texts_among_many_images_are_still_in_every_batch() -> None:
    assert all(sum(index >= 99 for index in batch) == 1 for batch in first(training_set(99, 1), 8, 20))


def test_batches_from_a_later_one_on_are_those_of_an_uninterrupted_run() -> None:
    data = training_set(37, 11)
    assert first(data, 6, 30)[17:] == first(data, 6, 13, start=17)


def test_another_seed_or_epoch_gives_another_order() -> None:
    data = training_set(24, 0)
    assert first(data, 8, 3) != first(data, 8, 3, seed=1)
    assert first(data, 8, 6)[:3] != first(data, 8, 6)[3:]


def test_collated_pixels_follow_the_samples_and_mirror_about_half(processor: Owl2Processor) -> None:
    data = training_set(40, 2)
    plain = data.collate([5, 41, 7], processor, None)
    assert plain["pixel_values"][:, 0, 0, 0].tolist() == [50.0, 70.0]
    assert plain["input_ids"].shape == (3, 11) and plain["labels"][2, 5:].tolist() == [-100] * 6
    mirrored = data.collate(list(range(40)), processor, random.Random(0))["pixel_values"]
    flipped = [row[0, 0, 0] > row[0, 0, -1] for row in mirrored]
    assert 10 < sum(flipped) < 30
    assert [int(row.min()) for row in mirrored] == [10 * index for index in range(40)]


def test_text_only_batches_have_no_pixels(processor: Owl2Processor) -> None:
    assert "pixel_values" not in training_set(2, 2).collate([2, 3], processor, None)


def test_a_set_whose_images_do_not_match_its_samples_is_refused() -> None:
    data = training_set(3, 0)
    with pytest.raises(ValueError, match="3 samples, but image names for 2"):
        TrainingSet(data.samples, data.images[:2], data.pixels)
