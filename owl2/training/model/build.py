"""Builds the model and processor at the first step of a recipe, with or without weights, and selects what trains."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from owl2.checkpoints import initialize, load_language_model, load_tokenizer
from owl2.checkpoints.convert import StoredModel, open_model
from owl2.checkpoints.initialize import text_config_from_language_model, vision_config_from_clip
from owl2.checkpoints.initialize_stored import open_new_model
from owl2.checkpoints.new_words import NewWords
from owl2.checkpoints.small_language_model import random_language_model, train_tokenizer
from owl2.checkpoints.text_half import llama_config
from owl2.checkpoints.visual_parts import copy_visual_parts, owl2_config_in
from owl2.modeling import (
    Owl2AbstractorConfig,
    Owl2Config,
    Owl2ForConditionalGeneration,
    Owl2TextConfig,
    Owl2VisionConfig,
)
from owl2.modeling.pretrained import read_generation_config
from owl2.processing import Owl2ImageProcessor, Owl2Processor
from owl2.training.recipe.model import Initialize, SmallLanguageModel
from owl2.training.recipe.optimization import TrainSettings
from owl2.training.recipe.schema import Recipe
from owl2.training.stages import select_trainable

_MODALITY_ADAPTIVE = ("norm", "k", "v")
"""The parts that the paper separates (section 3.3)."""


class MetaModel(NamedTuple):
    """A model known by its sizes alone.

    Attributes:
        config: The configuration at the first step.
        assumed: What could not be read, so that the paper's sizes are assumed for it.
    """

    config: Owl2Config
    assumed: list[str]

    def model(self) -> Owl2ForConditionalGeneration:
        """The model without weights (on the device "meta")."""
        with torch.device("meta"):
            return Owl2ForConditionalGeneration(self.config)


def meta_config(recipe: Recipe) -> MetaModel:
    """Reads the sizes of a recipe's model from the configurations of its checkpoints, not their weights.

    A directory that does not exist stands for the paper's model of that kind (LLaMA-2-7B, CLIP ViT-L/14, mPLUG-Owl2),
    so that a recipe can be inspected before anything is downloaded.

    Raises:
        ValueError: The parts do not fit each other, or modality_adaptive contradicts the checkpoint.
    """
    assumed: list[str] = []
    if recipe.model.initialize is not None:
        config = _new_config(recipe.model.initialize, _decoder_settings(recipe), assumed)
    elif _exists(recipe.model.checkpoint, "mPLUG-Owl2 as in the paper", assumed):
        config = Owl2Config.from_pretrained(recipe.model.checkpoint)
        _check_modality_adaptive(recipe, config)
        if recipe.model.new_words:
            words = NewWords.of(Owl2Processor.from_pretrained(recipe.model.checkpoint), recipe.model.new_words)
            config = words.config(config)
    else:
        decoder = _decoder_settings(recipe)
        config = Owl2Config(text_config={"modality_adaptive": decoder["modality_adaptive"], **decoder["controls"]})
    vision, size = config.vision_config, recipe.data.image_size
    if assumed and size % vision.patch_size:
        raise ValueError(
            f"{'; '.join(assumed)}, which do not fit data.image_size {size}: make first what this recipe begins with"
        )
    _check_image_size(size, vision.patch_size)
    if size != vision.image_size:
        vision.image_size, vision.position_grid_size = size, size // vision.patch_size
    return MetaModel(config, assumed)


def build_model(recipe: Recipe, texts: Iterable[str] = ()) -> tuple[Owl2ForConditionalGeneration, Owl2Processor]:
    """A new model with its weights in float32 on the host, and its processor.

    Args:
        texts: Texts from which the tokenizer of a small random language model is made.

    Raises:
        ValueError: A checkpoint is missing or does not fit.
    """
    initial, size = recipe.model.initialize, recipe.data.image_size
    assert initial is not None, "a checkpoint can stay stored"
    torch.manual_seed(recipe.seed)
    model, tokenizer = _initialize(initial, _decoder_settings(recipe), size, texts)
    _check_image_size(size, model.config.vision_config.patch_size)
    if size != model.config.vision_config.image_size:
        model.set_image_size(size)
    model.set_attn_implementation(recipe.model.attention)
    return model, processor_for(recipe, model.config, None, tokenizer)


def can_stay_stored(recipe: Recipe) -> bool:
    """Whether `open_stored_model` can read the recipe's model.

    Small random models, GGUF files and the visual parts of another mPLUG-Owl2 are put together in memory.
    """
    initial = recipe.model.initialize
    if initial is None:
        return True
    source, encoder = initial.language_model, initial.vision_encoder
    if isinstance(source, SmallLanguageModel) or not Path(source).is_dir():
        return False
    return encoder is None or (Path(encoder).is_dir() and owl2_config_in(encoder) is None)


def open_stored_model(recipe: Recipe) -> tuple[StoredModel, Owl2Processor]:
    """The model of a recipe for which `can_stay_stored`, whose weights are read when needed, and its processor.

    Raises:
        ValueError: A checkpoint is missing or does not fit.
    """
    torch.manual_seed(recipe.seed)
    initial, size = recipe.model.initialize, recipe.data.image_size
    if initial is not None:
        assert isinstance(initial.language_model, str), "it can stay stored"
        vision = {} if initial.vision is None else initial.vision.model_dump()
        model = open_new_model(
            initial.language_model,
            initial.vision_encoder,
            vision_config={**vision, "image_size": size},
            abstractor_config=initial.abstractor.model_dump(),
            connector=initial.connector,
            **_decoder_settings(recipe),
        )
        tokenizer = load_tokenizer(initial.language_model)
    else:
        assert recipe.model.checkpoint is not None, "a recipe has a checkpoint or initialize"
        _require_directory(recipe.model.checkpoint, "model.checkpoint")
        model, tokenizer = open_model(recipe.model.checkpoint, torch.float32), None
        _check_modality_adaptive(recipe, model.config)
    _check_image_size(size, model.config.vision_config.patch_size)
    return as_recipe_says(recipe, model, recipe.model.checkpoint, tokenizer)


def as_recipe_says(
    recipe: Recipe, model: StoredModel, directory: str | Path | None, tokenizer: Any = None
) -> tuple[StoredModel, Owl2Processor]:
    """A stored model at the resolution of a recipe and with its new words, and its processor.

    Args:
        directory, tokenizer: As in `processor_for`.
    """
    size = recipe.data.image_size
    if size != model.config.vision_config.image_size:
        model = model.with_image_size(size)
    processor = processor_for(recipe, model.config, directory, tokenizer)
    if recipe.model.new_words:
        words = NewWords.of(processor, recipe.model.new_words)
        return words.model(model), words.processor
    return model, processor


def build_meta_model(recipe: Recipe) -> tuple[Owl2ForConditionalGeneration, Owl2Processor]:
    """The model of a recipe with a checkpoint, with its weights unread on the device "meta", and its processor.

    Raises:
        ValueError: The checkpoint is missing or does not fit.
    """
    assert recipe.model.checkpoint is not None, "only what is stored can be described"
    torch.manual_seed(recipe.seed)
    _require_directory(recipe.model.checkpoint, "model.checkpoint")
    model = meta_config(recipe).model()
    model.generation_config = read_generation_config(Path(recipe.model.checkpoint)) or model.generation_config
    model.set_attn_implementation(recipe.model.attention)
    processor = processor_for(recipe, model.config, recipe.model.checkpoint)
    if recipe.model.new_words:
        processor = NewWords.of(processor, recipe.model.new_words).processor
    return model, processor


def apply_trainable(
    model: Owl2ForConditionalGeneration, settings: TrainSettings, quantize_for: torch.dtype | None = None
) -> None:
    """Freezes and unfreezes parts, and puts adapters and places for 4-bit weights into the model, in place.

    Args:
        quantize_for: Precision in which 4-bit weights compute, where the recipe asks for them in an empty model; `None`
            leaves weights as they are.

    Raises:
        ImportError: PEFT or bitsandbytes is needed and not installed.
        ValueError: A target of the adapters does not exist, or a layer cannot be kept in 4 bits.
    """
    select_trainable(model, settings.parts)
    if settings.quantization is not None and quantize_for is not None:
        from owl2.training.adapters.quantize import quantize_frozen_projections

        quantize_frozen_projections(model, quantize_for)
    if settings.lora is not None:
        from owl2.training.adapters.lora import apply_lora

        lora = settings.lora
        apply_lora(model, lora.rank, lora.alpha, lora.dropout, lora.targets)


def processor_for(
    recipe: Recipe, config: Owl2Config, directory: str | Path | None, tokenizer: Any = None
) -> Owl2Processor:
    """The processor of a recipe's model: images are read as the recipe says, each with as many rows as the model takes.

    Args:
        directory: Directory of the processor, which is read if no tokenizer is given.
        tokenizer: Tokenizer of a new model.
    """
    size = {"height": recipe.data.image_size, "width": recipe.data.image_size}
    own = {} if recipe.data.aspect is None else {"aspect": recipe.data.aspect}
    if tokenizer is None:
        processor = Owl2Processor.from_pretrained(directory, size=size, **own)
    else:
        processor = Owl2Processor(Owl2ImageProcessor(size=size, **own), tokenizer)
    processor.num_image_tokens = config.tokens_per_image  # with an MLP as connector it depends on the size
    return processor


def _decoder_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings of a new model's decoder beside the language model: copies for vision, if any, and controls."""
    settings = recipe.model
    separate = _MODALITY_ADAPTIVE if settings.modality_adaptive is None else settings.modality_adaptive
    return {"modality_adaptive": separate, "controls": settings.controls()}


