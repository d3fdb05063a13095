"""Chooses the source of the next sample: seeded weighted sampling whose state is (epoch, position) per source.

The source that lags furthest behind its share of all draws is drawn from next, so that after any number of draws every
source has its share almost to the draw. Which of its samples stands at a position of an epoch is decided by the order
of the source: `owl2.data.mixture.record_order`, `owl2.data.pairs.window_order`. Nothing depends on workers or ranks.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from .skipped import Skip


class Draw(NamedTuple):
    """One sample of the stream.

    Attributes:
        source: Name of its source.
        epoch: How many times the whole source was drawn before.
        position: Place in the order of that epoch.
    """

    source: str
    epoch: int
    position: int


class DrawnSample(NamedTuple):
    """The sample that was made from a draw.

    Attributes:
        sample: The encoded sample; empty if the draw is broken and nothing took its place.
        source: Name of its source.
        skips: Broken samples that were passed over for it.
    """

    sample: dict[str, Any]
    source: str
    skips: list[Skip]


class WeightedSource(NamedTuple):
    """A source to draw from.

    Attributes:
        name: Unique name.
        found: Number of samples in the source.
        used: Number of them that are drawn: the same ones in every epoch, chosen by the seed.
        weight: Weight; the share of all draws is the weight divided by the sum of the weights.
    """

    name: str
    found: int
    used: int
    weight: float


class WeightedSampler:
    """An endless stream of draws.

    Args:
        sources: Sources in any order.
        seed: Seed of the orders of the sources, which the state belongs to.

    Raises:
        ValueError: There are no sources, or two of one name, or a source is empty, uses more samples than it has, or
            has a weight that is not a positive number.
    """

    def __init__(self, sources: Sequence[WeightedSource], seed: int) -> None:
        if not sources:
            raise ValueError("there are no sources to draw from")
        names = [source.name for source in sources]
        if len(set(names)) < len(names):
            raise ValueError(f"the sources need unique names, got {names}")
        for source in sources:
            if not 1 <= source.used <= source.found:
                raise ValueError(f"{source.name}: cannot use {source.used} of {source.found} samples")
            if not (source.weight > 0 and math.isfinite(source.weight)):
                raise ValueError(f"{source.name}: weight {source.weight} is not a positive number")
        self.sources, self.seed = tuple(sources), seed
        self.shares = shares(sources)
        self._drawn = [0] * len(sources)

    def draw(self, count: int) -> list[Draw]:
        """The next `count` draws."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Draw:
        turn = sum(self._drawn) + 1
        lags = [share * turn - drawn for share, drawn in zip(self.shares, self._drawn, strict=True)]
        index = max(range(len(lags)), key=lambda each: (lags[each], self.sources[each].name))
        epoch, position = divmod(self._drawn[index], self.sources[index].used)
        self._drawn[index] += 1
        return Draw(self.sources[index].name, epoch, position)

    def state_dict(self) -> dict[str, Any]:
        """The epoch and position of each source, with all that its draws depend on, as JSON."""
        positions = {}
        for source, drawn in zip(self.sources, self._drawn, strict=True):
            epoch, position = divmod(drawn, source.used)
            positions[source.name] = {**_facts(source), "epoch": epoch, "position": position}
        return {"seed": self.seed, "sources": positions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes where `state_dict` was called.

        Raises:
            ValueError: The state belongs to other sources or another seed; the differences are named.
        """
        own = {source.name: _facts(source) for source in self.sources}
        saved = {name: {fact: each[fact] for fact in _FACTS} for name, each in state["sources"].items()}
        if state["seed"] != self.seed:
            raise ValueError(f"the data state was saved with seed {state['seed']}, but the seed is now {self.seed}")
        if saved != own:
            differing = [name for name in {**saved, **own} if saved.get(name) != own.get(name)]
            listed = "; ".join(f"{name}: saved {saved.get(name)}, now {own.get(name)}" for name in differing)
            raise ValueError(f"the data state belongs to other data. {listed}. Resume with the data it was saved with")
        for index, source in enumerate(self.sources):
            each = state["sources"][source.name]
            self._drawn[index] = each["epoch"] * source.used + each["position"]


def shares(sources: Sequence[WeightedSource]) -> list[float]:
    """The share of all draws of each source."""
    total = math.fsum(source.weight for source in sources)
    return [source.weight / total for source in sources]


_FACTS = ("found", "used", "weight")  # what a source's draws depend on besides its name and the seed


def _facts(source: WeightedSource) -> dict[str, Any]:
    return {fact: getattr(source, fact) for fact in _FACTS}
