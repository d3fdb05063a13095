"""The samples of a stage: what is drawn next, the same for any number of ranks, and how workers read what was drawn.

Stage 1 learns from image-text pairs (`owl2.data.pairs`), stage 2 from conversations (`owl2.data.mixture`). The main
process draws; a draw is a few names and numbers that go to the worker processes.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import Dataset

from owl2.data.mixture import Mixture, MixtureRecipe, MixtureSampler, SourceRecipe, load_mixture_recipe
from owl2.data.mixture import Source as WeightedSource
from owl2.data.mixture.cached_records import FirstRecords, Rejected
from owl2.data.pairs import (
    CocoCaptions,
    PairLines,
    PairParquet,
    PairSamples,
    PairSettings,
    PairSource,
    StoredPair,
    TarShards,
    WeightedSampler,
)
from owl2.data.pairs.loader import Drawn
from owl2.data.records import Conversation
from owl2.data.skipped import InvalidSample, Skip, SkipLimit
from owl2.data.sources import easy_vqa
from owl2.processing import Owl2Processor
from owl2.training.recipe.schema import Recipe, Source

from .encoding import encode_caption, encode_conversation

logger = logging.getLogger(__name__)


class StageData(Protocol):
    """The samples of a stage, drawn one after the other."""

    def take(self, count: int) -> list[Any]:
        """The next draws, so arranged that neighbours are alike in work."""
        ...

    def dataset(self, processor: Owl2Processor) -> Dataset[Drawn]:
        """Encoded samples by their draws."""
        ...

    def texts(self, count: int) -> Iterator[str]:
        """Texts of the first samples of each source."""
        ...

    def describe(self) -> list[tuple[str, int, float]]:
        """Name, number of samples and share of all draws of each source."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def open_stage_data(recipe: Recipe, sources: dict[str, Source], directory: Path) -> StageData:
    """Opens sources of the recipe's stage.

    Args:
        directory: what has to be indexed is kept there, in `cache`, if the recipe names no other place.

    Raises:
        ValueError: a file is missing or not as its format says.
    """
    cache = Path(recipe.data.cache) if recipe.data.cache is not None else directory / "cache"
    return (Pairs if recipe.stage == "pretrain" else Conversations)(recipe, sources, cache)


class Pairs:
    """Image-text pairs of stage 1."""

    def __init__(self, recipe: Recipe, sources: dict[str, Source], cache: Path) -> None:
        data = recipe.data
        self.max_length = data.max_length
        self.settings = PairSettings(data.image_size, recipe.seed, data.augment, data.keep_left_and_right)
        self.sources = [_pair_source(name, source) for name, source in sources.items()]
        sizes = {source.name: int(sum(source.groups)) for source in self.sources}
        weights = {name: float(source.weight or sizes[name]) for name, source in sources.items()}
        self._blend = WeightedSampler(sizes, recipe.seed, weights)

    def take(self, count: int) -> list[Any]:
        return self._blend.draw(count)

    def dataset(self, processor: Owl2Processor) -> Dataset[Drawn]:
        return PairSamples(self.sources, self.settings, partial(encode_caption, processor, self.max_length))

    def texts(self, count: int) -> Iterator[str]:
        for source in self.sources:
            for index in range(min(count, int(source.groups[0]))):
                try:
                    yield source.read(0, index).caption
                except InvalidSample:
                    continue  # counted when it is drawn

    def describe(self) -> list[tuple[str, int, float]]:
        return [(name, size, self._blend.weights[name]) for name, size in self._blend.sizes.items()]

    def state_dict(self) -> dict[str, Any]:
        return self._blend.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._blend.load_state_dict(state)


class Conversations:
    """Conversations of stage 2, with and without images."""

    def __init__(self, recipe: Recipe, sources: dict[str, Source], cache: Path) -> None:
        self.data = recipe.data
        self.records: dict[str, Any] = {}
        weighted: list[WeightedSource] = []
        for name, source in sources.items():
            opened = _open_conversations(name, source, recipe, cache)
            weighted += _with_weight(opened.sources, source.weight)
            doubled = [each.name for each in opened.sources if each.name in self.records]
            if doubled:
                raise ValueError(f"there are two sources of the name {doubled[0]}: rename one of them")
            self.records |= {each.name: opened for each in opened.sources}
            for each in opened.sources:
                _warn_of_left_out(each.name, opened.records(each.name).rejected)
        self._sampler = MixtureSampler(weighted, recipe.seed)

    def take(self, count: int) -> list[Any]:
        draws = [next(self._sampler) for _ in range(count)]

        def work(draw: Any) -> tuple[bool, float]:
            size = self.records[draw.source].size(draw)
            return not (size.images or size.videos), -size.tokens

        return sorted(draws, key=work)  # with images first, the longest first

    def dataset(self, processor: Owl2Processor) -> Dataset[Drawn]:
        return ConversationSamples(self.records, processor, self.data.image_size, self.data.max_length)

    def texts(self, count: int) -> Iterator[str]:
        for name, opened in self.records.items():
            records = opened.records(name)
            for number in range(min(count, len(records))):
                for message in records[number].messages:
                    yield from (part["text"] for part in message["content"] if part["type"] == "text")

    def describe(self) -> list[tuple[str, int, float]]:
        shares = zip(self._sampler.sources, self._sampler.shares, strict=True)
        return [(source.name, source.used, share) for source, share in shares]

    def state_dict(self) -> dict[str, Any]:
        return self._sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sampler.load_state_dict(state)


