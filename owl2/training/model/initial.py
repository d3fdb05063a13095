"""The initial state of a run: the first rank reads model and processor, and sends the others what they need."""

import shutil
from typing import NamedTuple

import torch
from transformers import GenerationConfig

from owl2.checkpoints.convert import StoredModel, write_model
from owl2.checkpoints.drawn_later import DrawnLater
from owl2.checkpoints.lazy_tensors import LazyState, in_precision
from owl2.modeling import Owl2Config, Owl2ForConditionalGeneration
from owl2.modeling.parts import PARTS
from owl2.processing import Owl2Processor
from owl2.training.adapters.resume import learned_parameters
from owl2.training.data.stage_data import StageData
from owl2.training.distributed.broadcast_weights import Weights, empty_model, weights_of
from owl2.training.distributed.mesh import Mesh
from owl2.training.recipe.model import SmallLanguageModel
from owl2.training.recipe.optimization import TrainSettings
from owl2.training.recipe.schema import Recipe
from owl2.training.run_directory import RunDirectory

from .build import apply_trainable, build_meta_model, build_model, can_stay_stored, check_max_length, open_stored_model
from .save import save_initial

_TOKENIZER_TEXTS = 4000
"""The number of samples of each source from which the tokenizer of a small random language model is made."""


class StoredWeights(NamedTuple):
    """Weights that the first rank reads one by one while it sends them."""

    tensors: LazyState

    def pop(self, name: str, /) -> torch.Tensor:
        return self.tensors[name].read()


class InitialState(NamedTuple):
    """The initial state without the weights, the same on every rank.

    Attributes:
        rng_state: State of torch's generator on the host when the model was made.
    """

    config: Owl2Config
    generation_config: GenerationConfig
    processor: Owl2Processor
    rng_state: torch.Tensor

    def model(self, recipe: Recipe, compute_dtype: torch.dtype) -> Owl2ForConditionalGeneration:
        """The model without weights, after `apply_trainable`; see `broadcast_weights`."""
        model = empty_model(self.config)
        model.generation_config = self.generation_config
        model.set_attn_implementation(recipe.model.attention)
        with torch.device("meta"):  # adapters
            apply_trainable(model, recipe.train, quantize_for=compute_dtype)
        torch.set_rng_state(self.rng_state)
        return model


def load_initial_state(
    recipe: Recipe, directory: RunDirectory, samples: StageData, dtype: torch.dtype, goes_on: bool, mesh: Mesh
) -> tuple[InitialState, Weights | None]:
    """Loads the initial state of a run and, on the first rank, the weights with the adapters.

    Where a checkpoint of the run holds all weights, because everything trains, none are read.

    Args:
        dtype: Precision in which a new model is stored in the run directory.
        goes_on: Whether there is a checkpoint of the run.

    Raises:
        ValueError: A checkpoint of a model is missing or does not fit, or samples have no room for text.
    """
    weights: Weights | None = None

    def read() -> InitialState:
        nonlocal weights
        began = _as_it_began(recipe, directory) if goes_on else recipe
        if goes_on and _trains_everything(recipe.train) and began.model.checkpoint is not None:
            model, processor = build_meta_model(began)
        elif can_stay_stored(began):
            stored, processor = open_stored_model(began)
            check_max_length(recipe, stored.config)
            if began.model.initialize is not None and not (goes_on and directory.initial.is_dir()):
                shutil.rmtree(directory.initial, ignore_errors=True)  # of a start that came to nothing
                in_dtype = stored._replace(tensors=in_precision(stored.tensors, dtype))
                write_model(in_dtype, directory.initial, finish=processor.save_pretrained)
            tensors = stored.tensors
            if recipe.train.lora is not None:
                tensors = _with_adapters(stored, recipe, goes_on)
            model, weights = stored.meta_model(), StoredWeights(tensors)
            model.generation_config = stored.generation_config
        else:
            model, processor = build_model(began, samples.texts(_TOKENIZER_TEXTS) if _is_small(began) else ())
            check_max_length(recipe, model.config)
            if began.model.initialize is not None and not (goes_on and directory.initial.is_dir()):
                shutil.rmtree(directory.initial, ignore_errors=True)  # of a start that came to nothing
                save_initial(model, processor, directory.initial, dtype)
            apply_trainable(model, recipe.train)
            weights = weights_of(model)
        return InitialState(model.config, model.generation_config, processor, torch.get_rng_state())

    return mesh.broadcast_from_rank0(read), weights


def _with_adapters(stored: StoredModel, recipe: Recipe, goes_on: bool) -> LazyState:
    """The parameters of a stored model after `apply_trainable`: as stored, and adapters that are drawn when read.

    What is drawn is what PEFT draws in a model in memory. Where training continues from an adapter folder, what that
    holds is read from there.
    """
    model = stored.meta_model()
    with DrawnLater() as drawn:
        apply_trainable(model, recipe.train)
    tensors = {
        name: drawn.lazy(parameter) if ".lora_" in name else stored.tensors[name.replace(".base_layer.", ".")]
        for name, parameter in model.named_parameters()
    }
    if recipe.model.adapter is not None and not goes_on:
        tensors |= learned_parameters(model, recipe.model.adapter)
    return tensors


def _as_it_began(recipe: Recipe, directory: RunDirectory) -> Recipe:
    """The recipe with the stored new model, so that what it was made from is no longer needed.

    This is not done for weights in 4 bits, which are made from float32: the stored model may be in bfloat16.
    """
    if not directory.initial.is_dir() or recipe.train.quantization is not None:
        return recipe
    stored = recipe.model.model_copy(update={"checkpoint": str(directory.initial), "initialize": None})
    return recipe.model_copy(update={"model": stored})


def _trains_everything(settings: TrainSettings) -> bool:
    return set(settings.parts) == set(PARTS)


def _is_small(recipe: Recipe) -> bool:
    initial = recipe.model.initialize
    return initial is not None and isinstance(initial.language_model, SmallLanguageModel)
