"""Exports a training checkpoint as a directory that loads: a model in our or the official layout, or an adapter folder.

A checkpoint holds the trained weights. The frozen ones are those of the model that the run began with: `RUN/initial`,
or the checkpoint that the recipe names.
"""

import re
from functools import partial
from pathlib import Path

import torch

from owl2.checkpoints.convert import Layout, StoredModel, identities, open_model, write_model
from owl2.checkpoints.hub_code import write_hub_code
from owl2.checkpoints.lazy_tensors import LazyState, LazyTensor, in_precision
from owl2.checkpoints.loading import load_processor
from owl2.checkpoints.shards import Report
from owl2.processing import Owl2Processor
from owl2.training.checkpoint.manager import DamagedCheckpoint, complete_steps, describe_damage, directory_of
from owl2.training.checkpoint.safetensors_storage import damaged_files, read_index, read_tensors
from owl2.training.model.build import apply_trainable, as_recipe_says
from owl2.training.recipe.schema import Recipe

from .model_card import write_model_card
from .run_directory import RunDirectory

_MASTER = ".master"
"""The ending of the name of a float32 weight in a checkpoint: see `RecipeOptimizer.named_state`."""


def export(
    source: Path,
    target: Path,
    step: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    layout: Layout = "owl2",
    hub_code: bool = False,
    report: Report | None = None,
) -> int | None:
    """Writes the model of a run with its processor; needs no process group, however many ranks trained it.

    Weights go through memory shard by shard (`owl2.checkpoints.shards`), and an interrupted export is continued by
    the same call. For a run with LoRA it writes the adapter folder. A whole model gets a model card.

    Args:
        source: A run directory, one of its checkpoints, or a model directory.
        target: A new directory.
        step: Which checkpoint of the run; by default the newest.
        layout: "official" is what the official code reads.
        hub_code: Add the code, so that the model loads with `trust_remote_code=True` where owl2 is not installed.
        report: Called after each shard.

    Returns:
        The step whose checkpoint was taken; None for a model directory.

    Raises:
        ValueError: `source` is neither a run nor a model, has no such checkpoint, or a file of it is damaged; `target`
            is not empty; there is no official layout of such a model.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is there and not empty: choose a new directory")
    if hub_code and layout == "official":
        raise ValueError("the code beside the weights reads our layout: leave out either --hub-code or the layout")
    if _is_model(source):
        _refuse_step(source, step)
        model, processor = open_model(source, dtype), load_processor(source)
        _write(model, processor, source, target, layout, hub_code, report)
        return None
    run, step = _run_and_step(source, step)
    recipe = run.read_recipe()
    assert recipe is not None, "_run_and_step found it"
    if recipe.train.lora is not None and layout == "official":
        raise ValueError("the official layout has no adapters: export to ours, owl2 merge-lora, then export that")
    if recipe.train.lora is not None and hub_code:
        raise ValueError("an adapter takes no code: export it, owl2 merge-lora, then export the merged model")
    model, processor = _initial(run, recipe, dtype)
    checkpoint = directory_of(run.checkpoints, step)
    if recipe.train.lora is not None:
        _write_adapter(model, processor, recipe, checkpoint, target)
    else:
        trained = model.meta_model()
        apply_trainable(trained, recipe.train)
        tensors = model.tensors | in_precision(lazy_trained(trained, checkpoint), dtype)
        made_of = [*model.made_of, *identities(sorted(checkpoint.iterdir()))]
        model = model._replace(tensors=tensors, made_of=made_of)
        _write(model, processor, source, target, layout, hub_code, report, run, step)
    return step


def _is_model(source: Path) -> bool:
    return (source / "config.json").is_file() and not RunDirectory(source).recipe.is_file()


def _refuse_step(source: Path, step: int | None) -> None:
    if step is not None:
        raise ValueError(f"{source} is a model, which has no steps: leave --step out")


def _write(
    model: StoredModel,
    processor: Owl2Processor,
    source: Path,
    target: Path,
    layout: Layout,
    hub_code: bool,
    report: Report | None,
    run: RunDirectory | None = None,
    step: int | None = None,
) -> None:
    """Writes the model with its processor and, on request, the code and the model card."""

    def finish(folder: Path) -> None:
        processor.save_pretrained(folder)
        if hub_code:
            write_hub_code(folder)
        if layout == "owl2":
            write_model_card(folder, target.resolve().name, source, run, step, hub_code)

    write_model(model, target, layout, finish=finish, report=report)


def _write_adapter(
    initial: StoredModel, processor: Owl2Processor, recipe: Recipe, checkpoint: Path, target: Path
) -> None:
    """Writes the adapter folder of a run with LoRA; only weights of the folder are in memory."""
    from owl2.training.adapters.lora import parameters_of_folder, save_adapter

    model = initial.meta_model().to(next(iter(initial.tensors.values())).like.dtype)
    apply_trainable(model, recipe.train)
    trained = lazy_trained(model, checkpoint)
    for name, parameter in parameters_of_folder(model).items():
        values = (trained if name in trained else initial.tensors)[name].read()
        module, _, own = name.rpartition(".")
        filled = torch.nn.Parameter(values.to(parameter.dtype), parameter.requires_grad)
        setattr(model.get_submodule(module), own, filled)
    save_adapter(model, target, recipe.model.checkpoint)
    processor.save_pretrained(target)


def lazy_trained(model: torch.nn.Module, checkpoint: Path) -> LazyState:
    """The trained weights of a checkpoint in float32, by the names of the model's parameters.

    Args:
        model: The model after `apply_trainable`; it may be on the device "meta".

    Raises:
        ValueError: A file is damaged, or the trained weights of the model are not those of the checkpoint.
    """
    problems = damaged_files(checkpoint)
    if problems:
        raise DamagedCheckpoint(describe_damage(checkpoint, problems))
    shapes = {name + _MASTER: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    saved = {name: tuple(entry["shape"]) for name, entry in read_index(checkpoint).items() if name.endswith(_MASTER)}
    different = sorted(name for name in saved.keys() | shapes.keys() if saved.get(name) != shapes.get(name))
    if different:
        raise ValueError(
            f"{checkpoint} does not fit the model of its run in {len(different)} parameters, among them "
            f"{different[0].removesuffix(_MASTER)}"
        )
    return {
        name.removesuffix(_MASTER): LazyTensor(torch.empty(shape, device="meta"), partial(_read, checkpoint, name))
        for name, shape in saved.items()
    }


def _read(checkpoint: Path, name: str) -> torch.Tensor:
    return read_tensors(checkpoint, [name])[name]


def _run_and_step(source: Path, step: int | None) -> tuple[RunDirectory, int]:
    """The run, and the step of the complete checkpoint that is meant."""
    checkpoint = re.fullmatch(r"step-(\d+)(\.partial)?", source.name) if source.is_dir() else None
    run = RunDirectory(source.resolve().parent.parent if checkpoint else source)
    if not run.recipe.is_file():
        raise ValueError(f"{source} is neither a run of owl2 train nor a checkpoint in one: there is no {run.recipe}")
    if checkpoint and step is not None:
        raise ValueError(f"{source} is one checkpoint: give either it, or the run and --step")
    steps = sorted(complete_steps(run.checkpoints))
    wanted = int(checkpoint[1]) if checkpoint else step if step is not None else max(steps, default=None)
    if wanted not in steps or (checkpoint and checkpoint[2]):
        listed = f"complete are those of the steps {', '.join(map(str, steps))}" if steps else "it has none"
        raise ValueError(
            f"{run.path} has no complete checkpoint {'' if wanted is None else f'of step {wanted}'}; {listed}"
        )
    return run, wanted


def _initial(run: RunDirectory, recipe: Recipe, dtype: torch.dtype) -> tuple[StoredModel, Owl2Processor]:
    """The model that the run began with, at the resolution of the run and with its new words."""
    directory = run.initial if run.initial.is_dir() else recipe.model.checkpoint
    if directory is None or not Path(directory).is_dir():
        raise ValueError(f"{run.path} began with the model {directory}, which no longer exists")
    return as_recipe_says(recipe, open_model(directory, dtype), directory)
