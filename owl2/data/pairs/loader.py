"""Batches of stage 1: pairs drawn from weighted sources, decoded, augmented and encoded by worker processes.

Every sample of a run has a number. Which pair it is, how its image is cropped, and which other pair takes its place
should it be broken, follow from the seed and that number alone; so rank r of n takes samples r, r + n, r + 2n, ... of
each global batch, and another number of ranks or workers gives the same batches. (B pairs of a rank's batch)
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from owl2.data.augmentation import Crop, names_a_side, random_crop
from owl2.data.decoding import Decoded, crop_and_resize, decode_image, width_and_height
from owl2.data.skipped import Fault, InvalidSample, Skip, SkipCounter, SkipLimit

from .sampler import Draw, SourceOrder, WeightedSampler
from .source import PairSource, StoredPair

_SUBSTITUTES = 1000  # broken ones in a row before giving up, whatever the limit

Sample = dict[str, Any]


class PairSettings(NamedTuple):
    """How pairs become samples.

    Attributes:
        image_size: pixels of a side.
        seed: of order and augmentation.
        augment: random resized crop and flip (section 4.1); otherwise the whole image, resized.
        keep_sides: do not flip an image whose caption says left or right.
    """

    image_size: int
    seed: int = 0
    augment: bool = True
    keep_sides: bool = False


class Drawn(NamedTuple):
    """A sample, the source it is of, and the broken pairs that were passed over for it."""

    sample: Sample
    source: str
    skips: list[Skip]


class PairSamples(Dataset[Drawn]):
    """Samples by their draws.

    Args:
        sources: with unique names.
        settings: see `PairSettings`.
        encode: caption to lists `input_ids`, `labels`, ..., as `Owl2Processor.encode_pair`. What it refuses with a
            `ValueError` is a broken pair. Without it, samples hold `id`, `source` and `caption`.

    Raises:
        ValueError: there are no sources, or two of one name.
    """

    def __init__(
        self, sources: Sequence[PairSource], settings: PairSettings, encode: Callable[[str], Sample] | None = None
    ) -> None:
        names = [source.name for source in sources]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"the sources of pairs need unique names, got {names}")
        self.sources = dict(zip(names, sources, strict=True))
        self.settings, self.encode = settings, encode
        self.orders = {source.name: SourceOrder(source.groups, settings.seed, source.name) for source in sources}

    def __getitem__(self, draw: Draw) -> Drawn:
        """The sample of a draw, with `pixel_values` uint8 [1, 3, image_size, image_size].

        Raises:
            ValueError: `_SUBSTITUTES` pairs in a row are broken.
        """
        skips: list[Skip] = []
        order = self.orders[draw.source]
        place = order.place(draw.epoch, draw.position)
        for attempt in range(_SUBSTITUTES):
            try:
                return Drawn(self._sample(self.sources[draw.source].read(*place), draw), draw.source, skips)
            except InvalidSample as error:
                skips.append(Skip(draw.source, error.fault, str(error)))
            place = order.substitute(draw.epoch, draw.position, attempt)
        raise ValueError(f"{_SUBSTITUTES} pairs of {draw.source!r} in a row are broken; the last: {skips[-1].text}")

    def _sample(self, pair: StoredPair, draw: Draw) -> Sample:
        sample = self._encoded(pair)
        image = open_image(pair)
        crop = self._crop(image, pair, draw)
        return {**sample, "pixel_values": crop_and_resize(image, crop, self.settings.image_size)[None]}

    def _encoded(self, pair: StoredPair) -> Sample:
        if self.encode is None:
            return {"id": pair.id, "source": pair.source, "caption": pair.caption}
        try:
            return self.encode(pair.caption)
        except ValueError as error:
            raise InvalidSample(Fault.NOT_ENCODED, f"{pair.source}, {pair.id}: {error}") from error

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
        InvalidSample: it is damaged or oversized.
    """
    try:
        return decode_image(pair.image)
    except ValueError as error:
        bomb = isinstance(error.__cause__, Image.DecompressionBombError) or "decompression bomb" in str(error)
        fault = Fault.OVERSIZED_IMAGE if bomb else Fault.DAMAGED_IMAGE
        raise InvalidSample(fault, f"{pair.source}, {pair.id}: {error}") from error


class PairLoader:
    """Endless batches of one rank, with a state to go on from.

    The state is that of the batches given out; what workers have prepared beyond them does not count. It is the same on
    every rank, but for what was skipped, which each rank counts for itself.

    Args:
        samples: the pairs.
        batch_size: pairs of a batch of this rank.
        weights: of the sources by name; by default their sizes, so that all pairs come equally often.
        rank, world_size: of the data-parallel group.
        num_workers: processes that decode; 0 is in this one.
        collate: samples to a batch, as `Owl2Processor.pad`; by default the list of samples.
        limit: share of broken pairs at which a source is refused.

    Raises:
        ValueError: unfit numbers or weights; while iterating, too many pairs of a source are broken.
    """

    def __init__(
        self,
        samples: PairSamples,
        batch_size: int,
        weights: Mapping[str, float] | None = None,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        collate: Callable[[list[Sample]], Any] = list,
        limit: SkipLimit | None = None,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"batch_size={batch_size}, rank={rank}, world_size={world_size}: need B >= 1, 0 <= r < n")
        self.samples, self.batch_size, self.num_workers = samples, batch_size, num_workers
        self.rank, self.world_size, self.collate = rank, world_size, collate
        self._blend = WeightedSampler(
            {name: order.size for name, order in samples.orders.items()}, samples.settings.seed, weights
        )
        self.counter = SkipCounter(limit or SkipLimit())
        self._state = self._blend.state_dict()

    def __iter__(self) -> Iterator[Any]:
        """Batches from the state on."""
        self._blend.load_state_dict(self._state)
        states: deque[dict[str, Any]] = deque()
        batches = DataLoader(
            self.samples,
            batch_sampler=self._batches_of_draws(states),  # type: ignore[arg-type]  # an endless iterable
            num_workers=self.num_workers,
            collate_fn=_Collate(self.collate),
            prefetch_factor=4 if self.num_workers else None,
        )
        for batch, sources, skips in batches:
            self.counter.add(sources, skips)
            self._state = states.popleft()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the batches given out so far end, and what was skipped; JSON."""
        return {**self._state, **self.counter.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batches that the state counts; takes effect at the next `iter`.

        Raises:
            ValueError: the state is of other sources, weights or seed.
        """
        self._blend.load_state_dict(state)
        self._state = self._blend.state_dict()
        self.counter.load_state_dict(state)

    def _batches_of_draws(self, states: deque[dict[str, Any]]) -> Iterator[list[Draw]]:
        """What the workers are asked for; `states` gets the state after each batch."""
        while True:
            draws = self._blend.draw(self.batch_size * self.world_size)
            states.append(self._blend.state_dict())
            yield draws[self.rank :: self.world_size]


class _Collate:
    """Joins samples, and keeps apart what is counted. A class, so that it can be sent to workers that are spawned."""

    def __init__(self, join: Callable[[list[Sample]], Any]) -> None:
        self.join = join

    def __call__(self, drawn: list[Drawn]) -> tuple[Any, list[str], list[Skip]]:
        skips = [skip for each in drawn for skip in each.skips]
        return self.join([each.sample for each in drawn]), [each.source for each in drawn], skips
