"""Image-text pairs of stage 1: sources, their order, and batches."""

from owl2.data.skipped import Fault, InvalidSample, Skip, SkipCounter, SkipLimit

from .coco import CocoCaptions
from .jsonl import PairLines
from .loader import PairLoader, PairSamples, PairSettings
from .parquet import PairParquet
from .readers import PairCheck, open_pairs
from .sampler import Draw, SourceOrder, WeightedSampler
from .source import PairSource, StoredPair
from .tar_index import Shard, index_shards
from .tar_shards import TarShards

__all__ = [
    "WeightedSampler",
    "InvalidSample",
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
