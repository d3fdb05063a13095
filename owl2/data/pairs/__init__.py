"""Image-text pairs of stage 1: sources, their order, and batches."""

from .coco import CocoCaptions
from .loader import PairLoader, PairSamples, PairSettings
from .opening import PairCheck, open_pairs
from .order import Blend, Draw, SourceOrder
from .pair_lines import PairLines
from .parquet import PairParquet
from .skipped import Skip, SkipCounter, SkipLimit
from .source import BrokenPair, Fault, PairSource, StoredPair
from .tar_index import Shard, index_shards
from .tar_shards import TarShards

__all__ = [
    "Blend",
    "BrokenPair",
    "CocoCaptions",
    "Draw",
    "Fault",
    "PairCheck",
    "PairLines",
    "PairLoader",
    "PairParquet",
    "PairSamples",
    "PairSettings",
    "PairSource",
    "Shard",
    "Skip",
    "SkipCounter",
    "SkipLimit",
    "SourceOrder",
    "StoredPair",
    "TarShards",
    "index_shards",
    "open_pairs",
]
