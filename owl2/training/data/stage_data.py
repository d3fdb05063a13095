"""The samples of a stage: the draws, which are the same for any number of ranks, and how workers read them.

Stage 1 learns from image-text pairs (`owl2.data.pairs`), stage 2 from conversations (`owl2.data.mixture`). The main
process draws; a draw is a few names and numbers that go to the worker processes.
"""

import logging
import math
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import Dataset

from owl2.data.mixture import Mixture, MixtureRecipe, RecordOrder, SourceRecipe, load_mixture_recipe
from owl2.data.mixture.mixture import Records
from owl2.data.mixture.record_size import RecordSize
from owl2.data.pairs import PairSamples, PairSettings, PairSource, open_pairs
from owl2.data.problems import Rejected
from owl2.data.sampler import Draw, DrawnSample, WeightedSampler, WeightedSource
from owl2.data.skipped import Fault, InvalidSample, Skip, SkipLimit
from owl2.processing import Owl2Processor
from owl2.training.recipe.data import GENERATED, DataSettings, SourceSettings
from owl2.training.recipe.schema import Recipe

from .encoding import OPINION, encode_caption, encode_conversation
from .generated import GeneratedConversations, open_generated_conversations, open_generated_pairs
from .length_groups import LengthGroups
from .wrapped_samples import wrapped_samples

logger = logging.getLogger(__name__)

_FRAME = {"user": "USER: ", "assistant": " ASSISTANT: "}
"""The text before a message in the prompt of the published model (`owl2/processing/chat_template.jinja`)."""


class StageData(Protocol):
    """The samples of a stage, drawn one after the other."""

    def take(self, count: int) -> list[Draw]:
        """Takes the next draws, arranged so that neighbours take similar work."""
        ...

    def dataset(self, processor: Owl2Processor) -> Dataset[DrawnSample]:
        """The encoded samples by their draws."""
        ...

    def texts(self, count: int) -> Iterator[str]:
        """Texts of the first samples of each source; texts of conversations come with the words of the prompt."""
        ...

    def describe(self) -> list[tuple[str, int, float]]:
        """The name of each source, its number of samples and its share of all draws."""
        ...

    def contents(self) -> Iterator[tuple[str, RecordSize]]:
        """The name of each source and the size of all its records; text bytes of pairs are not counted."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def open_stage_data(recipe: Recipe, sources: dict[str, SourceSettings], directory: Path) -> StageData:
    """Opens the sources of the recipe's stage.

    Args:
        directory: Directory whose `cache` holds indexes, if the recipe names no other place.

    Raises:
        ValueError: A file is missing or not as its format says.
    """
    cache = Path(recipe.data.cache) if recipe.data.cache is not None else directory / "cache"
    return (Pairs if recipe.stage == "pretrain" else Conversations)(recipe, sources, cache)


class Pairs:
    """Image-text pairs of stage 1."""

    def __init__(self, recipe: Recipe, sources: dict[str, SourceSettings], cache: Path) -> None:
        data = recipe.data
        self.data, self.seed = data, recipe.seed
        self.settings = PairSettings(data.image_size, recipe.seed, data.augment is True, data.keep_left_and_right)
        self.sources = [_open_pairs(name, source, recipe) for name, source in sources.items()]
        sizes = {source.name: int(sum(source.groups)) for source in self.sources}
        weighted = [
            WeightedSource(name, sizes[name], sizes[name], float(source.weight or sizes[name]))
            for name, source in sources.items()
        ]
        self._sampler = WeightedSampler(weighted, recipe.seed)

    def take(self, count: int) -> list[Draw]:
        return self._sampler.draw(count)

    def dataset(self, processor: Owl2Processor) -> Dataset[DrawnSample]:
        samples = PairSamples(self.sources, self.settings, partial(encode_caption, processor, self.data))
        return wrapped_samples(samples, self.data, self.seed, samples.place)

    def texts(self, count: int) -> Iterator[str]:
        for source in self.sources:
            for index in range(min(count, int(source.groups[0]))):
                try:
                    yield source.read(0, index).caption
                except InvalidSample:
                    continue  # counted when it is drawn

    def describe(self) -> list[tuple[str, int, float]]:
        return _described(self._sampler)

    def contents(self) -> Iterator[tuple[str, RecordSize]]:
        for source in self.sources:
            pairs = int(sum(source.groups))
            yield source.name, RecordSize(0, images=pairs, videos=0, answers=pairs)

    def state_dict(self) -> dict[str, Any]:
        return self._sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sampler.load_state_dict(state)


class Conversations:
    """Conversations of stage 2, with and without images."""

    def __init__(self, recipe: Recipe, sources: dict[str, SourceSettings], cache: Path) -> None:
        self.data, self.seed, self.with_opinions = recipe.data, recipe.seed, recipe.quality is not None
        opened: dict[str, Mixture | GeneratedConversations] = {}
        weighted: list[WeightedSource] = []
        for name, source in sources.items():
            mixture = _open_conversations(name, source, recipe, cache)
            weighted += _with_weight(mixture.sources, source.weight)
            doubled = [each.name for each in mixture.sources if each.name in opened]
            if doubled:
                raise ValueError(f"there are two sources of the name {doubled[0]}: rename one of them")
            opened |= {each.name: mixture for each in mixture.sources}
            for each in mixture.sources:
                _warn_of_rejected(each.name, mixture.records(each.name).rejected)
        self.records = _RecordsByDraw(opened, {each.name: RecordOrder(each, recipe.seed) for each in weighted})
        self._sources = WeightedSampler(weighted, recipe.seed)
        grouped = recipe.batch.group_by_modality_length
        self._sampler = LengthGroups(self._sources, self._work) if grouped else self._sources

    def take(self, count: int) -> list[Draw]:
        draws = self._sampler.draw(count)
        return draws if isinstance(self._sampler, LengthGroups) else sorted(draws, key=self._work)

    def _work(self, draw: Draw) -> tuple[bool, float]:
        """A sort key: with images first, the longest first."""
        records, number = self.records.find(draw)
        size = records.size(number)
        return not (size.images or size.videos), -size.tokens

    def dataset(self, processor: Owl2Processor) -> Dataset[DrawnSample]:
        samples = ConversationSamples(self.records, processor, self.data, self.with_opinions)
        return wrapped_samples(samples, self.data, self.seed, self.records.place)

    def texts(self, count: int) -> Iterator[str]:
        for name, opened in self.records.opened.items():
            records = opened.records(name)
            for number in range(min(count, len(records))):
                for message in records[number].messages:
                    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
                    yield _FRAME.get(message["role"], "") + "".join(texts)

    def contents(self) -> Iterator[tuple[str, RecordSize]]:
        for name, opened in self.records.opened.items():
            yield name, opened.records(name).total_size()

    def describe(self) -> list[tuple[str, int, float]]:
        return _described(self._sources)

    def state_dict(self) -> dict[str, Any]:
        return self._sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sampler.load_state_dict(state)


class ConversationSamples(Dataset[DrawnSample]):
    """Encoded conversations by their draws; a broken one comes without a sample.

    Args:
        with_opinions: Each sample has an entry `OPINION`, for soft labels of image quality.
    """

    def __init__(
        self,
        records: "_RecordsByDraw",
        processor: Owl2Processor,
        data: DataSettings,
        with_opinions: bool = False,
    ) -> None:
        self.records, self.processor, self.data = records, processor, data
        self.with_opinions = with_opinions

    def __getitem__(self, draw: Draw) -> DrawnSample:
        records, number = self.records.find(draw)
        try:
            sample = self._sample(records, number, draw.source)
        except InvalidSample as error:
            return DrawnSample({}, draw.source, [Skip(draw.source, error.fault, f"record {number}: {error}")])
        return DrawnSample(sample, draw.source, [])

    def _sample(self, records: Records, number: int, source: str) -> dict[str, Any]:
        try:
            conversation = records[number]
        except ValueError as error:  # no longer valid, such as a record whose image was removed
            raise InvalidSample(Fault.UNREADABLE, str(error)) from error
        sample = encode_conversation(self.processor, conversation, self.data)
        if self.with_opinions:
            opinion = conversation.messages[-1].get(OPINION)
            if opinion is None:
                raise InvalidSample(Fault.NOT_ENCODED, "has no opinion scores, which quality in the recipe learns from")
            sample[OPINION] = [*opinion, sorted(self.records.opened).index(source)]
        return sample


class _RecordsByDraw:
    """Finds the record of a draw in the opened sources by their orders."""

    def __init__(self, opened: dict[str, Mixture | GeneratedConversations], orders: dict[str, RecordOrder]) -> None:
        self.opened, self.orders = opened, orders

    def place(self, draw: Draw) -> Hashable:
        """A key that is the same for all draws of a record."""
        number = self.orders[draw.source].record(draw.epoch, draw.position)
        is_fixed = isinstance(self.opened[draw.source], GeneratedConversations)
        return draw.source, number, None if is_fixed else draw.epoch

    def find(self, draw: Draw) -> tuple[Records, int]:
        """The records of the draw's source in its epoch, and the number of its record."""
        number = self.orders[draw.source].record(draw.epoch, draw.position)
        return self.opened[draw.source].records(draw.source, draw.epoch), number


