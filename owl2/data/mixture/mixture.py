"""A mixture of instruction data: its sources opened, and any record of each by its number."""

from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from owl2.data.formats import RecordFile
from owl2.data.problems import OF_MEDIA, Rejected
from owl2.data.records import Conversation
from owl2.data.sampler import WeightedSource
from owl2.data.skipped import SkipLimit

from .cache import conversations_entry, record_file_entry
from .cached_records import FirstRecords, StoredConversations, StoredRecordFile, valid_records
from .recipe import RECORDS, MixtureRecipe, SourceRecipe, counts_left_out, depends_on_epoch, reader
from .record_order import RecordOrder
from .record_size import RecordSize


class Records(Protocol):
    """Records of a source in one epoch.

    Attributes:
        rejected: Invalid records, which are left out.
    """

    rejected: Rejected

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Conversation: ...

    def size(self, number: int) -> RecordSize: ...

    def total_size(self) -> RecordSize:
        """The size of all records together."""
        ...


class Mixture:
    """The records of a recipe's sources, read from the cache, which is filled where it lacks something.

    It may be handed to other processes: they open the same files again.

    Args:
        recipe: The sources.
        limit: Maximum number of records of each source, which are then held in memory instead of cached.
        skip_limit: Share of broken records at which a file of records is refused; by default that of pairs.

    Raises:
        ValueError: A file is missing; a source has no records; a broken record of an annotation file, or too many of a
            file of records; no valid record of a file has an image, and all that name one are left out.
    """

    def __init__(self, recipe: MixtureRecipe, limit: int | None = None, skip_limit: SkipLimit | None = None) -> None:
        self.recipe, self.limit, self.skip_limit = recipe, limit, skip_limit or SkipLimit()
        self._recipes = {source.name: source for source in recipe.sources}
        self._changing = {source.name for source in recipe.sources if depends_on_epoch(source.format)}
        self._check_paths()
        self._opened: dict[tuple[str, int], Records] = {}
        self.sources = tuple(self._source(source) for source in recipe.sources)

    def __reduce__(self) -> tuple[Any, ...]:
        return Mixture, (self.recipe, self.limit, self.skip_limit)

    def order(self, name: str) -> RecordOrder:
        """The order of a source under the seed of the recipe.

        Raises:
            ValueError: The mixture has no such source.
        """
        for source in self.sources:
            if source.name == name:
                return RecordOrder(source, self.recipe.seed)
        raise ValueError(f"the mixture has no source {name!r}; it has {', '.join(each.name for each in self.sources)}")

    def records(self, name: str, epoch: int = 0) -> Records:
        """All records of a source in an epoch.

        Raises:
            ValueError: The source has another number of records than in its first epoch.
        """
        key = name, epoch if name in self._changing else 0
        if key not in self._opened:
            records = self._open(self._recipes[name], key[1])
            first = self._opened.get((name, 0), records)
            if len(records) != len(first):
                raise ValueError(f"{name}: {len(first)} records in epoch 0, but {len(records)} in epoch {epoch}")
            self._opened[key] = records
        return self._opened[key]

    def _source(self, recipe: SourceRecipe) -> WeightedSource:
        found = len(self.records(recipe.name))
        used = min(found, recipe.size or found)
        return WeightedSource(recipe.name, found, used, recipe.weight or used)

    def _open(self, source: SourceRecipe, epoch: int) -> Records:
        if self.limit is not None:
            return self._first(source, epoch, self.limit)
        if source.format == RECORDS:
            return self._record_file(source)
        arguments = {"format": source.format, **self._arguments(source, epoch)}
        read = partial(self._read, source, epoch)
        return StoredConversations(conversations_entry(self.recipe.cache, source.name, arguments, read))

    def _record_file(self, source: SourceRecipe) -> StoredRecordFile:
        file, images = source.arguments["file"], source.arguments.get("images")
        records = StoredRecordFile(record_file_entry(self.recipe.cache, source.name, file, images), file, images)
        broken = records.rejected
        tried = len(records) + broken.records
        if refusal := self.skip_limit.refusal(source.name, "records", tried, broken.records, broken.kinds):
            raise ValueError(f"{refusal}. The first: {broken.named[0]}. `owl2 data check {file}` lists all")
        total, named = records.total_size(), sum(count for kind, count in broken.kinds.items() if kind in OF_MEDIA)
        if named and not total.images + total.videos and self.skip_limit.share < 1:
            raise ValueError(
                f"no valid record of the source {source.name!r} has an image or a video, though {named} records name "
                f"some and are left out; the first: {broken.named[0]}. `owl2 data check {file}` lists all"
            )
        return records

    def _read(self, source: SourceRecipe, epoch: int, rejected: Rejected) -> Iterable[Conversation]:
        counted = {"rejected": rejected} if counts_left_out(source.format) else {}
        return reader(source.format)(**self._arguments(source, epoch), **counted)

    def _arguments(self, source: SourceRecipe, epoch: int) -> dict[str, Any]:
        chosen = {"seed": self.recipe.seed, "epoch": epoch} if source.name in self._changing else {}
        return {**source.arguments, **chosen}

    def _first(self, source: SourceRecipe, epoch: int, limit: int) -> FirstRecords:
        rejected = Rejected()
        conversations: Iterable[Conversation]
        if source.format == RECORDS:
            file = RecordFile(source.arguments["file"], source.arguments.get("images"))
            conversations = (conversation for _, conversation in valid_records(file, rejected))
        else:
            conversations = self._read(source, epoch, rejected)
        first = list(islice(conversations, limit))
        if not first:
            raise ValueError(f"the source {source.name} has no valid records")
        return FirstRecords(first, rejected)

    def _check_paths(self) -> None:
        paths = [
            (source.name, name, value)
            for source in self.recipe.sources
            for name, value in source.arguments.items()
            if isinstance(value, Path)
        ]
        missing = [f"{source}: {name} {path}" for source, name, path in paths if not path.exists()]
        if missing:
            raise ValueError(f"{self.recipe.path} names what does not exist: {'; '.join(missing)}")
