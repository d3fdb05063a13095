"""From a training checkpoint to a directory that loads: a model in ours or the official layout, or an adapter folder.

A checkpoint holds what trains. The frozen rest is that of the model that the run began with: `RUN/initial`, or the
checkpoint that the recipe names.
"""

import re
from pathlib import Path
from typing import Literal

import torch

from owl2.checkpoints import save_official
from owl2.checkpoints.hub_code import write_hub_code
from owl2.checkpoints.loading import load_for_chat
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor
from owl2.training.checkpoint.manager import DamagedCheckpoint, complete_steps, describe_damage, directory_of
from owl2.training.checkpoint.safetensors_storage import damaged_files, read_index, read_tensors
from owl2.training.model.build import apply_trainable
from owl2.training.recipe.schema import Recipe

from .model_card import write_model_card
from .run_directory import RunDirectory

Layout = Literal["owl2", "official"]

_MASTER = ".master"
"""End of the name of a float32 weight in a checkpoint: see `RecipeOptimizer.named_state`."""


def export(
    source: Path,
    target: Path,
    step: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    layout: Layout = "owl2",
    hub_code: bool = False,
) -> int | None:
    """Writes the model of a run with its processor; needs no process group, however many ranks trained it.

    Of a run with LoRA it writes the adapter folder. A whole model gets a model card.

    Args:
        source: a run directory, one of its checkpoints, or a model directory.
        target: a new directory.
        step: which checkpoint of the run; by default the newest.
        layout: "official" is what the official code reads.
        hub_code: add the code, so that the model loads with `trust_remote_code=True` where owl2 is not installed.

    Returns:
        The step whose checkpoint was taken; None of a model directory.

    Raises:
        ValueError: `source` is no run and no model, has no such checkpoint, or a file of it is damaged; `target` is not
            empty; there is no official layout of such a model.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is there and not empty: choose a new directory.")
    if hub_code and layout == "official":
        raise ValueError("The code beside the weights reads our layout: leave out either --hub-code or the layout.")
    if _is_model(source):
        _refuse_step(source, step)
        model, processor = load_for_chat(source, str(dtype).removeprefix("torch."), "cpu")
        _save(model, processor, target, layout)
        _complete(target, layout, hub_code)
        return None
    run, step = _run_and_step(source, step)
    recipe = run.read_recipe()
    assert recipe is not None, "_run_and_step found it"
    if recipe.train.lora is not None and layout == "official":
        raise ValueError("The official layout has no adapters: export to ours, owl2 merge-lora, then save_official.")
    if recipe.train.lora is not None and hub_code:
        raise ValueError("An adapter takes no code: export it, owl2 merge-lora, then export the merged model.")
    model, processor = _initial(run, recipe, dtype)
    apply_trainable(model, recipe.train)
    load_trained(model, directory_of(run.checkpoints, step))
    if recipe.train.lora is not None:
        from owl2.training.adapters.lora import save_adapter

        save_adapter(model, target, recipe.model.checkpoint)
        processor.save_pretrained(target)
    else:
        _save(model, processor, target, layout)
        _complete(target, layout, hub_code, run, step)
    return step


def _is_model(source: Path) -> bool:
    return (source / "config.json").is_file() and not RunDirectory(source).recipe.is_file()


def _refuse_step(source: Path, step: int | None) -> None:
    if step is not None:
        raise ValueError(f"{source} is a model, which has no steps: leave --step out.")


def _save(model: Owl2ForConditionalGeneration, processor: Owl2Processor, target: Path, layout: Layout) -> None:
    if layout == "official":
        save_official(model, target)
    else:
        model.save_pretrained(target)
    processor.save_pretrained(target)


def _complete(
    target: Path, layout: Layout, hub_code: bool, run: RunDirectory | None = None, step: int | None = None
) -> None:
    """Adds the code, if it is wanted, and the model card."""
    if hub_code:
        write_hub_code(target)
    if layout == "owl2":
        write_model_card(target, run, step, hub_code)


@torch.no_grad()
def load_trained(model: torch.nn.Module, checkpoint: Path) -> None:
    """Puts the trained weights of a checkpoint into a model, in the model's precision.

    Raises:
        ValueError: a file is damaged, or what trains in the model is not what the checkpoint holds.
    """
    problems = damaged_files(checkpoint)
    if problems:
        raise DamagedCheckpoint(describe_damage(checkpoint, problems))
    trained = {name + _MASTER: p for name, p in model.named_parameters() if p.requires_grad}
    saved = {name: tuple(entry["shape"]) for name, entry in read_index(checkpoint).items() if name.endswith(_MASTER)}
    shapes = {name: tuple(parameter.shape) for name, parameter in trained.items()}
    different = sorted(name for name in saved.keys() | shapes.keys() if saved.get(name) != shapes.get(name))
    if different:
        raise ValueError(
            f"{checkpoint} does not fit the model of its run in {len(different)} parameters, among them "
            f"{different[0].removesuffix(_MASTER)}."
        )
    for name, tensor in read_tensors(checkpoint, saved).items():
        trained[name].copy_(tensor)


def _run_and_step(source: Path, step: int | None) -> tuple[RunDirectory, int]:
    """The run, and which of its complete checkpoints is meant."""
    checkpoint = re.fullmatch(r"step-(\d+)(\.partial)?", source.name) if source.is_dir() else None
    run = RunDirectory(source.resolve().parent.parent if checkpoint else source)
    if not run.recipe.is_file():
        raise ValueError(f"{source} is neither a run of owl2 train nor a checkpoint in one: there is no {run.recipe}.")
    if checkpoint and step is not None:
        raise ValueError(f"{source} is one checkpoint: give either it, or the run and --step.")
    steps = sorted(complete_steps(run.checkpoints))
    wanted = int(checkpoint[1]) if checkpoint else step if step is not None else max(steps, default=None)
    if wanted not in steps or (checkpoint and checkpoint[2]):
        listed = f"complete are those of the steps {', '.join(map(str, steps))}" if steps else "it has none"
        raise ValueError(
            f"{run.path} has no complete checkpoint {'' if wanted is None else f'of step {wanted}'}; {listed}."
        )
    return run, wanted


def _initial(
    run: RunDirectory, recipe: Recipe, dtype: torch.dtype
) -> tuple[Owl2ForConditionalGeneration, Owl2Processor]:
    """The model that the run began with, at the resolution of the run."""
    directory = run.initial if run.initial.is_dir() else recipe.model.checkpoint
    if directory is None or not Path(directory).is_dir():
        raise ValueError(f"{run.path} began with the model {directory}, which is not there any more.")
    size = recipe.data.image_size
    model = Owl2ForConditionalGeneration.from_pretrained(directory, dtype=dtype)
    if model.config.vision_config.image_size != size:
        model.set_image_size(size)
    own = {} if recipe.data.aspect is None else {"aspect": recipe.data.aspect}
    return model, Owl2Processor.from_pretrained(directory, size={"height": size, "width": size}, **own)