def _initialize(
    settings: Initialize, decoder: dict[str, Any], size: int, texts: Iterable[str]
) -> tuple[Owl2ForConditionalGeneration, Any]:
    """A new model, and the tokenizer of its language model."""
    source = settings.language_model
    if isinstance(source, SmallLanguageModel):
        tokenizer: Any = train_tokenizer(texts, source.vocab_size)
        language_model: Any = random_language_model(source.model_dump(), tokenizer)
    else:
        _require_directory(source, "model.initialize.language_model")
        language_model, tokenizer = load_language_model(source), load_tokenizer(source)
    encoder, donor = settings.vision_encoder, None
    if encoder is not None:
        _require_directory(encoder, "model.initialize.vision_encoder")
        donor = owl2_config_in(encoder)
    vision: dict[str, Any] = {} if settings.vision is None else settings.vision.model_dump()
    model = initialize(
        language_model,
        encoder if donor is None else None,
        vision_config={**vision, "image_size": size} if donor is None else donor.vision_config,
        abstractor_config=settings.abstractor.model_dump(),
        connector=settings.connector,
        **decoder,
    )
    if encoder is not None and donor is not None:
        copy_visual_parts(model, encoder)
    return model, tokenizer


def _new_config(settings: Initialize, decoder: dict[str, Any], assumed: list[str]) -> Owl2Config:
    source = settings.language_model
    if isinstance(source, SmallLanguageModel):
        text = _text_config(LlamaConfig(**source.model_dump()), decoder)
    elif _exists(source, "LLaMA-2-7B", assumed):
        path = Path(source)
        options = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
        found = AutoConfig.from_pretrained(path.parent if options else path, **options)
        half = llama_config(found.text_config) if found.model_type == Owl2Config.model_type else found
        text = _text_config(half, decoder)
    else:
        text = Owl2TextConfig(modality_adaptive=decoder["modality_adaptive"], **decoder["controls"])
    vision = Owl2VisionConfig() if settings.vision is None else Owl2VisionConfig(**settings.vision.model_dump())
    if settings.vision_encoder is not None and _exists(settings.vision_encoder, "CLIP ViT-L/14", assumed):
        donor = owl2_config_in(settings.vision_encoder)
        clip = AutoConfig.from_pretrained(settings.vision_encoder)
        vision = vision_config_from_clip(clip) if donor is None else donor.vision_config
    abstractor = Owl2AbstractorConfig(**settings.abstractor.model_dump(), hidden_size=vision.hidden_size)
    return Owl2Config(
        vision_config=vision,
        abstractor_config=abstractor,
        text_config=text,
        tie_word_embeddings=text.tie_word_embeddings,
        connector=settings.connector,
    )


