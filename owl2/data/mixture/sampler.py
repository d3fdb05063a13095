"""Which record of which source comes next: seeded weighted sampling whose state is (epoch, position) per source.

The source that lags furthest behind its share of all draws is drawn from next, so that after any number of draws every
source has its share almost to the draw. An epoch of a source is a random order of its records, another one each time.
Nothing depends on workers or ranks; `batches.py` divides the stream among them.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .permutation import Permutation


class Draw(NamedTuple):
    """One sample of the stream.

    Attributes:
        source: its name.
        epoch: how often the source has been gone through before.
        record: number of the record in the source.
    """

    source: str
    epoch: int
    record: int


class Source(NamedTuple):
    """What is known of a source to draw from it.

    Attributes:
        found: records that it has.
        used: how many of them are drawn: the same ones in every epoch, chosen by the seed.
        weight: its share of all draws is its weight divided by the sum of the weights.
    """

    name: str
    found: int
    used: int
    weight: float


class MixtureSampler:
    """The endless stream of draws.

    Args:
        sources: in any order.
        seed: another seed, another order of every epoch.

    Raises:
        ValueError: no sources, two of one name, or a source without records, with more used than found, or with a
            weight that is not a positive number.
    """

    def __init__(self, sources: Sequence[Source], seed: int = 0) -> None:
        if not sources:
            raise ValueError("a mixture needs at least one source, got none")
        names = [source.name for source in sources]
        if len(set(names)) < len(names):
            raise ValueError(f"two sources of a mixture have one name: {names}")
        for source in sources:
            if not 1 <= source.used <= source.found:
                raise ValueError(f"{source.name}: {source.used} records used of {source.found}: there must be some")
            if not (source.weight > 0 and math.isfinite(source.weight)):
                raise ValueError(f"{source.name}: weight {source.weight} is not a positive number")
        self.sources, self.seed = tuple(sources), seed
        total = math.fsum(source.weight for source in sources)
        self.shares = [source.weight / total for source in sources]
        self._chosen = [Permutation(source.found, f"{seed}-{source.name}-chosen") for source in sources]
        self._drawn = [0] * len(sources)
        self._orders = [(0, self._order(index, 0)) for index in range(len(sources))]  # of the epoch drawn from

    def __iter__(self) -> Iterator[Draw]:
        return self

    def __next__(self) -> Draw:
        turn = sum(self._drawn) + 1
        lags = [share * turn - drawn for share, drawn in zip(self.shares, self._drawn, strict=True)]
        index = max(range(len(lags)), key=lambda each: (lags[each], self.sources[each].name))
        epoch, position = divmod(self._drawn[index], self.sources[index].used)
        self._drawn[index] += 1
        if self._orders[index][0] != epoch:
            self._orders[index] = epoch, self._order(index, epoch)
        record = self._chosen[index][self._orders[index][1][position]]
        return Draw(self.sources[index].name, epoch, record)

    def records(self, name: str, epoch: int = 0) -> Iterator[int]:
        """The numbers of a source's records in the order in which an epoch draws them."""
        index = [source.name for source in self.sources].index(name)
        order = self._order(index, epoch)
        return (self._chosen[index][order[position]] for position in range(len(order)))

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: of each source the epoch and the position in it, with what they depend on."""
        positions = {}
        for source, drawn in zip(self.sources, self._drawn, strict=True):
            epoch, position = divmod(drawn, source.used)
            positions[source.name] = {**_facts(source), "epoch": epoch, "position": position}
        return {"seed": self.seed, "sources": positions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called.

        Raises:
            ValueError: the state is of another mixture or seed; the differences are named.
        """
        own = {source.name: _facts(source) for source in self.sources}
        saved = {name: {fact: each[fact] for fact in _FACTS} for name, each in state["sources"].items()}
        if state["seed"] != self.seed:
            raise ValueError(f"the state was saved with seed {state['seed']}, this mixture has seed {self.seed}")
        if saved != own:
            differing = [name for name in {**saved, **own} if saved.get(name) != own.get(name)]
            listed = "; ".join(f"{name}: saved {saved.get(name)}, now {own.get(name)}" for name in differing)
            raise ValueError(f"the state is of another mixture. {listed}. Go on with the data it was saved with")
        for index, source in enumerate(self.sources):
            each = state["sources"][source.name]
            self._drawn[index] = each["epoch"] * source.used + each["position"]

    def _order(self, index: int, epoch: int) -> Permutation:
        source = self.sources[index]
        return Permutation(source.used, f"{self.seed}-{source.name}-{epoch}")


_FACTS = ("found", "used", "weight")  # what a source's stream depends on besides its name and the seed


def _facts(source: Source) -> dict[str, Any]:
    return {fact: getattr(source, fact) for fact in _FACTS}
