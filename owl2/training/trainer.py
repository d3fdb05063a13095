"""The training loop of a recipe: steps, reports, checkpoints, evaluations, a clean stop, and going on from there."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.training.checkpoint.manager import Checkpoints
from owl2.training.checkpoint.rng_state import rng_state, set_rng_state
from owl2.training.data.loader import Counts, RankBatch, StageDataLoader, empty_micro_batch
from owl2.training.distributed.gradient_clipping import clip_gradients
from owl2.training.distributed.mesh import Mesh
from owl2.training.monitoring.benchmark_scores import BenchmarkScores
from owl2.training.monitoring.loss_spikes import LossSpikeGuard
from owl2.training.monitoring.metrics_logger import Evaluation, MetricsLogger, StepReport
from owl2.training.monitoring.process_memory import memory_keeper, resident_bytes
from owl2.training.monitoring.validation_loss import ValidationSet, validation_loss
from owl2.training.monitoring.watchdog import Watchdog
from owl2.training.recipe.schema import Recipe

from .optimizer import MasterWeightAdamW, cosine_rate
from .run_directory import RunDirectory
from .step import GlobalCounts, Normalization, accumulate_gradients, reduce_counts
from .stop_signal import stop_signal

_MOST_SAMPLES = 10**9
"""More than a benchmark has: sets the parts of one benchmark apart from those of the next."""


class Run(NamedTuple):
    """Everything that a run needs, built from its recipe.

    Attributes:
        held_out: samples of the held-out loss, if the recipe asks for it.
        step_flops: floating point operations of a step with these counts, over all ranks.
        peak_flops: of all devices of the run together a second; `None` where that is not known.
        benchmarks: those of the evaluation, if the recipe asks for some.
    """

    recipe: Recipe
    directory: RunDirectory
    mesh: Mesh
    model: Owl2ForConditionalGeneration
    optimizer: MasterWeightAdamW
    stream: StageDataLoader
    checkpoints: Checkpoints
    held_out: ValidationSet | None
    normalization: Normalization
    pad_token_id: int
    step_flops: Callable[[Counts], float]
    peak_flops: float | None
    benchmarks: BenchmarkScores | None = None


class Trainer:
    """Takes the steps of a run.

    Attributes:
        step: optimizer steps that were done, those included that were skipped.
    """

    def __init__(self, run: Run, reporter: MetricsLogger) -> None:
        self.run, self.reporter = run, reporter
        limits = run.recipe.limits
        self.guard = LossSpikeGuard(limits.spike_factor, limits.skipped_in_a_row, limits.skipped_in_all)
        self.step = self.samples = self.tokens = 0
        self._data_state = run.stream.state_dict()
        self._saved_step: int | None = None
        self._checkpoint_seconds = 0.0  # between the last step and the next

    def resume(self) -> bool:
        """Goes on from the newest checkpoint, if there is one.

        Raises:
            DamagedCheckpoint: it cannot be used.
        """
        run = self.run
        saved = run.checkpoints.load_latest(run.optimizer.named_state())
        if saved is None:
            if run.mesh.rank == 0:
                run.directory.cut_metrics({})
            return False
        run.optimizer.restored()
        self.step = self._saved_step = saved.step
        self.samples, self.tokens = saved.shared["samples"], saved.shared["tokens"]
        self.guard.load_state_dict(saved.shared["guard"])
        run.stream.load_state_dict(saved.shared["data"])
        self._data_state = saved.shared["data"]
        if run.mesh.rank == 0:
            run.directory.cut_metrics(saved.shared["metrics"])
        if saved.rank is not None:
            run.stream.counter.load_state_dict(saved.rank["skipped"])
            set_rng_state(saved.rank["random"])
        self.reporter.begin_at(self.step)
        return True

    def train(self) -> bool:
        """Takes all steps that are left.

        Returns:
            Whether the run is at its end; `False` if it was asked to stop, and saved.

        Raises:
            TrainingDiverged: too many steps had to be skipped.
            ValueError: too many samples of a source are broken.
        """
        run, recipe = self.run, self.run.recipe
        steps = recipe.schedule.steps
        keep_memory = memory_keeper() if run.mesh.device.type == "cpu" else lambda: None
        run.model.train()
        batches = run.stream.batches(steps - self.step)
        with stop_signal() as stopped, Watchdog(recipe.parallel.stall_timeout_s) as watch:
            while self.step < steps:
                began = time.perf_counter()
                watch.progress(self.step + 1, "data")
                batch = next(batches)
                waited = time.perf_counter() - began
                agreed = reduce_counts(batch, stopped(), run.mesh)
                if agreed.stop:
                    self._save_and_wait(watch)
                    return False
                watch.progress(self.step + 1, "compute")
                report = self._take_step(batch, agreed, began, waited)
                self.reporter.step(report._replace(scores=self._evaluate(watch)))
                keep_memory()
                self._save_if_due(watch)
            self._save_and_wait(watch)
        return True

    def _take_step(self, batch: RankBatch, agreed: GlobalCounts, began: float, waited: float) -> StepReport:
        run, recipe = self.run, self.run.recipe
        empty_batch = empty_micro_batch(run.pad_token_id, run.stream.batching.few_shapes)
        loss = accumulate_gradients(
            run.model,
            batch.micro_batches,
            agreed.micro_batches,
            empty_batch,
            agreed.counts.supervised,
            run.mesh,
            run.normalization,
        )
        settings, schedule = recipe.optimizer, recipe.schedule
        rate = cosine_rate(
            self.step, schedule.steps, schedule.warmup_steps, settings.learning_rate, settings.min_learning_rate
        )
        norm = run.optimizer.clip(clip_gradients).item()
        skipped = self.guard.reason_to_skip(self.step + 1, loss, norm)
        if skipped is None:
            run.optimizer.update(rate)
        else:
            run.optimizer.clear()
            self.reporter.say(f"step {self.step + 1} is skipped: {skipped} (loss {loss:.4g}, gradient norm {norm:.4g})")
        self.step += 1
        self.samples += agreed.counts.samples
        self.tokens += agreed.counts.tokens
        self._data_state = run.stream.state_dict()
        return self._report(agreed.counts, loss, norm, rate, skipped, time.perf_counter() - began, waited)

    def _report(
        self, counts: Counts, loss: float, norm: float, rate: float, skipped: str | None, seconds: float, waited: float
    ) -> StepReport:
        run = self.run
        peak = run.peak_flops
        stood_still, self._checkpoint_seconds = self._checkpoint_seconds, 0.0
        return StepReport(
            step=self.step,
            loss=loss,
            gradient_norm=norm,
            learning_rate=rate,
            counts=counts,
            samples=self.samples,
            tokens=self.tokens,
            seconds=seconds,
            data_seconds=waited,
            skipped=skipped,
            mfu=None if peak is None else run.step_flops(counts) / seconds / peak,
            memory_bytes=_memory(run.mesh.device),
            checkpoint_seconds=stood_still,
        )

    def _evaluate(self, watch: Watchdog) -> dict[str, float]:
        """Scores, if they are due after this step. Training goes on as if nothing had been measured."""
        run, every = self.run, self.run.recipe.evaluate.every
        if not every or self.step % every != 0:
            return {}
        watch.progress(self.step, "evaluation")
        before = rng_state()
        held_out, tasks = None, {}
        if run.held_out is not None:
            held_out = validation_loss(run.model, run.held_out, run.pad_token_id, run.mesh, run.normalization)
        if run.benchmarks is not None:
            tasks = run.benchmarks.measure(run.model, self.step, partial(self._measuring, watch))
        set_rng_state(before)
        _memory(run.mesh.device)  # the next step reports its own peak
        found = Evaluation(held_out, tasks)
        self.reporter.evaluation(self.step, found)
        return found.scores()

    def _measuring(self, watch: Watchdog, number: int, task: str, done: int, share: int) -> None:
        watch.progress(self.step, "evaluation", (number + 1) * _MOST_SAMPLES + done - share)
        self.reporter.evaluating(task, done, share)

    def _save_if_due(self, watch: Watchdog) -> None:
        recipe = self.run.recipe
        if self.step % recipe.checkpoint.every == 0 and self.step < recipe.schedule.steps:
            watch.progress(self.step, "checkpoint")
            self._save()

    def _save(self) -> None:
        began, run = time.perf_counter(), self.run
        shared = {
            "data": self._data_state,
            "guard": self.guard.state_dict(),
            "samples": self.samples,
            "tokens": self.tokens,
            "metrics": run.directory.metric_sizes(),
        }
        own: dict[str, Any] = {"random": rng_state(), "skipped": run.stream.counter.state_dict()}
        run.checkpoints.save(self.step, run.optimizer.named_state(), shared, own)
        self._saved_step = self.step
        self._checkpoint_seconds = time.perf_counter() - began

    def _save_and_wait(self, watch: Watchdog) -> None:
        watch.progress(self.step, "checkpoint")
        if self._saved_step != self.step:
            self._save()
        self.run.checkpoints.wait()


def _memory(device: torch.device) -> int:
    """Most bytes that a GPU held since the last call; on a CPU what the process holds now."""
    if device.type != "cuda":
        return resident_bytes()
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak
