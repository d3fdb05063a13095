"""A recipe from end to end: open the data, build the model, spread it over the ranks, train, and leave a checkpoint."""

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from owl2.data.skipped import SkipCounter, SkipLimit
from owl2.directory_lock import only_process_in
from owl2.modeling import Owl2Config
from owl2.processing import Owl2Processor
from owl2.training.adapters.resume import check_continuation
from owl2.training.checkpoint.manager import Checkpoints, complete_steps
from owl2.training.checkpoint.rng_state import rng_state, set_rng_state
from owl2.training.cost.estimate import MACHINE_SIZE, recipe_cost, trained_of
from owl2.training.cost.flops import Sample, sample_flops
from owl2.training.cost.gpu_specs import gpu_of_device
from owl2.training.cost.tables import cost_tables
from owl2.training.data.loader import BatchingConfig, Counts, StageDataLoader
from owl2.training.data.stage_data import StageData, open_stage_data
from owl2.training.distributed.broadcast_weights import broadcast_weights
from owl2.training.distributed.mesh import Mesh, build_mesh, process_group
from owl2.training.distributed.parallelize import parallelize
from owl2.training.model.build import apply_trainable, meta_config
from owl2.training.model.initial import load_initial_state
from owl2.training.model.parameter_table import as_json, as_rich, trainable_table
from owl2.training.model.save import save_final_model
from owl2.training.monitoring.benchmark_scores import BenchmarkScores, plan_tasks
from owl2.training.monitoring.metrics_logger import MetricsLogger
from owl2.training.monitoring.validation_loss import ValidationSet
from owl2.training.recipe.schema import Recipe
from owl2.training.recipe.yaml_file import dump_recipe

from .optimizer import MasterWeightAdamW, fastest_training_dtype
from .run_directory import RunDirectory
from .step import Normalization, reduce_counts
from .trainer import Run, Trainer


def train(recipe: Recipe, console: Console) -> bool:
    """Trains a recipe, or goes on with it.

    Returns:
        Whether the run is finished; `False` if it was asked to stop (Ctrl-C, SIGTERM) and saved its state.

    Raises:
        ValueError: the recipe names no run directory, its directory holds another run or one that another process works
            on, its data or checkpoints are not there or broken.
    """
    if recipe.out is None:
        raise ValueError("the recipe has no run directory: give out=DIR")
    directory = RunDirectory(Path(recipe.out))
    with ExitStack() as held, process_group(recipe.parallel.stall_timeout_s) as device:
        settings = recipe.parallel
        sizes = (settings.data_shards, settings.replicas, settings.tensor)
        mesh = build_mesh(device, *sizes, settings.stall_timeout_s)
        found = mesh.broadcast_from_rank0(lambda: _first_look(recipe, directory, mesh.device, held))
        if found.is_finished:
            if mesh.rank == 0:
                console.print(
                    f"{directory.path} holds the finished run of this recipe: {directory.model} is the model."
                )
            return True
        recipe = recipe.model_copy(update={"precision": found.precision})
        run, processor = _prepare(recipe, directory, mesh, console, found.goes_on)
        schedule, logging = recipe.schedule, recipe.logging
        with MetricsLogger(
            directory, console, schedule.steps, logging.every, logging.tensorboard, mesh.rank == 0
        ) as reporter:
            trainer = Trainer(run, reporter)
            if trainer.resume():
                reporter.say(f"goes on after step {trainer.step} of {schedule.steps}")
            elif found.goes_on:
                raise ValueError(f"the checkpoints in {directory.checkpoints} were removed while the run was starting")
            if not trainer.train():
                reporter.say(f"stopped after step {trainer.step}; the same command goes on")
                return False
        save_final_model(run.model, processor, recipe, directory.model, mesh)
        if mesh.rank == 0:
            console.print(f"finished: {directory.model} is the model", highlight=False)
    return True


def show(recipe: Recipe, console: Console) -> None:
    """Prints what a recipe would do: all its keys, what trains, and the cost. Nothing is loaded, opened or written.

    The cost is that on the GPUs that torchrun starts ranks for, or else on one machine with 8.

    Raises:
        ValueError: the parts of the model do not fit each other.
    """
    console.print(dump_recipe(recipe), markup=False, highlight=False)
    model = meta_config(recipe).model()
    apply_trainable(model, recipe.train)
    adapter = recipe.model.adapter
    if adapter is not None and Path(adapter).exists():
        check_continuation(model, adapter)
    elif adapter is not None:
        console.print(f"{adapter} is not there: adapters like new ones are assumed", highlight=False)
    console.print(as_rich(trainable_table(model, recipe.optimizer), "What trains"))
    for shown in cost_tables(recipe_cost(recipe, int(os.environ.get("WORLD_SIZE", MACHINE_SIZE)))):
        console.print(shown)


class _FirstLook(NamedTuple):
    """What is in the run directory before anything is written there.

    Attributes:
        goes_on: there is a complete checkpoint.
        precision: that of the recipe, with "auto" decided as when the run began.
    """

    is_finished: bool
    goes_on: bool
    precision: str


def _first_look(recipe: Recipe, directory: RunDirectory, device: torch.device, held: ExitStack) -> _FirstLook:
    directory.refuse_other(recipe)
    if not directory.is_finished:
        held.enter_context(only_process_in(directory.path))
    before, precision = directory.read_recipe(), recipe.precision
    if precision == "auto":
        fastest = "bf16" if fastest_training_dtype(device) == torch.bfloat16 else "fp32"
        precision = before.precision if before is not None else fastest
    return _FirstLook(directory.is_finished, bool(complete_steps(directory.checkpoints)), precision)


