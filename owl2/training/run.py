"""Runs a recipe: opens the data, builds the model, spreads it over the ranks, trains, and saves the result."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from owl2.data.skipped import SkipCounter, SkipLimit
from owl2.directory_lock import only_process_in
from owl2.training.adapters.resume import check_continuation
from owl2.training.checkpoint.manager import complete_steps
from owl2.training.cost.estimate import MACHINE_SIZE, recipe_cost
from owl2.training.cost.tables import cost_tables
from owl2.training.data.loader import BatchingConfig, Counts, StageDataLoader
from owl2.training.data.stage_data import StageData, open_stage_data
from owl2.training.distributed.broadcast_weights import broadcast_weights
from owl2.training.distributed.mesh import Mesh, build_mesh, process_group
from owl2.training.distributed.parallelize import parallelize
from owl2.training.model.build import apply_trainable, check_max_length, meta_config
from owl2.training.model.initial import load_initial_state
from owl2.training.model.parameter_table import as_json, as_rich, trainable_table
from owl2.training.model.save import save_final_model
from owl2.training.monitoring.benchmark_scores import BenchmarkScores, plan_tasks
from owl2.training.monitoring.evaluator import Evaluator
from owl2.training.monitoring.metrics_logger import MetricsLogger
from owl2.training.monitoring.validation_loss import open_validation_set
from owl2.training.recipe.schema import Recipe
from owl2.training.recipe.yaml_file import dump_recipe

from .optimizer import RecipeOptimizer
from .precision import fastest_training_dtype
from .run_directory import RunDirectory
from .trainer import Trainer


def train(recipe: Recipe, console: Console, on_step: Callable[[int], Any] | None = None) -> bool:
    """Trains a recipe, or resumes it.

    Args:
        recipe: The recipe.
        console: Where progress is shown.
        on_step: Called with the number of each step that was done and reported.

    Returns:
        Whether the run is finished; `False` if it was asked to stop (Ctrl-C, SIGTERM) and saved its state.

    Raises:
        ValueError: The recipe names no run directory, its directory holds another run or one that another process works
            on, or its data or checkpoints are missing or damaged.
    """
    if recipe.out is None:
        raise ValueError("the recipe has no run directory: give out=DIR")
    directory, parallel = RunDirectory(Path(recipe.out)), recipe.parallel
    with ExitStack() as held, process_group(parallel.stall_timeout_s) as device:
        # All ranks form one mesh. The first one looks at what is in the run directory, and keeps other processes out.
        sizes = (parallel.data_shards, parallel.replicas, parallel.tensor)
        mesh = build_mesh(device, *sizes, parallel.stall_timeout_s)
        found = mesh.broadcast_from_rank0(lambda: _look_into(directory, recipe, device, held))
        first_rank = mesh.rank == 0
        if found.is_finished:
            if first_rank:
                console.print(
                    f"{directory.path} holds the finished run of this recipe: {directory.model} is the model."
                )
            return True
        recipe = recipe.model_copy(update={"precision": found.precision})
        dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32

        # Data and benchmarks are opened before a model is read: what is missing there is known at once.
        data = open_stage_data(recipe, recipe.data.sources, directory.path)
        tasks = plan_tasks(recipe.evaluate.tasks, directory.predictions) if recipe.evaluate.every else []

        # The first rank reads the weights. Every rank makes the model without them, and chooses what trains.
        initial, weights = load_initial_state(recipe, directory, data, dtype, found.has_checkpoint, mesh)
        model, processor = initial.model(recipe, dtype), initial.processor
        table = trainable_table(model, recipe.optimizer)
        if first_rank:
            directory.begin(recipe, as_json(table))
            _introduce(recipe, data, mesh, console)
            console.print(as_rich(table, "What trains"))
        benchmarks = BenchmarkScores(tasks, model, processor, dtype, mesh) if tasks else None

        # The model is spread over the ranks, and each of them receives its share of the weights.
        parallelize(model, mesh, dtype, parallel.activation_checkpointing, parallel.compile)
        broadcast_weights(model, weights, mesh, frozen_only=found.has_checkpoint)

        # What updates it, what it learns from, and how it is measured on the way.
        optimizer = RecipeOptimizer(model, recipe.optimizer)
        counter = SkipCounter(SkipLimit(recipe.data.bad_share))
        share = (mesh.data_rank, mesh.data_size, recipe.data.workers)
        size = recipe.batch.global_batch_size
        loader = StageDataLoader(data, processor, BatchingConfig.of(recipe), size, counter, *share)
        validation = open_validation_set(recipe, directory.path, processor, mesh)
        evaluator = Evaluator(recipe.evaluate.every, validation, benchmarks, mesh)

        # The steps that are left after the newest checkpoint.
        steps, logging = recipe.schedule.steps, recipe.logging
        with MetricsLogger(directory, console, steps, logging.every, logging.tensorboard, first_rank) as logger:
            trainer = Trainer(recipe, directory, mesh, model, processor, optimizer, loader, evaluator, logger, on_step)
            if trainer.resume():
                logger.say(f"resumes after step {trainer.step} of {steps}")
            elif found.has_checkpoint:
                raise ValueError(f"the checkpoints in {directory.checkpoints} were removed while the run was starting")
            if not trainer.train():
                logger.say(f"stopped after step {trainer.step}; the same command resumes")
                return False

        # The model as one whole, on the first rank.
        if first_rank:
            _conclude(trainer.seen, data, console)
        save_final_model(model, processor, recipe, directory.model, mesh)
        if first_rank:
            console.print(f"finished: {directory.model} is the model", highlight=False)
    return True


def show(recipe: Recipe, console: Console) -> None:
    """Prints what a recipe would do: all its keys, what trains, and the cost. Nothing is loaded, opened or written.

    The cost is for the GPUs of the ranks that torchrun starts, or else for one machine with 8 GPUs.

    Raises:
        ValueError: The parts of the model do not fit each other.
    """
    console.print(dump_recipe(recipe), markup=False, highlight=False)
    sizes = meta_config(recipe)
    if not sizes.assumed:
        check_max_length(recipe, sizes.config)
    model = sizes.model()
    apply_trainable(model, recipe.train)
    adapter = recipe.model.adapter
    if adapter is not None and Path(adapter).exists():
        check_continuation(model, adapter)
    elif adapter is not None:
        console.print(f"{adapter} was not found: new adapters are assumed in its place", highlight=False)
    console.print(as_rich(trainable_table(model, recipe.optimizer), "What trains"))
    for shown in cost_tables(recipe_cost(recipe, int(os.environ.get("WORLD_SIZE", MACHINE_SIZE)))):
        console.print(shown)


class _Found(NamedTuple):
    """The contents of the run directory before anything is written there.

    Attributes:
        is_finished: Whether it holds the trained model.
        has_checkpoint: Whether there is a complete checkpoint to resume from.
        precision: Precision of the recipe; "auto" is decided as when the run began.
    """

    is_finished: bool
    has_checkpoint: bool
    precision: Literal["bf16", "fp32", "auto"]


def _look_into(directory: RunDirectory, recipe: Recipe, device: torch.device, held: ExitStack) -> _Found:
    directory.refuse_other(recipe)
    if not directory.is_finished:
        held.enter_context(only_process_in(directory.path))
    before, precision = directory.read_recipe(), recipe.precision
    if precision == "auto":
        is_bf16 = fastest_training_dtype(device) == torch.bfloat16
        precision = before.precision if before is not None else "bf16" if is_bf16 else "fp32"
    return _Found(directory.is_finished, bool(complete_steps(directory.checkpoints)), precision)


def _conclude(seen: Counts, data: StageData, console: Console) -> None:
    """Prints how much was learnt from, beside the contents of the sources."""
    held = "; ".join(
        f"{name} holds {size.images:,} pictures, {size.videos:,} videos, {size.answers:,} turns"
        for name, size in data.contents()
    )
    learnt = f"{seen.images:,} pictures, {seen.turns:,} turns, {seen.supervised:,} supervised tokens"
    console.print(f"learnt from {learnt}, frames and repeated samples included; {held}", highlight=False, markup=False)


def _introduce(recipe: Recipe, data: StageData, mesh: Mesh, console: Console) -> None:
    """Prints the recipe of the run, its data and its trained parts."""
    table = Table(
        title=f"{recipe.stage}: {recipe.schedule.steps:,} steps of {recipe.batch.global_batch_size:,} samples"
    )
    for heading in ("source", "samples", "share", "epochs"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    drawn = recipe.schedule.steps * recipe.batch.global_batch_size
    for name, size, share in data.describe():
        table.add_row(name, f"{size:,}", f"{share:.1%}", f"{drawn * share / size:.2f}")
    console.print(table)
    ranks = (
        "one process" if mesh.size == 1 else f"{mesh.size} ranks ({mesh.data_size} of data x {mesh.tensor} of tensors)"
    )
    console.print(f"{ranks} on {mesh.device.type}, {recipe.precision}, run directory {recipe.out}", highlight=False)
