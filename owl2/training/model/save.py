"""The models that a run keeps: the one it began with and, at its end, the trained one or its adapter folder."""

import copy
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import distributed as dist

from owl2.files import errors_name
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor
from owl2.training.distributed.broadcast_weights import gather_tensor
from owl2.training.distributed.mesh import Mesh
from owl2.training.recipe.schema import Recipe


def save_initial(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, directory: Path, dtype: torch.dtype
) -> None:
    """Writes a new model before anything trains. The directory appears when it is complete."""
    partial = directory.with_name(directory.name + ".partial")
    _save({name: tensor.to(dtype) for name, tensor in model.state_dict().items()}, model, partial, dtype)
    processor.save_pretrained(partial)
    partial.rename(directory)


def save_final_model(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, recipe: Recipe, directory: Path, mesh: Mesh
) -> None:
    """Writes the model, gathered from all ranks, and its processor. The directory appears when it is complete.

    Weights are written in the precision of the run.
    """
    partial = directory.with_name(directory.name + ".partial")
    if recipe.train.lora is not None:
        from owl2.training.adapters.lora import save_adapter

        base = recipe.model.checkpoint or directory.with_name("initial")
        save_adapter(model, partial, base, write=mesh.rank == 0)
    else:
        _save_whole(model, partial, torch.bfloat16 if recipe.precision == "bf16" else torch.float32, mesh)
    if mesh.rank == 0:
        with errors_name(partial):
            processor.save_pretrained(partial)
        partial.rename(directory)
    dist.barrier(group=mesh.host_group)


@torch.no_grad()
def _save_whole(model: Owl2ForConditionalGeneration, directory: Path, dtype: torch.dtype, mesh: Mesh) -> None:
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        whole = gather_tensor(tensor)  # every rank takes part
        if mesh.rank == 0:
            state[name] = whole.to("cpu", dtype)
    if mesh.rank == 0:
        _save(state, model, directory, dtype)


def _save(
    state: dict[str, torch.Tensor], model: Owl2ForConditionalGeneration, directory: Path, dtype: torch.dtype
) -> None:
    with torch.device("meta"):  # a plain model: sharding changes the class of the trained one
        plain = Owl2ForConditionalGeneration(copy.deepcopy(model.config))
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    plain.config.dtype = dtype
    plain.generation_config = model.generation_config
    try:
        with errors_name(directory):
            plain.save_pretrained(directory)
    except SafetensorError as error:  # as of a full disk, which it does not name
        raise OSError(f"the model {directory} cannot be written: {error}") from error
