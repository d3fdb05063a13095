"""Encoded samples and pixels in memory, and the batches of an epoch. For data sets of some thousand small images."""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from owl2.processing import Owl2Processor, load_image

Encoded = dict[str, Any]


class PixelStore:
    """Pixels of images that are used again and again, each read once."""

    def __init__(self, processor: Owl2Processor, images: Iterable[str], dtype: torch.dtype) -> None:
        self._index = {image: index for index, image in enumerate(dict.fromkeys(images))}
        rows = [processor.image_processor([load_image(image)])["pixel_values"][0] for image in self._index]
        self._pixels = torch.stack([torch.as_tensor(row) for row in rows]).to(dtype) if rows else torch.empty(0)

    def __getitem__(self, images: Sequence[str]) -> torch.Tensor:
        """[N, 3, H, W] of the named images."""
        return self._pixels[[self._index[image] for image in images]]


class TrainingSet:
    """Samples of a stage.

    Args:
        samples: what the processor's `encode_` methods return, without pixels.
        images: names of each sample's images, in the order of their placeholders.
        pixels: where the names lead.
    """

    def __init__(self, samples: Sequence[Encoded], images: Sequence[Sequence[str]], pixels: PixelStore) -> None:
        if len(samples) != len(images):
            raise ValueError(f"{len(samples)} samples, but image names for {len(images)}")
        self.samples, self.images, self.pixels = samples, images, pixels

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self, batch_size: int, seed: int, first: int = 0) -> Iterator[list[int]]:
        """Endless batches of sample numbers, from batch `first` on; the same for the same seed.

        Every batch holds samples with and without images in the proportion of the whole set, so that no step is all of
        one modality. Every sample of a modality comes once before any comes again; samples of like length go together.
        """
        size = min(batch_size, len(self))
        multimodal = [index for index in range(len(self)) if self.images[index]]
        text_only = [index for index in range(len(self)) if not self.images[index]]
        num_text = round(size * len(text_only) / len(self))
        if text_only and multimodal:
            num_text = min(max(num_text, 1), size - 1)
        streams = [
            self._stream(group, share, f"{seed}-{name}", first)
            for group, share, name in ((multimodal, size - num_text, "multimodal"), (text_only, num_text, "text"))
            if share > 0
        ]
        while True:
            yield [index for stream in streams for index in next(stream)]

    def _stream(self, group: list[int], size: int, seed: str, first: int) -> Iterator[list[int]]:
        """Endless batches of one modality; lengths are grouped within 8 batches of the shuffled order."""
        size = min(size, len(group))
        per_epoch = len(group) // size
        epoch, skip = divmod(first, per_epoch)
        while True:
            generator = random.Random(f"{seed}-{epoch}")
            order = generator.sample(group, len(group))[: per_epoch * size]
            batches = []
            for start in range(0, len(order), 8 * size):
                block = sorted(order[start : start + 8 * size], key=lambda index: len(self.samples[index]["input_ids"]))
                batches += [block[index : index + size] for index in range(0, len(block), size)]
            generator.shuffle(batches)
            yield from batches[skip:]
            epoch, skip = epoch + 1, 0

    def collate(self, indices: Sequence[int], processor: Owl2Processor, flips: random.Random | None) -> Encoded:
        """One batch; with `flips`, each image is mirrored with probability 0.5 (section 4.1)."""
        batch = processor.pad([self.samples[index] for index in indices])
        images = [image for index in indices for image in self.images[index]]
        if images:
            pixels = self.pixels[images]
            if flips is not None:
                mirrored = torch.tensor([flips.random() < 0.5 for _ in images])
                pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
            batch["pixel_values"] = pixels
        return batch
