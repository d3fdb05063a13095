"""A new mPLUG-Owl2 from a pretrained language model and, if given, a CLIP vision encoder (paper, section 4.1)."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from owl2.modeling import (
    CheckpointError,
    Owl2AbstractorConfig,
    Owl2Config,
    Owl2ForConditionalGeneration,
    Owl2TextConfig,
    Owl2VisionConfig,
)

from .text_half import text_half

LANGUAGE_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types that the language decoder reproduces: LLaMA-2, Llama-3 and SmolLM2 (`llama`), Mistral, Qwen2, Qwen3."""

_CLIP_NAMES = [
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.patch_embedding\.", "patch_embedding."),
    (r"^embeddings\.position_embedding\.weight$", "position_embedding"),
    (r"^pre_layrnorm\.", "pre_layernorm."),
    (r"^encoder\.layers\.", "layers."),
]


_ARMS = ("modality_adaptive", "routing", "routing_share", "routing_seed", "kv_adapter_rank")
"""Fields of `Owl2TextConfig` in which the arms of an ablation differ."""


def initialize(
    language_model: str | Path | PreTrainedModel,
    vision_encoder: str | Path | PreTrainedModel | None = None,
    *,
    vision_config: Owl2VisionConfig | dict[str, Any] | None = None,
    abstractor_config: Owl2AbstractorConfig | dict[str, Any] | None = None,
    modality_adaptive: tuple[str, ...] = ("norm", "k", "v"),
    controls: Mapping[str, Any] | None = None,
    connector: str = "abstractor",
    dtype: torch.dtype = torch.float32,
) -> Owl2ForConditionalGeneration:
    """Builds the model that stage 1 starts from.

    The decoder takes the language model's weights, and the vision copies of its norms and projections are copied from
    them. The visual abstractor is random, and so is the vision encoder unless one is given.

    Args:
        language_model: Directory of a LLaMA-family checkpoint, a `.gguf` file, or a loaded model.
        vision_encoder: Directory of a CLIP checkpoint (whole or vision part) or a loaded `CLIPVisionModel`.
        vision_config: Sizes of a random vision encoder; with `vision_encoder` it may only set `image_size`.
        abstractor_config: Sizes of the visual abstractor; its width is always the vision encoder's.
        modality_adaptive: Parts that get a copy for vision.
        controls: Further fields of `Owl2TextConfig` for controls of the module: `routing`, `kv_adapter_rank`, ...
        connector: "abstractor", or "mlp" as in LLaVA (`Owl2Config`).

    Raises:
        ValueError: The language model is not of the LLaMA family, the vision encoder is not a CLIP ViT, or the
            configurations contradict each other.
        CheckpointError: A checkpoint lacks weights.
    """
    if not isinstance(language_model, PreTrainedModel):
        language_model = load_language_model(language_model, dtype)
    clip = _load_clip(vision_encoder, dtype) if isinstance(vision_encoder, str | Path) else vision_encoder
    text = text_config_from_language_model(language_model, modality_adaptive, controls)
    clip_config = None if clip is None else clip.config
    model = _new_model(new_config(text, clip_config, vision_config, abstractor_config, connector)).to(dtype)
    _copy_language_model(model, language_model)
    if clip is not None:
        _copy_clip(model.model.vision_tower, clip)
        if "image_size" in (wanted := settings_given(vision_config)):
            model.set_image_size(wanted["image_size"])
    model.generation_config = language_model.generation_config
    return model


def new_config(
    text: Owl2TextConfig,
    clip: Any | None,
    vision_config: Owl2VisionConfig | dict[str, Any] | None,
    abstractor_config: Owl2AbstractorConfig | dict[str, Any] | None,
    connector: str = "abstractor",
) -> Owl2Config:
    """The configuration of a new model; a given vision encoder keeps its own resolution.

    Args:
        clip: Configuration of the vision encoder, if one is given.

    Raises:
        ValueError: The sizes contradict the vision encoder's, which is not a CLIP ViT, or each other.
    """
    wanted_vision = settings_given(vision_config)
    if clip is None:
        vision = Owl2VisionConfig(**wanted_vision)
    else:
        vision = vision_config_from_clip(clip)
        free = {"image_size", "position_grid_size"}
        contradicting = {key: value for key, value in wanted_vision.items() if value != getattr(vision, key, None)}
        if set(contradicting) - free:
            raise ValueError(
                f"the vision encoder's checkpoint decides its sizes, only image_size may be set: {contradicting}"
            )
    abstractor = Owl2AbstractorConfig(**{**settings_given(abstractor_config), "hidden_size": vision.hidden_size})
    return Owl2Config(
        vision_config=vision,
        abstractor_config=abstractor,
        text_config=text,
        tie_word_embeddings=text.tie_word_embeddings,
        connector=connector,
    )


