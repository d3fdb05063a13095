"""Batches of one modality and similar length, as in LLaVA's and the official code's `group_by_modality_length`."""

import random
from collections.abc import Callable
from typing import Any

from owl2.data.sampler import Draw, WeightedSampler

WINDOW = 8
"""The number of batches that are drawn together, and among which draws are exchanged."""


class LengthGroups:
    """The draws of a sampler, exchanged within windows of `WINDOW` batches, so that a batch has similar draws.

    A window holds what the sampler gives, so that no share of a source changes; its batches come in random order.

    Args:
        sampler: Gives the draws.
        work: Key by which draws are sorted; it is equal for similar draws.
    """

    def __init__(self, sampler: WeightedSampler, work: Callable[[Draw], tuple[bool, float]]) -> None:
        self.sampler, self.work = sampler, work
        self._window_start = sampler.state_dict()
        self._batches: list[list[Draw]] = []

    def draw(self, count: int) -> list[Draw]:
        """The next batch of `count` draws, sorted; the count must not change within a window."""
        if not self._batches:
            self._window_start = self.sampler.state_dict()
            draws = sorted(self.sampler.draw(WINDOW * count), key=self.work)
            self._batches = [draws[start : start + count] for start in range(0, len(draws), count)]
            first = draws[0]
            random.Random(f"{self.sampler.seed} {first.source} {first.epoch} {first.position}").shuffle(self._batches)
        return self._batches.pop()

    def state_dict(self) -> dict[str, Any]:
        """The beginning of the window, the state of the sampler there, and the number of batches given out since."""
        if not self._batches:
            return {**self.sampler.state_dict(), "batches": 0}
        return {**self._window_start, "batches": WINDOW - len(self._batches), "batch_size": len(self._batches[0])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes where `state_dict` was called.

        Raises:
            ValueError: The state belongs to other sources or another seed.
        """
        self.sampler.load_state_dict(state)
        self._batches = []
        for _ in range(state["batches"]):
            self.draw(state["batch_size"])
