"""A new mPLUG-Owl2 from stored parts as `initialize` makes it, without any of them in memory."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, LlamaForCausalLM

from owl2.modeling import CheckpointError, Owl2AbstractorConfig, Owl2Config, Owl2VisionConfig
from owl2.modeling.pretrained import read_generation_config
from owl2.modeling.stored_weights import weight_files
from owl2.processing import Owl2ImageProcessor, Owl2Processor

from .convert import HEAD, Layout, StoredModel, identities, open_model, require_weights_of, write_model
from .drawn_later import DrawnLater, random_parameters
from .initialize import (
    load_tokenizer,
    name_from_clip,
    new_config,
    settings_given,
    text_config_from_language_model,
    vision_copy,
)
from .lazy_tensors import LazyState, in_precision, stored_tensors
from .shards import SHARD_BYTES, Report
from .text_half import llama_config

_DECODER, _TOWER = "model.language_model.", "model.vision_tower."


def open_new_model(
    language_model: str | Path,
    vision_encoder: str | Path | None = None,
    *,
    vision_config: Owl2VisionConfig | dict[str, Any] | None = None,
    abstractor_config: Owl2AbstractorConfig | dict[str, Any] | None = None,
    modality_adaptive: tuple[str, ...] = ("norm", "k", "v"),
    controls: Mapping[str, Any] | None = None,
    connector: str = "abstractor",
    dtype: torch.dtype = torch.float32,
) -> StoredModel:
    """The model that `initialize` makes of the same arguments and the same seed, to be read tensor by tensor.

    Args:
        language_model: Directory of a LLaMA-family checkpoint, or of an mPLUG-Owl2, whose text half is taken.
        vision_encoder: Directory of a CLIP checkpoint, whole or its vision part.

    Raises:
        ValueError: As `initialize`; a GGUF file, which can only be unpacked in memory.
        CheckpointError: A checkpoint lacks weights.
    """
    path = Path(language_model).expanduser()
    if path.suffix == ".gguf":
        raise ValueError(f"{path} can only be unpacked in memory: use owl2.checkpoints.initialize")
    seed = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()
    language, generation, origin = _language_model(path)
    with torch.device("meta"):  # which biases there are is read off the parameters
        like = AutoModelForCausalLM.from_config(language)
        text = text_config_from_language_model(like, modality_adaptive, controls)
    clip = None if vision_encoder is None else AutoConfig.from_pretrained(Path(vision_encoder).expanduser())
    config = new_config(text, clip, vision_config, abstractor_config, connector)
    tensors = random_parameters(config)
    parts = _decoder(origin.tensors, like.state_dict().keys(), tensors.keys(), path)
    made_of = [seed, *origin.made_of]
    if vision_encoder is not None:
        files = weight_files(Path(vision_encoder).expanduser())
        parts |= _vision_tower(stored_tensors(files), tensors.keys(), vision_encoder)
        made_of += identities(files)
    random = {name: tensor for name, tensor in tensors.items() if name not in parts}
    model = StoredModel(config, generation, in_precision(random | parts, dtype), made_of)
    require_weights_of(config, model.tensors, f"What was made of {language_model} and {vision_encoder}")
    wanted = settings_given(vision_config)
    return model.with_image_size(wanted["image_size"]) if clip is not None and "image_size" in wanted else model


def _language_model(path: Path) -> tuple[Any, GenerationConfig, StoredModel]:
    """Configuration, settings of generation and weights of a directory."""
    config = AutoConfig.from_pretrained(path)
    if config.model_type == Owl2Config.model_type:
        whole = open_model(path)
        half = {
            name.replace(_DECODER, "model."): tensor
            for name, tensor in whole.tensors.items()
            if name == HEAD or (name.startswith(_DECODER) and ".vision_" not in name and "_adapter." not in name)
        }
        config = llama_config(whole.config.text_config)
        with DrawnLater():  # `text_half` draws weights before it fills them, and the generator goes on from there
            LlamaForCausalLM(config)
        return config, whole.generation_config, whole._replace(tensors=half)
    files = weight_files(path)
    generation = read_generation_config(path) or GenerationConfig.from_model_config(config)
    return config, generation, StoredModel(config, generation, stored_tensors(files), identities(files))


def _decoder(source: LazyState, needed: Any, ours: Any, path: Path) -> LazyState:
    """The decoder's text half from the language model, and its vision half from the text half.

    Raises:
        CheckpointError: The language model lacks weights.
    """
    tied = HEAD not in ours
    missing = [name for name in needed if name not in source and not (tied and name == HEAD)]
    if missing:
        raise CheckpointError(f"the checkpoint {path} lacks {len(missing)} weights: {', '.join(missing[:8])}")
    parts: LazyState = {}
    for name, tensor in source.items():
        if name not in needed or (tied and name == HEAD):
            continue  # such as the tables of rotary frequencies in old checkpoints
        own = name if name == HEAD else _DECODER + name.removeprefix("model.")
        copied = vision_copy(own)
        parts |= {target: tensor for target in (own, copied) if target is not None and target in ours}
    return parts


def _vision_tower(source: LazyState, ours: Any, path: str | Path) -> LazyState:
    """The vision encoder from CLIP.

    Raises:
        CheckpointError: The checkpoint lacks weights.
    """
    of_whole = {name: tensor for name, tensor in source.items() if name.startswith("vision_model.")}
    named = {_TOWER + name_from_clip(name): tensor for name, tensor in (of_whole or source).items()}
    missing = [name for name in ours if name.startswith(_TOWER) and name not in named]
    if missing:
        raise CheckpointError(f"the checkpoint {path} lacks {len(missing)} weights, among them that of {missing[0]}")
    return {name: tensor for name, tensor in named.items() if name in ours}


def initialize_in_shards(
    language_model: str | Path,
    vision_encoder: str | Path,
    target: str | Path,
    *,
    image_size: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    layout: Layout = "owl2",
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    report: Report | None = None,
    **settings: Any,
) -> None:
    """Writes the folder of a new model with its processor; an interrupted call is continued by the same call.

    Args:
        image_size: Resolution in pixels; by default the vision encoder's.
        seed: Seed of the parts that begin at random.
        report: Called after each shard.
        settings: Further arguments of `open_new_model`.

    Raises:
        ValueError: As `open_new_model` and `write_model`.
    """
    torch.manual_seed(seed)
    vision = {} if image_size is None else {"image_size": image_size}
    model = open_new_model(language_model, vision_encoder, vision_config=vision, dtype=dtype, **settings)
    size = model.config.vision_config.image_size
    images = Owl2ImageProcessor(size={"height": size, "width": size})
    rows = model.config.tokens_per_image
    processor = Owl2Processor(images, load_tokenizer(language_model), num_image_tokens=rows)
    write_model(model, target, layout, finish=processor.save_pretrained, shard_bytes=shard_bytes, report=report)