def _new_model(config: Owl2Config) -> Owl2ForConditionalGeneration:
    """A random model whose vision encoder and abstractor begin as those of the paper's module under the same seed.

    The arms of an ablation are compared seed by seed, so what they share must begin alike, however many parameters
    their decoders have.
    """
    of_paper = config_of_paper(config)
    if of_paper is None:
        return Owl2ForConditionalGeneration(config)
    model = Owl2ForConditionalGeneration(of_paper)
    state = torch.get_rng_state()
    arm = Owl2ForConditionalGeneration(config)
    torch.set_rng_state(state)
    arm.model.vision_tower.load_state_dict(model.model.vision_tower.state_dict())
    arm.model.abstractor.load_state_dict(model.model.abstractor.state_dict())
    return arm


def config_of_paper(config: Owl2Config) -> Owl2Config | None:
    """The same model with the paper's module in place of an ablation's; `None` where it has that."""
    paper = Owl2TextConfig()
    if all(getattr(config.text_config, name) == getattr(paper, name) for name in _ARMS):
        return None
    settings = {name: value for name, value in config.text_config.to_dict().items() if name not in _ARMS}
    of_paper = copy.deepcopy(config)
    of_paper.text_config = Owl2TextConfig(**settings)
    return of_paper


def load_language_model(path: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Loads a causal language model from a directory or, dequantised, from a `.gguf` file.

    A directory of an mPLUG-Owl2 gives its text half.

    Raises:
        ValueError: The file does not exist.
        CheckpointError: The checkpoint lacks weights.
    """
    path = Path(path)
    if path.suffix != ".gguf":
        if AutoConfig.from_pretrained(path).model_type == Owl2Config.model_type:
            return text_half(Owl2ForConditionalGeneration.from_pretrained(path, dtype=dtype))
        return _load_whole(AutoModelForCausalLM, path, dtype=dtype)
    if not path.is_file():
        raise ValueError(f"the GGUF file {path} was not found")
    options: dict[str, Any] = {}
    try:  # since transformers 5.2x a GGUF model stays packed unless it is asked to unpack
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    except ImportError:
        pass
    return _load_whole(AutoModelForCausalLM, path.parent, gguf_file=path.name, dtype=dtype, **options).to(dtype)


def _load_clip(path: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    vision_config_from_clip(AutoConfig.from_pretrained(path))  # refuses other kinds, which would load at random
    return _load_whole(CLIPVisionModel, Path(path), dtype=dtype)


def _load_whole(model_class: Any, path: Path, **options: Any) -> PreTrainedModel:
    """Loads a checkpoint that has every weight: transformers initialises missing ones at random with only a warning."""
    model, info = model_class.from_pretrained(path, output_loading_info=True, **options)
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(f"the checkpoint {path} lacks {len(missing)} weights: {', '.join(missing[:8])}")
    return model


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Tokenizer of a language model: a directory or a `.gguf` file."""
    path = Path(path)
    if path.suffix == ".gguf":
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return AutoTokenizer.from_pretrained(path)


def text_config_from_language_model(
    model: PreTrainedModel, modality_adaptive: tuple[str, ...], controls: Mapping[str, Any] | None = None
) -> Owl2TextConfig:
    """The decoder's configuration for a LLaMA-family model; biases and q/k norms are read off its weights."""
    source = model.config
    if source.model_type not in LANGUAGE_MODEL_TYPES:
        raise ValueError(
            f"the language model is of type {source.model_type!r}, but the decoder reproduces only "
            f"{', '.join(LANGUAGE_MODEL_TYPES)}"
        )
    names = dict(model.named_parameters()).keys()
    sliding_window = getattr(source, "sliding_window", None)
    if getattr(source, "use_sliding_window", True) is False:
        sliding_window = None
    if sliding_window is not None and "full_attention" in (getattr(source, "layer_types", None) or []):
        raise ValueError("the language model mixes full and sliding attention, which the decoder does not reproduce")
    return Owl2TextConfig(
        vocab_size=source.vocab_size,
        hidden_size=source.hidden_size,
        intermediate_size=source.intermediate_size,
        num_hidden_layers=source.num_hidden_layers,
        num_attention_heads=source.num_attention_heads,
        num_key_value_heads=source.num_key_value_heads,
        head_dim=getattr(source, "head_dim", None),
        hidden_act=source.hidden_act,
        max_position_embeddings=source.max_position_embeddings,
        initializer_range=source.initializer_range,
        rms_norm_eps=source.rms_norm_eps,
        pad_token_id=source.pad_token_id,
        bos_token_id=source.bos_token_id,
        eos_token_id=source.eos_token_id,
        tie_word_embeddings=source.tie_word_embeddings,
        rope_parameters=dict(source.rope_parameters),
        attention_bias="model.layers.0.self_attn.q_proj.bias" in names,
        attention_output_bias="model.layers.0.self_attn.o_proj.bias" in names,
        mlp_bias="model.layers.0.mlp.gate_proj.bias" in names,
        qk_norm="model.layers.0.self_attn.q_norm.weight" in names,
        sliding_window=sliding_window,
        modality_adaptive=modality_adaptive,
        **(controls or {}),
    )


def vision_config_from_clip(source: Any) -> Owl2VisionConfig:
    """The vision encoder's configuration for a CLIP ViT (its own or the vision part of a whole CLIP).

    Raises:
        ValueError: The configuration is of another kind of model.
    """
    if source.model_type not in ("clip", "clip_vision_model"):
        raise ValueError(f"the vision encoder is of type {source.model_type!r}, but only a CLIP ViT can be read")
    source = getattr(source, "vision_config", source)
    return Owl2VisionConfig(
        hidden_size=source.hidden_size,
        intermediate_size=source.intermediate_size,
        num_hidden_layers=source.num_hidden_layers,
        num_attention_heads=source.num_attention_heads,
        num_channels=source.num_channels,
        image_size=source.image_size,
        patch_size=source.patch_size,
        hidden_act=source.hidden_act,
        layer_norm_eps=source.layer_norm_eps,
    )


@torch.no_grad()
def _copy_language_model(model: Owl2ForConditionalGeneration, source: PreTrainedModel) -> None:
    """The decoder's text half from the language model, and its vision half from the text half."""
    state = source.state_dict()
    core = {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
    core |= {copied: tensor for name, tensor in core.items() if (copied := vision_copy(name)) is not None}
    decoder = model.model.language_model
    adapters = {name: tensor for name, tensor in decoder.state_dict().items() if "_adapter." in name}  # as they began
    wanted = {name: tensor for name, tensor in core.items() if ".vision_" not in name or name in _names(decoder)}
    _load_exactly(decoder, wanted | adapters)
    if not model.config.tie_word_embeddings:
        _load_exactly(model.lm_head, {"weight": state["lm_head.weight"]})


def vision_copy(name: str) -> str | None:
    """Name of the parameter for vision that is copied from one of the language model, where the decoder may have it."""
    for own, twin in (
        (r"\.([qkv]_proj)\.", r".vision_\1."),
        (r"(layernorm)\.weight", r"\1.vision_weight"),
        (r"\.mlp\.", ".vision_mlp."),
    ):
        if re.search(own, name):
            return re.sub(own, twin, name)
    return None


@torch.no_grad()
def _copy_clip(vision_tower: nn.Module, source: PreTrainedModel) -> None:
    state = {name_from_clip(name): tensor for name, tensor in source.state_dict().items()}
    _load_exactly(vision_tower, {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")})


def name_from_clip(name: str) -> str:
    """Name in our vision encoder of a tensor of CLIP's."""
    name = name.removeprefix("vision_model.")
    for clip, ours in _CLIP_NAMES:
        name = re.sub(clip, ours, name)
    return name


def _load_exactly(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    missing, unexpected = module.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ValueError(f"the checkpoint does not fit: missing {missing[:5]}, unexpected {unexpected[:5]}")


def _names(module: nn.Module) -> set[str]:
    return set(module.state_dict())


def settings_given(config: Any) -> dict[str, Any]:
    """Settings that the caller gave: a dictionary, or the fields of a configuration that are not at their default."""
    if config is None:
        return {}
    if isinstance(config, dict):
        return {key: value for key, value in config.items() if key != "model_type"}
    default = type(config)()
    names = type(config).__annotations__
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(default, name)}
