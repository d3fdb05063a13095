"""Continues training from the adapter folder of an earlier run (`model.adapter` of a recipe)."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from owl2.checkpoints.adapter_folder import ADAPTER, PREFIX, WEIGHTS, AdapterFolder, name_in_folder, parameters_of
from owl2.checkpoints.convert import POSITIONS
from owl2.checkpoints.lazy_tensors import LazyState, in_precision, mapped, stored_tensors
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.modeling.parts import part_of
from owl2.modeling.positions import interpolate_positions

_KEYS = {"r": "rank", "lora_alpha": "alpha"}
"""The keys of `train.lora`, by PEFT's names."""

_MAY_DIFFER = (
    "target_modules",  # an expression: what it matched is compared
    "lora_dropout",
    "init_lora_weights",
    "modules_to_save",
    "inference_mode",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "auto_mapping",
    "peft_version",
)


def check_continuation(model: Owl2ForConditionalGeneration, directory: str | Path) -> None:
    """Refuses a folder from which a model with new adapters cannot continue. None of its weights are read.

    Args:
        model: As `apply_lora` leaves it; it may be on the device "meta".

    Raises:
        ImportError: PEFT is not installed.
        ValueError: The folder is not one of LoRA, is damaged, was made with other settings, for another base model, or
            holds a part that trained in full and is frozen in this model.
    """
    folder = AdapterFolder(directory)
    _check_same_settings(folder, model)
    folder.check_fit(model)
    frozen = _frozen_parts(folder, model)
    if frozen:
        parts = ", ".join(frozen)
        raise ValueError(
            f"{folder.path} holds weights of {parts} that trained in full, but train.parts leaves that out: add it, or "
            "merge the folder into its base (owl2 merge-lora) and continue from the result with new adapters"
        )


def learned_parameters(model: Owl2ForConditionalGeneration, directory: str | Path) -> LazyState:
    """What a folder holds, by the names of the parameters of a model with new adapters that continues from there.

    Values are in float32. The resolution stays that of the model: positions that were learned at another are
    interpolated.

    Args:
        model: As `apply_lora` leaves it; it may be on the device "meta".

    Raises:
        ImportError, ValueError: As `check_continuation`.
    """
    check_continuation(model, directory)
    stored = in_precision(stored_tensors([AdapterFolder(directory).path / WEIGHTS]), torch.float32)
    learned = {name.removeprefix(PREFIX): tensor for name, tensor in stored.items()}
    if POSITIONS in learned:
        vision = model.config.vision_config
        grid, prefix = (vision.position_grid_size,) * 2, int(vision.use_cls_token)
        learned[POSITIONS] = mapped(learned[POSITIONS], lambda table: interpolate_positions(table, grid, prefix))
    names = {name: name_in_folder(name) for name, _ in model.named_parameters()}
    return {name: learned[own] for name, own in names.items() if own in learned}


def _check_same_settings(folder: AdapterFolder, model: Owl2ForConditionalGeneration) -> None:
    """Raises where the adapters would differ from those in the folder; only their dropout may change."""
    there = {**folder.config().to_dict(), "targets": _targets(folder.shapes())}
    here = {**model.peft_config[ADAPTER].to_dict(), "targets": _targets(parameters_of(model))}
    names = [name for name in here if name not in _MAY_DIFFER and there.get(name) != here[name]]
    if names:
        told = [f"{_KEYS.get(name, name)} is {there.get(name)} there and {here[name]} in train.lora" for name in names]
        raise ValueError(
            f"the adapters in {folder.path} are not those of the recipe: {'; '.join(told)}. Adapters can only train on "
            "as they are; for others, merge the folder into its base first (owl2 merge-lora)"
        )


def _frozen_parts(folder: AdapterFolder, model: Owl2ForConditionalGeneration) -> list[str]:
    """The parts that are frozen, though the folder has weights of them.

    A folder holds whole modules: where the vision weight of a norm trained, it has the text weight too.
    """
    parameters, kinds = parameters_of(model), model.config.text_config.modality_adaptive
    trained = {name.rpartition(".")[0] for name, parameter in parameters.items() if parameter.requires_grad}
    frozen = [name for name in folder.shapes() if name.rpartition(".")[0] not in trained]
    return list(dict.fromkeys(part_of(name, kinds) for name in frozen))


def _targets(names: Iterable[str]) -> str:
    found = {match[1] for name in names if (match := re.search(r"\.(\w+)\.lora_A\.", name))}
    return ", ".join(sorted(found))