def _text_config(source: Any, decoder: dict[str, Any]) -> Owl2TextConfig:
    with torch.device("meta"):  # which biases there are is read off the parameters
        return text_config_from_language_model(AutoModelForCausalLM.from_config(source), **decoder)


def _check_image_size(size: int, patch: int) -> None:
    if size % patch:
        raise ValueError(f"data.image_size {size} is not a multiple of the vision encoder's patches of {patch} pixels")


def check_max_length(recipe: Recipe, config: Owl2Config) -> None:
    """Refuses a length of samples beyond the model's positions, or without room for text.

    Raises:
        ValueError: It is too long or too short; the message has both numbers.
    """
    length, rows, context = recipe.data.max_length, config.tokens_per_image, _context(config)
    if length <= rows:
        raise ValueError(f"data.max_length {length} leaves no room for text beside the {rows} rows of an image")
    if length > context:
        raise ValueError(f"data.max_length {length} is above the context of the model, {context} tokens: lower it")


def _context(config: Owl2Config) -> int:
    """The tokens of the context: more than `max_position_embeddings` where rotary positions are stretched."""
    positions, rope = config.text_config.max_position_embeddings, config.text_config.rope_parameters or {}
    stretched = rope.get("factor") or 1
    return max(positions, int(stretched * (rope.get("original_max_position_embeddings") or positions)))


def _check_modality_adaptive(recipe: Recipe, config: Owl2Config) -> None:
    wanted, found = recipe.model.modality_adaptive, config.text_config.modality_adaptive
    if wanted is not None and set(wanted) != set(found):
        raise ValueError(
            f"model.modality_adaptive is {list(wanted)}, but {recipe.model.checkpoint} has {list(found)}: "
            "start from a checkpoint that was pretrained so, or leave the key out"
        )
    for key, value in recipe.model.controls().items():
        if value != getattr(config.text_config, key):
            raise ValueError(
                f"model.{key} is {value!r}, but {recipe.model.checkpoint} has {getattr(config.text_config, key)!r}: "
                "start from a checkpoint that was pretrained so, or leave the key out"
            )


def _exists(path: str | None, kind: str, assumed: list[str]) -> bool:
    if path is not None and Path(path).exists():
        return True
    assumed.append(f"{path} was not found: the sizes of {kind} are assumed")
    return False


def _require_directory(path: str, key: str) -> None:
    if not Path(path).exists():
        raise ValueError(f"{key}: there is no {path}; point it to yours with {key}=DIR")
