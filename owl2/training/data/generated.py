"""Sources that need no path: easy-VQA and generated scenes, as pairs and as conversations, and English texts."""

from collections.abc import Sequence
from functools import reduce

from owl2.data.mixture.cached_records import FirstRecords
from owl2.data.mixture.mixture import Records
from owl2.data.mixture.record_size import RecordSize
from owl2.data.pairs import PairSource, StoredPair
from owl2.data.problems import Rejected
from owl2.data.records import Conversation, Pair
from owl2.data.sampler import WeightedSource
from owl2.data.sources import easy_vqa, english
from owl2.data.sources.scenes.records import SceneConversations, ScenePairs, SceneSettings
from owl2.training.recipe.data import SourceSettings
from owl2.training.recipe.schema import Recipe


def open_generated_pairs(name: str, source: SourceSettings, recipe: Recipe) -> PairSource:
    """Images with captions of a format of `GENERATED`."""
    if source.format == "easy_vqa":
        return GeneratedPairs(name, easy_vqa.pairs(easy_vqa.load_questions(source.split)))
    return GeneratedPairs(name, ScenePairs(_scene_settings(source, recipe)))


def open_generated_conversations(name: str, source: SourceSettings, recipe: Recipe) -> "GeneratedConversations":
    """Conversations of a format of `GENERATED`."""
    if source.format == "easy_vqa":
        return GeneratedConversations(name, FirstRecords(_easy_vqa_conversations(source, recipe), Rejected()))
    if source.format == "english":
        records = english.records(source.texts or ("passages", "instructions"))
        return GeneratedConversations(name, FirstRecords(records, Rejected()))
    return GeneratedConversations(name, SceneRecords(SceneConversations(_scene_settings(source, recipe))))


class GeneratedPairs:
    """Pairs in the shape of a source."""

    def __init__(self, name: str, pairs: Sequence[Pair]) -> None:
        self.name, self.pairs = name, pairs
        self.groups: Sequence[int] = [len(pairs)]

    def read(self, group: int, index: int) -> StoredPair:
        pair = self.pairs[index]
        return StoredPair(pair.id, pair.image, pair.caption, self.name)


class GeneratedConversations:
    """Conversations in the shape of a `Mixture` of one source."""

    def __init__(self, name: str, records: Records) -> None:
        self._records = records
        self.sources = (WeightedSource(name, len(records), len(records), float(len(records))),)

    def records(self, name: str, epoch: int = 0) -> Records:
        return self._records


class SceneRecords:
    """Conversations about scenes, whose sizes are known before their images are drawn."""

    def __init__(self, conversations: SceneConversations) -> None:
        self.conversations, self.rejected = conversations, Rejected()

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, number: int) -> Conversation:
        return self.conversations[number]

    def size(self, number: int) -> RecordSize:
        found = self.conversations.exchanges(number)
        text_bytes = sum(len(text) for exchange in found.exchanges for text in exchange)
        return RecordSize(text_bytes, int(found.scene is not None), 0, answers=len(found.exchanges))

    def total_size(self) -> RecordSize:
        return reduce(RecordSize.plus, map(self.size, range(len(self))), RecordSize(0, 0, 0))


def _easy_vqa_conversations(source: SourceSettings, recipe: Recipe) -> list[Conversation]:
    questions = easy_vqa.load_questions(source.split)
    if source.thinned:
        questions = easy_vqa.thinned(questions)
    if source.asked_of == "captions":
        return easy_vqa.described(questions, source.max_questions)
    return easy_vqa.conversations(questions, recipe.seed, source.max_questions)


def _scene_settings(source: SourceSettings, recipe: Recipe) -> SceneSettings:
    """The settings of scenes from the source and, for all sources, from the recipe."""
    keys = ("count", "seed", "split", "difficulty", "kinds")
    given = {key: value for key in keys if (value := getattr(source, key)) is not None}
    return SceneSettings(**{"seed": recipe.seed, "image_size": recipe.data.image_size, **given})
