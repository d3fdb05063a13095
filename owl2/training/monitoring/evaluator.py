"""Measures the model of a recipe while it trains: the loss of held-out samples, and scores on benchmarks."""

from collections.abc import Callable

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.training.distributed.mesh import Mesh
from owl2.training.step import BatchPreparation

from .benchmark_scores import BenchmarkScores
from .metrics_logger import Evaluation
from .validation_loss import ValidationSet, validation_loss


class Evaluator:
    """Measures the model every N steps. Every rank makes and calls it alike.

    Args:
        every: Steps between two evaluations; 0 for none.
        validation: Held-out samples, if their loss is measured.
        benchmarks: Benchmarks, if their scores are measured.
        mesh: All ranks.
    """

    def __init__(
        self, every: int, validation: ValidationSet | None, benchmarks: BenchmarkScores | None, mesh: Mesh
    ) -> None:
        self.every, self.validation, self.benchmarks, self.mesh = every, validation, benchmarks, mesh

    def is_due(self, step: int) -> bool:
        """Whether the model is to be measured after a step."""
        return self.every > 0 and step % self.every == 0

    def measure(
        self,
        model: Owl2ForConditionalGeneration,
        step: int,
        preparation: BatchPreparation,
        on_batch: Callable[[int, str, int, int], None],
        stopped: Callable[[], bool],
        goes_on: bool = False,
    ) -> Evaluation:
        """Measures the model as it is after a step.

        Args:
            on_batch, stopped, goes_on: As in `BenchmarkScores.measure`.

        Raises:
            StopRequested: A rank was asked to stop.
        """
        held_out, scores = None, {}
        if self.validation is not None:
            held_out = validation_loss(model, self.validation, preparation, self.mesh, stopped)
        if self.benchmarks is not None:
            scores = self.benchmarks.measure(model, step, on_batch, stopped, goes_on)
        return Evaluation(held_out, scores)