def _prepare(
    recipe: Recipe, directory: RunDirectory, mesh: Mesh, console: Console, goes_on: bool
) -> tuple[Run, Owl2Processor]:
    samples = open_stage_data(recipe, recipe.data.sources, directory.path)
    tasks = plan_tasks(recipe.evaluate.tasks, directory.predictions) if recipe.evaluate.every else []
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    beginning, weights = load_initial_state(recipe, directory, samples, dtype, goes_on, mesh)
    model = beginning.model(recipe, dtype)
    table = trainable_table(model, recipe.optimizer)
    if mesh.rank == 0:
        directory.begin(recipe, as_json(table))
        _introduce(recipe, samples, mesh, console)
        console.print(as_rich(table, "What trains"))
    benchmarks = BenchmarkScores(tasks, model, beginning.processor, dtype, mesh) if tasks else None
    parallel, settings = recipe.parallel, recipe.optimizer
    parallelize(model, mesh, dtype, parallel.activation_checkpointing, parallel.compile)
    broadcast_weights(model, weights, mesh, frozen_only=goes_on)
    optimizer = MasterWeightAdamW(
        model,
        settings.weight_decay,
        settings.vision_layer_decay,
        settings.language_lr_scale,
        settings.max_grad_norm,
        settings.betas,
        settings.eps,
    )
    processor = beginning.processor
    image_processor = processor.image_processor
    run = Run(
        recipe=recipe,
        directory=directory,
        mesh=mesh,
        model=model,
        optimizer=optimizer,
        stream=_stream(recipe, samples, processor, mesh),
        checkpoints=Checkpoints(directory.checkpoints, recipe.checkpoint.keep, recipe.checkpoint.asynchronous),
        held_out=_held_out(recipe, directory, processor, mesh),
        benchmarks=benchmarks,
        normalization=Normalization(tuple(image_processor.image_mean), tuple(image_processor.image_std)),
        pad_token_id=processor.tokenizer.pad_token_id,
        step_flops=partial(_step_flops, model.config, recipe),
        peak_flops=_peak_flops(mesh),
    )
    return run, processor


def _batching(recipe: Recipe) -> BatchingConfig:
    data = recipe.data
    row_length = (data.packing.length or data.max_length) if data.packing.enabled else None
    return BatchingConfig(recipe.batch.micro_batch_size, row_length, data.packing.buffer, recipe.parallel.compile)


def _stream(recipe: Recipe, samples: StageData, processor: Owl2Processor, mesh: Mesh) -> StageDataLoader:
    return StageDataLoader(
        samples,
        processor,
        _batching(recipe),
        recipe.batch.global_batch_size,
        SkipCounter(SkipLimit(recipe.data.bad_share)),
        mesh.data_rank,
        mesh.data_size,
        recipe.data.workers,
    )


def _held_out(recipe: Recipe, directory: RunDirectory, processor: Owl2Processor, mesh: Mesh) -> ValidationSet | None:
    settings = recipe.evaluate
    if not settings.every or not settings.sources:
        return None
    plain = recipe.model_copy(update={"data": recipe.data.model_copy(update={"augment": False})})
    before = rng_state()
    samples = open_stage_data(plain, settings.sources, directory.path)
    count = min(settings.samples, sum(size for _, size, _ in samples.describe()))
    counter = SkipCounter(SkipLimit(recipe.data.bad_share))
    stream = StageDataLoader(samples, processor, _batching(recipe), count, counter, mesh.data_rank, mesh.data_size)
    batch = next(stream.batches(1))
    set_rng_state(before)  # a run draws the same numbers whether it is evaluated or not
    counts = reduce_counts(batch, False, mesh).counts
    return ValidationSet(batch.micro_batches, counts.supervised, counts.samples)


def _step_flops(config: Owl2Config, recipe: Recipe, counts: Counts) -> float:
    """Operations of a step whose samples are all of the mean length."""
    count = max(1, counts.samples)
    text = counts.tokens - counts.images * config.tokens_per_image
    sample = Sample(text / count, counts.images / count, recipe.data.image_size, counts.supervised / count)
    return count * sample_flops(config, sample, trained_of(recipe)).total


def _peak_flops(mesh: Mesh) -> float | None:
    """bfloat16 operations a second of all GPUs of the run; `None` on a CPU and on a GPU that is not known."""
    gpu = gpu_of_device(torch.cuda.get_device_name(mesh.device)) if mesh.device.type == "cuda" else None
    return None if gpu is None else gpu.flops * mesh.size


def _introduce(recipe: Recipe, samples: StageData, mesh: Mesh, console: Console) -> None:
    """Says what the run is about."""
    table = Table(
        title=f"{recipe.stage}: {recipe.schedule.steps:,} steps of {recipe.batch.global_batch_size:,} samples"
    )
    for heading in ("source", "samples", "share", "epochs"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    drawn = recipe.schedule.steps * recipe.batch.global_batch_size
    for name, size, share in samples.describe():
        table.add_row(name, f"{size:,}", f"{share:.1%}", f"{drawn * share / size:.2f}")
    console.print(table)
    ranks = (
        "one process" if mesh.size == 1 else f"{mesh.size} ranks ({mesh.data_size} of data x {mesh.tensor} of tensors)"
    )
    console.print(f"{ranks} on {mesh.device.type}, {recipe.precision}, run directory {recipe.out}", highlight=False)
