"""Image-text pairs of stage 1: sources, their order, and samples."""

from .coco import CocoCaptions
from .jsonl import PairLines
from .parquet import PairParquet
from .readers import PairCheck, open_pairs
from .samples import PairSamples, PairSettings
from .source import PairSource, StoredPair
from .tar_index import Shard, index_shards
from .tar_shards import TarShards
from .window_order import WindowOrder

__all__ = [
    "CocoCaptions",
    "PairCheck",
    "PairLines",
    "PairParquet",
    "PairSamples",
    "PairSettings",
    "PairSource",
    "Shard",
    "StoredPair",
    "TarShards",
    "WindowOrder",
    "index_shards",
    "open_pairs",
]
