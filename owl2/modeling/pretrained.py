"""What all parts of the model share: initialisation, capabilities, and strict loading from our and the official layout."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers import initialization as init

from .configuration import Owl2Config
from .modality_adaptive import ModalityAdaptiveRMSNorm


class CheckpointError(ValueError):
    """A checkpoint does not fit the model: the message names the keys."""


class Owl2PreTrainedModel(PreTrainedModel):
    config: Owl2Config
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _no_split_modules = ["Owl2VisionLayer", "Owl2AbstractorLayer", "Owl2DecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ModalityAdaptiveRMSNorm) and module.vision_weight is not None:
            init.ones_(module.vision_weight)
        std = self.config.get_text_config().initializer_range
        for name in ("class_embedding", "position_embedding", "learnable_queries", "end_of_image"):
            parameter = getattr(module, name, None)
            if isinstance(parameter, nn.Parameter):
                init.normal_(parameter, mean=0.0, std=std)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, strict: bool = True, **kwargs: Any) -> Any:
        """Loads our layout or the official one (flat `config.json`, safetensors or sharded `.bin`).

        Args:
            strict: refuse a checkpoint whose keys are not exactly the model's.

        Raises:
            CheckpointError: keys are missing, extra or of another shape, or the official position tables are not the
                computed ones.
        """
        # The layouts are a matter of owl2.checkpoints, which builds on the model.
        from owl2.checkpoints.conversion import is_official_checkpoint, load_official_checkpoint

        want_info = kwargs.pop("output_loading_info", False)
        official = is_official_checkpoint(pretrained_model_name_or_path, **_hub_arguments(kwargs))
        if official is None:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        else:
            config = kwargs.pop("config", None) or Owl2Config.from_pretrained(official)
            state_dict = load_official_checkpoint(official, config)
            model, info = super().from_pretrained(
                None, *args, config=config, state_dict=state_dict, output_loading_info=True, **kwargs
            )
            model.name_or_path = model.config._name_or_path = str(pretrained_model_name_or_path)
            _load_generation_config(model, official)
        if strict:
            _refuse_mismatch(pretrained_model_name_or_path, info, cls, kwargs.get("ignore_mismatched_sizes", False))
        return (model, info) if want_info else model

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Writes safetensors in our layout; `owl2.checkpoints.save_official` writes the official one."""
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, **kwargs)


def _hub_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: kwargs[key] for key in ("revision", "cache_dir", "local_files_only", "token") if key in kwargs}


def _load_generation_config(model: PreTrainedModel, directory: Path) -> None:
    if model.can_generate() and (directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_dict(
            json.loads((directory / "generation_config.json").read_text())
        )


def _refuse_mismatch(name: Any, info: dict[str, Any], cls: type, ignore_sizes: bool) -> None:
    problems = []
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in info.get(what) or [])
        if what == "unexpected_keys" and cls.__name__ != "Owl2ForConditionalGeneration":
            keys = []  # a part of the model loads from the checkpoint of the whole
        if keys and not (what == "mismatched_keys" and ignore_sizes):
            shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
            problems.append(f"{len(keys)} {what.replace('_', ' ')}: {shown}")
    if problems:
        raise CheckpointError(
            f"The checkpoint {name} does not fit {cls.__name__}: {'; '.join(problems)}. "
            "Pass strict=False to load it all the same; missing keys are then initialised at random."
        )
