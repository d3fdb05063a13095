"""Samples of stage 1: the pairs that were drawn, decoded, augmented and encoded.

Which pair a draw means, how its image is cropped, and which other pair takes its place should it be broken, follow from
the seed and the draw alone: any number of ranks and workers makes the same samples.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import Dataset

from owl2.data.augmentation import Crop, names_a_side, random_crop
from owl2.data.decoding import Decoded, crop_and_resize, decode_image, width_and_height
from owl2.data.sampler import Draw, DrawnSample
from owl2.data.skipped import Fault, InvalidSample, Skip

from .source import PairSource, StoredPair
from .window_order import WindowOrder

_SUBSTITUTES = 1000  # broken ones in a row before giving up, whatever the limit


class PairSettings(NamedTuple):
    """The settings by which pairs become samples.

    Attributes:
        image_size: Pixels of a side.
        seed: Seed of order and augmentation.
        augment: Crop and flip at random (section 4.1); otherwise the whole image is resized.
        keep_sides: Do not flip an image whose caption says left or right.
    """

    image_size: int
    seed: int = 0
    augment: bool = True
    keep_sides: bool = False


class PairSamples(Dataset[DrawnSample]):
    """Samples by their draws.

    Args:
        sources: Sources with unique names.
        settings: See `PairSettings`.
        encode: Encodes a caption to lists `input_ids`, `labels`, ..., as `Owl2Processor.encode_pair`. What it refuses
            with a `ValueError` is a broken pair. Without it, samples hold `id`, `source` and `caption`.

    Raises:
        ValueError: There are no sources, or two of one name.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        settings: PairSettings,
        encode: Callable[[str], dict[str, Any]] | None = None,
    ) -> None:
        names = [source.name for source in sources]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"the sources of pairs need unique names, got {names}")
        self.sources = dict(zip(names, sources, strict=True))
        self.settings, self.encode = settings, encode
        self.orders = {source.name: WindowOrder(source.groups, settings.seed, source.name) for source in sources}

    def __getitem__(self, draw: Draw) -> DrawnSample:
        """The sample of a draw, with `pixel_values` uint8 [1, 3, image_size, image_size].

        Raises:
            ValueError: `_SUBSTITUTES` pairs in a row are broken.
        """
        skips: list[Skip] = []
        order = self.orders[draw.source]
        place = order.place(draw.epoch, draw.position)
        for attempt in range(_SUBSTITUTES):
            try:
                return DrawnSample(self._sample(self.sources[draw.source].read(*place), draw), draw.source, skips)
            except InvalidSample as error:
                skips.append(Skip(draw.source, error.fault, str(error)))
            place = order.substitute(draw.epoch, draw.position, attempt)
        raise ValueError(f"{_SUBSTITUTES} pairs of {draw.source!r} in a row are broken; the last: {skips[-1].text}")

    def place(self, draw: Draw) -> tuple[Any, ...]:
        """The place of the pair of a draw, which is the same for all draws of a pair."""
        return draw.source, *self.orders[draw.source].place(draw.epoch, draw.position)

    def _sample(self, pair: StoredPair, draw: Draw) -> dict[str, Any]:
        sample = self._encoded(pair)
        image = open_image(pair)
        crop = self._crop(image, pair, draw)
        return {**sample, "pixel_values": crop_and_resize(image, crop, self.settings.image_size)[None]}

    def _encoded(self, pair: StoredPair) -> dict[str, Any]:
        if self.encode is None:
            return {"id": pair.id, "source": pair.source, "caption": pair.caption}
        try:
            return self.encode(pair.caption)
        except ValueError as error:
            fault = error.fault if isinstance(error, InvalidSample) else Fault.NOT_ENCODED
            raise InvalidSample(fault, f"{pair.source}, {pair.id}: {error}") from error

    def _crop(self, image: Decoded, pair: StoredPair, draw: Draw) -> Crop:
        width, height = width_and_height(image)
        if not self.settings.augment:
            return Crop(0, 0, width, height)
        generator = random.Random(f"{self.settings.seed}-{draw.source}-{draw.epoch}-{draw.position}")
        may_flip = not (self.settings.keep_sides and names_a_side(pair.caption))
        return random_crop(width, height, generator, may_flip)


def open_image(pair: StoredPair) -> Decoded:
    """The image of a pair, upright and RGB.

    Raises:
        InvalidSample: It is damaged or oversized.
    """
    try:
        return decode_image(pair.image)
    except ValueError as error:
        bomb = isinstance(error.__cause__, Image.DecompressionBombError) or "decompression bomb" in str(error)
        fault = Fault.OVERSIZED_IMAGE if bomb else Fault.DAMAGED_IMAGE
        raise InvalidSample(fault, f"{pair.source}, {pair.id}: {error}") from error