class ConversationSamples(Dataset[Drawn]):
    """Encoded conversations by their draws; one that is broken comes without a sample."""

    def __init__(self, records: dict[str, Any], processor: Owl2Processor, image_size: int, max_length: int) -> None:
        self.records, self.processor = records, processor
        self.image_size, self.max_length = image_size, max_length

    def __getitem__(self, draw: Any) -> Drawn:
        try:
            conversation = self.records[draw.source][draw]
            sample = encode_conversation(self.processor, conversation, self.image_size, self.max_length)
        except InvalidSample as error:
            return Drawn({}, draw.source, [Skip(draw.source, error.fault, f"record {draw.record}: {error}")])
        return Drawn(sample, draw.source, [])


class _InMemory:
    """Conversations that are made, not read from files, in the shape of a `Mixture` of one source."""

    def __init__(self, name: str, conversations: Sequence[Conversation]) -> None:
        self.name, self._records = name, FirstRecords(conversations, Rejected())
        self.sources = (WeightedSource(name, len(conversations), len(conversations), float(len(conversations))),)

    def __getitem__(self, draw: Any) -> Conversation:
        return self._records[draw.record]

    def size(self, draw: Any) -> Any:
        return self._records.size(draw.record)

    def records(self, name: str) -> FirstRecords:
        return self._records


class _EasyVqaCaptions:
    """easy-VQA's captions as a source of pairs."""

    def __init__(self, name: str, split: str) -> None:
        self.name = name
        self.pairs = easy_vqa.pairs(easy_vqa.load_questions(split))
        self.groups: Sequence[int] = [len(self.pairs)]

    def read(self, group: int, index: int) -> StoredPair:
        pair = self.pairs[index]
        return StoredPair(pair.id, pair.image, pair.caption, self.name)


def _pair_source(name: str, source: Source) -> PairSource:
    if source.format == "easy_vqa":
        return _EasyVqaCaptions(name, source.split)
    assert source.path is not None, "only easy_vqa has no path"
    fields = {key: value for key, value in (("caption", source.caption_field), ("image", source.image_field)) if value}
    if source.format == "webdataset":
        return TarShards(name, source.path, source.index, source.caption_field)
    if source.format == "jsonl":
        return PairLines(name, source.path, source.root, **{f"{key}_field": value for key, value in fields.items()})
    if source.format == "parquet":
        return PairParquet(name, source.path, source.root, **{f"{key}_column": value for key, value in fields.items()})
    return CocoCaptions(name, source.path, source.root or str(Path(source.path).parent))


def _open_conversations(name: str, source: Source, recipe: Recipe, cache: Path) -> Any:
    if source.format == "easy_vqa":
        questions = easy_vqa.load_questions(source.split)
        return _InMemory(name, easy_vqa.conversations(questions, recipe.seed, source.max_questions))
    assert source.path is not None, "only easy_vqa has no path"
    limit = SkipLimit(recipe.data.bad_share)
    if source.format == "mixture":
        return Mixture(load_mixture_recipe(source.path), skip_limit=limit)
    file = Path(source.path).absolute()
    arguments = {"file": file, "images": Path(source.root).absolute() if source.root else file.parent}
    sources = (SourceRecipe(name, "records", arguments),)
    return Mixture(MixtureRecipe(file, cache.absolute(), recipe.seed, sources), skip_limit=limit)


def _warn_of_left_out(name: str, rejected: Rejected) -> None:
    if rejected.records:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in rejected.kinds.items())
        logger.warning("%s: left out %d records (%s); first %s", name, rejected.records, kinds, rejected.named[0])


def _with_weight(sources: Sequence[WeightedSource], weight: float | None) -> list[WeightedSource]:
    """The sources with their weights scaled to a sum, if one is given."""
    if weight is None:
        return list(sources)
    total = math.fsum(source.weight for source in sources)
    return [source._replace(weight=source.weight * weight / total) for source in sources]
