"""Decides which steps to skip, and when to give up: loss spikes and gradients that are not finite."""

import math
from collections import deque
from statistics import median
from typing import Any

WINDOW = 100
"""The number of losses in the running median."""

FIRST_JUDGED = 10
"""The number of accepted steps before a loss can be a spike: the first losses fall fast."""


class TrainingDiverged(RuntimeError):
    """Too many steps were skipped: the message says why, and what to change."""


class LossSpikeGuard:
    """Decides from the loss and the gradient norm of a step, the same numbers on every rank, whether to take it.

    Args:
        spike_factor: Skip a loss of more than this many times the median of the last `WINDOW` accepted ones.
        in_a_row, in_all: More skipped steps than these end the run.

    Attributes:
        skipped: Number of skipped steps by reason.
    """

    def __init__(self, spike_factor: float, in_a_row: int, in_all: int) -> None:
        self.spike_factor, self.in_a_row, self.in_all = spike_factor, in_a_row, in_all
        self.skipped: dict[str, int] = {"loss spike": 0, "loss not finite": 0, "gradient not finite": 0}
        self._skipped_in_a_row = 0
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def reason_to_skip(self, step: int, loss: float, gradient_norm: float) -> str | None:
        """Judges a step before the optimizer takes it, and counts.

        Returns:
            `None` to take the step, otherwise the reason to skip it.

        Raises:
            TrainingDiverged: This is one skipped step too many.
        """
        reason = self._judge(loss, gradient_norm)
        if reason is None:
            self._skipped_in_a_row = 0
            self._losses.append(loss)
            return None
        self.skipped[reason] += 1
        self._skipped_in_a_row += 1
        in_all = sum(self.skipped.values())
        if self._skipped_in_a_row > self.in_a_row or in_all > self.in_all:
            counts = ", ".join(f"{count} x {name}" for name, count in self.skipped.items() if count)
            raise TrainingDiverged(
                f"step {step} was skipped ({reason}: loss {loss:.4g}, gradient norm {gradient_norm:.4g}), "
                f"{self._skipped_in_a_row} in a row, {in_all} in total ({counts}); the recipe allows "
                f"{self.in_a_row} and {self.in_all} (section limits). Lower optimizer.learning_rate, warm up longer, "
                "or look at the samples of these steps, and resume from a checkpoint before them"
            )
        return reason

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on, as JSON."""
        return {"skipped": dict(self.skipped), "in_a_row": self._skipped_in_a_row, "losses": list(self._losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped = dict(state["skipped"])
        self._skipped_in_a_row = state["in_a_row"]
        self._losses = deque(state["losses"], maxlen=WINDOW)

    def _judge(self, loss: float, gradient_norm: float) -> str | None:
        if not math.isfinite(loss):
            return "loss not finite"
        if not math.isfinite(gradient_norm):
            return "gradient not finite"
        if len(self._losses) >= FIRST_JUDGED and loss > self.spike_factor * median(self._losses):
            return "loss spike"
        return None