def _open_pairs(name: str, source: SourceSettings, recipe: Recipe) -> PairSource:
    if source.format in GENERATED:
        return open_generated_pairs(name, source, recipe)
    assert source.path is not None, "only generated sources have no path"
    return open_pairs(
        name,
        source.path,
        format=source.format,
        root=source.root,
        index=source.index,
        image_field=source.image_field,
        caption_field=source.caption_field,
    )


def _open_conversations(
    name: str, source: SourceSettings, recipe: Recipe, cache: Path
) -> Mixture | GeneratedConversations:
    if source.format in GENERATED:
        return open_generated_conversations(name, source, recipe)
    assert source.path is not None, "only generated sources have no path"
    limit = SkipLimit(recipe.data.bad_share)
    if source.format == "mixture":
        return Mixture(load_mixture_recipe(source.path), skip_limit=limit)
    file = Path(source.path).absolute()
    arguments = {"file": file, "images": Path(source.root).absolute() if source.root else file.parent}
    sources = (SourceRecipe(name, "records", arguments),)
    return Mixture(MixtureRecipe(file, cache.absolute(), recipe.seed, sources), skip_limit=limit)


def _warn_of_rejected(name: str, rejected: Rejected) -> None:
    if rejected.records:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in rejected.kinds.items())
        logger.warning("%s: left out %d records (%s); first %s", name, rejected.records, kinds, rejected.named[0])


def _described(sampler: WeightedSampler) -> list[tuple[str, int, float]]:
    """Name, number of samples and share of all draws of each source."""
    return [(source.name, source.used, share) for source, share in zip(sampler.sources, sampler.shares, strict=True)]


def _with_weight(sources: Sequence[WeightedSource], weight: float | None) -> list[WeightedSource]:
    """The sources with their weights scaled to a sum, if one is given."""
    if weight is None:
        return list(sources)
    total = math.fsum(source.weight for source in sources)
    return [source._replace(weight=source.weight * weight / total) for source in sources]
