"""The training loop of a recipe: steps, reports, checkpoints, evaluations, a clean stop, and resuming from there."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor
from owl2.stop_signal import StopRequested, stop_signal
from owl2.training.checkpoint.manager import Checkpoints
from owl2.training.checkpoint.rng_state import rng_state, set_rng_state
from owl2.training.data.loader import Counts, RankBatch, StageDataLoader
from owl2.training.distributed.gradient_clipping import clip_gradients
from owl2.training.distributed.mesh import Mesh
from owl2.training.monitoring.evaluator import Evaluator
from owl2.training.monitoring.flops_utilization import FlopsUtilization
from owl2.training.monitoring.loss_spikes import LossSpikeGuard
from owl2.training.monitoring.metrics_logger import MetricsLogger, StepReport
from owl2.training.monitoring.process_memory import memory_keeper, resident_bytes
from owl2.training.monitoring.watchdog import Watchdog
from owl2.training.recipe.schema import Recipe

from .optimizer import RecipeOptimizer, scheduled_learning_rate
from .quality_loss import QualityLoss
from .run_directory import RunDirectory
from .step import BatchPreparation, GlobalCounts, accumulate_gradients, reduce_counts

_MOST_SAMPLES = 10**9
"""More samples than any benchmark has, which keeps the parts of one benchmark apart from those of the next."""


class Trainer:
    """Takes the steps of a run.

    Args:
        recipe: The whole recipe, precision decided.
        directory: Directory of checkpoints and metrics.
        mesh: All ranks.
        model: The model in training, spread over the ranks.
        processor: Its processor.
        optimizer: Optimizer of `model`.
        loader: Batches of this rank.
        evaluator: Measurements on the way.
        logger: Logger of the steps.
        on_step: Called with the number of each step that was reported.

    Attributes:
        seen: Counts over all steps of the run.
        step: Number of optimizer steps done, skipped ones included.
    """

    def __init__(
        self,
        recipe: Recipe,
        directory: RunDirectory,
        mesh: Mesh,
        model: Owl2ForConditionalGeneration,
        processor: Owl2Processor,
        optimizer: RecipeOptimizer,
        loader: StageDataLoader,
        evaluator: Evaluator,
        logger: MetricsLogger,
        on_step: Callable[[int], Any] | None = None,
    ) -> None:
        self.recipe, self.directory, self.mesh, self.model = recipe, directory, mesh, model
        self.optimizer, self.loader, self.evaluator, self.logger = optimizer, loader, evaluator, logger
        self.on_step = on_step
        self.checkpoints = Checkpoints(directory.checkpoints, recipe.checkpoint.keep, recipe.checkpoint.asynchronous)
        limits = recipe.limits
        self.guard = LossSpikeGuard(limits.spike_factor, limits.skipped_in_a_row, limits.skipped_in_all)
        self.preparation = BatchPreparation.of(processor, mesh.device)
        self.quality = None if recipe.quality is None else QualityLoss.of(recipe.quality, processor)
        self.utilization = FlopsUtilization(model.config, recipe, mesh)
        self.step = self.samples = self.tokens = 0
        self.seen = Counts()
        self._data_state = loader.state_dict()
        self._saved_step: int | None = None
        self._unmeasured: StepReport | None = None  # the step after which an evaluation was stopped
        self._checkpoint_seconds = 0.0  # between the last step and the next

    def resume(self) -> bool:
        """Continues from the newest checkpoint, if there is one.

        Raises:
            DamagedCheckpoint: The newest checkpoint cannot be used.
        """
        saved = self.checkpoints.load_latest(self.optimizer.named_state())
        if saved is None:
            if self.mesh.rank == 0:
                self.directory.cut_metrics({})
            return False
        self.step = self._saved_step = saved.step
        self.samples, self.tokens = saved.shared["samples"], saved.shared["tokens"]
        self.seen = Counts(*saved.shared.get("seen", ()))  # checkpoints of earlier versions have none
        self.guard.load_state_dict(saved.shared["guard"])
        if saved.shared.get("unmeasured") is not None:
            self._unmeasured = StepReport.of_state(saved.shared["unmeasured"])
        self._data_state = saved.shared["data"]
        self.loader.load_state_dict(self._data_state)
        if self.mesh.rank == 0:
            self.directory.cut_metrics(saved.shared["metrics"])
        if saved.rank is not None:
            self.loader.counter.load_state_dict(saved.rank["skipped"])
            set_rng_state(saved.rank["random"])
        self.logger.begin_at(self.step)
        return True

    def train(self) -> bool:
        """Takes all remaining steps.

        Returns:
            Whether the run is at its end; `False` if it was asked to stop, and saved.

        Raises:
            TrainingDiverged: Too many steps had to be skipped.
            ValueError: Too many samples of a source are broken.
        """
        steps = self.recipe.schedule.steps
        keep_memory = memory_keeper() if self.mesh.device.type == "cpu" else lambda: None
        self.model.train()
        batches = self.loader.batches(steps - self.step)
        with stop_signal() as stopped, Watchdog(self.recipe.parallel.stall_timeout_s) as watch:
            if self._unmeasured is not None and not self._measure_and_report(self._unmeasured, watch, stopped):
                return False  # saved before
            while self.step < steps:
                began = time.perf_counter()
                watch.progress(self.step + 1, "data")
                batch = next(batches)
                waited = time.perf_counter() - began
                counts = reduce_counts(batch, stopped(), self.mesh)
                if counts.stop:
                    self._save_and_wait(watch)
                    return False
                watch.progress(self.step + 1, "compute")
                report = self._take_step(batch, counts, began, waited)
                if not self._measure_and_report(report, watch, stopped):
                    self._save_and_wait(watch)
                    return False
                keep_memory()
                self._save_if_due(watch)
            self._save_and_wait(watch)
        return True

    def _take_step(self, batch: RankBatch, counts: GlobalCounts, began: float, waited: float) -> StepReport:
        """Computes and clips the gradients of the global batch, and updates unless they or the loss are excessive."""
        settings = self.recipe.optimizer
        loss = accumulate_gradients(self.model, batch.micro_batches, counts, self.mesh, self.preparation, self.quality)
        norm = clip_gradients(list(self.optimizer.parameters.values()), settings.max_grad_norm).item()
        learning_rate = scheduled_learning_rate(self.step, settings, self.recipe.schedule)
        skipped = self.guard.reason_to_skip(self.step + 1, loss, norm)
        if skipped is None:
            self.optimizer.set_learning_rate(learning_rate)
            self.optimizer.step()
        else:
            self.logger.say(f"step {self.step + 1} is skipped: {skipped} (loss {loss:.4g}, gradient norm {norm:.4g})")
        self.optimizer.zero_grad()
        self.step += 1
        self.samples += counts.counts.samples
        self.tokens += counts.counts.tokens
        self.seen = self.seen.plus(counts.counts)
        self._data_state = self.loader.state_dict()
        seconds = time.perf_counter() - began
        checkpoint_seconds, self._checkpoint_seconds = self._checkpoint_seconds, 0.0
        return StepReport(
            step=self.step,
            loss=loss,
            gradient_norm=norm,
            learning_rate=learning_rate,
            counts=counts.counts,
            samples=self.samples,
            tokens=self.tokens,
            seconds=seconds,
            data_seconds=waited,
            skipped=skipped,
            mfu=self.utilization.share(counts.counts, seconds),
            memory_bytes=_memory(self.mesh.device),
            checkpoint_seconds=checkpoint_seconds,
        )

    def _measure_and_report(self, report: StepReport, watch: Watchdog, stopped: Callable[[], bool]) -> bool:
        """Reports a step, with scores if they are due after it. Training continues as if nothing had been measured.

        Returns:
            `False` if a rank was asked to stop on the way: the step is reported when the run resumes.
        """
        scores: Mapping[str, float] = {}
        if self.evaluator.is_due(self.step):
            watch.progress(self.step, "evaluation")
            before, tell = rng_state(), partial(self._measuring, watch)
            goes_on, self._unmeasured = self._unmeasured is not None, report
            try:
                found = self.evaluator.measure(self.model, self.step, self.preparation, tell, stopped, goes_on)
            except StopRequested:
                return False
            finally:
                set_rng_state(before)
                _memory(self.mesh.device)  # the next step reports its own peak
            self.logger.evaluation(self.step, found)
            scores = found.scores()
        self._unmeasured = None
        self.logger.step(report._replace(scores=scores))
        if self.on_step is not None:
            self.on_step(self.step)
        return True

    def _measuring(self, watch: Watchdog, number: int, task: str, done: int, share: int) -> None:
        watch.progress(self.step, "evaluation", (number + 1) * _MOST_SAMPLES + done - share)
        self.logger.evaluating(task, done, share)

    def _save_if_due(self, watch: Watchdog) -> None:
        if self.step % self.recipe.checkpoint.every == 0 and self.step < self.recipe.schedule.steps:
            watch.progress(self.step, "checkpoint")
            self._save()

    def _save(self) -> None:
        began = time.perf_counter()
        shared = {
            "data": self._data_state,
            "guard": self.guard.state_dict(),
            "samples": self.samples,
            "tokens": self.tokens,
            "seen": list(self.seen),
            "metrics": self.directory.metric_sizes(),
            "unmeasured": None if self._unmeasured is None else self._unmeasured.to_state(),
        }
        own: dict[str, Any] = {"random": rng_state(), "skipped": self.loader.counter.state_dict()}
        self.checkpoints.save(self.step, self.optimizer.named_state(), shared, own)
        self._saved_step = self.step
        self._checkpoint_seconds = time.perf_counter() - began

    def _save_and_wait(self, watch: Watchdog) -> None:
        watch.progress(self.step, "checkpoint")
        if self._saved_step != self.step:
            self._save()
        self.checkpoints.wait()


def _memory(device: torch.device) -> int:
    """The most bytes that a GPU held since the last call; on a CPU, what the process holds now."""
    if device.type != "cuda":
        return resident_bytes()
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak
