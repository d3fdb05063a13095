"""What a mixture yields: how much of every source was found, is used and how often, and some of its records."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from owl2.data.records import Conversation
from owl2.data.sampler import shares

from .mixture import Mixture
from .recipe import TABLE_8_SIZES


class Yield(NamedTuple):
    """One source of a mixture, or the total.

    Attributes:
        found: Number of valid records.
        table_8: Size in the paper's Table 8, if it has the source.
        used: Maximum number of records that are drawn.
        weight: Weight, relative to the others.
        share: Share of all samples.
        samples: Number of the run's samples that come from it.
        epochs: How often the run draws a record.
    """

    source: str
    found: int
    table_8: int | None
    used: int
    weight: float
    share: float
    samples: float
    epochs: float


def yields(mixture: Mixture, samples: int | None = None) -> list[Yield]:
    """Every source in the order of the recipe, and the total.

    Args:
        samples: Samples of the run; by default the number of records used.
    """
    samples = samples or sum(source.used for source in mixture.sources)
    formats = {source.name: source.format for source in mixture.recipe.sources}
    rows = []
    for source, share in zip(mixture.sources, shares(mixture.sources), strict=True):
        drawn = samples * share
        expected = TABLE_8_SIZES.get(formats[source.name])
        facts = source.found, expected, source.used, source.weight, share, drawn, drawn / source.used
        rows.append(Yield(source.name, *facts))
    used = sum(row.used for row in rows)
    total = Yield(
        source="total",
        found=sum(row.found for row in rows),
        table_8=sum(row.table_8 or 0 for row in rows) or None,
        used=used,
        weight=sum(row.weight for row in rows),
        share=1.0,
        samples=samples,
        epochs=samples / used,
    )
    return [*rows, total]


def missing_sources(mixture: Mixture) -> list[str]:
    """Sources of Table 8 that a recipe lacks."""
    present = {source.format for source in mixture.recipe.sources}
    return [name for name in TABLE_8_SIZES if name not in present]


def examples(mixture: Mixture, source: str, count: int) -> Iterator[Conversation]:
    """The records of a source that are drawn first."""
    records = mixture.records(source)
    return (records[number] for number in islice(mixture.order(source).records(), count))
