"""The base of all parts of the model: initialisation, capabilities, strict loading from our and the official layout."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers import initialization as init

from owl2.files import WEIGHTS_MANIFEST, read_json_object

from .configuration import Owl2Config, require_token_ids
from .errors import CheckpointError
from .modality_adaptive import ModalityAdaptiveRMSNorm, ZeroLinear
from .official_checkpoint import (
    is_official_checkpoint,
    load_official_checkpoint,
    official_name,
)
from .stored_weights import check_indexes, first_line, refuse_far_larger


class Owl2PreTrainedModel(PreTrainedModel):
    config: Owl2Config
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities: tuple[str, ...] = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values", "cache"]
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
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
        std = self.config.get_text_config().initializer_range
        for name in ("class_embedding", "position_embedding", "learnable_queries", "end_of_image"):
            parameter = getattr(module, name, None)
            if isinstance(parameter, nn.Parameter):
                init.normal_(parameter, mean=0.0, std=std)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, strict: bool = True, **kwargs: Any) -> Any:
        """Loads our layout or the official one (flat `config.json`, safetensors or sharded `.bin`).

        Args:
            strict: Refuse a checkpoint whose keys are not exactly the model's.

        Raises:
            CheckpointError: Keys are missing, extra or of another shape, or the official position tables are not the
                computed ones.
        """
        name = pretrained_model_name_or_path
        want_info = kwargs.pop("output_loading_info", False)
        accept_sizes = kwargs.pop("ignore_mismatched_sizes", False)
        options = {**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}  # told by name below
        official = is_official_checkpoint(name, **_hub_arguments(kwargs))
        if official is None and name is not None:
            check_indexes(Path(name))
            read_generation_config(Path(name))  # transformers would pass over a damaged one
        if strict and not accept_sizes:
            cls._refuse_far_larger(Path(name) if official is None and name is not None else official, kwargs)
        try:
            if official is None:
                model, info = super().from_pretrained(name, *args, **options)
            else:
                config = options.pop("config", None) or Owl2Config.from_pretrained(official)
                state_dict = load_official_checkpoint(official, config)
                model, info = super().from_pretrained(None, *args, config=config, state_dict=state_dict, **options)
                model.name_or_path = model.config._name_or_path = str(name)
                _load_generation_config(model, official)
        except (SafetensorError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"the checkpoint {name} cannot be read: {first_line(error)}") from error
        refused = set() if accept_sizes else {"mismatched_keys"}
        if strict:
            refused |= {"missing_keys"} | ({"unexpected_keys"} if model.can_generate() else set())
        rename = (lambda key: official_name(key, model.config)) if official is not None else str
        _refuse_mismatch(f"the checkpoint {name} does not fit {cls.__name__}", info, refused, rename)
        return (model, info) if want_info else model

    @classmethod
    def _refuse_far_larger(cls, directory: Path | None, settings: dict[str, Any]) -> None:
        """Calls `refuse_far_larger` for a local folder whose weights are read as they are stored."""
        otherwise = ("state_dict", "subfolder", "variant", "gguf_file")
        if directory is None or any(settings.get(key) is not None for key in otherwise):
            return
        config = settings.get("config")
        if config is None and (directory / "config.json").is_file():
            config = Owl2Config.from_pretrained(directory)
        if isinstance(config, Owl2Config) and getattr(config, "quantization_config", None) is None:
            if directory.is_dir():
                refuse_far_larger(directory, config, cls)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Writes safetensors in our layout; `owl2.checkpoints.save_official` writes the official one."""
        kwargs.setdefault("save_original_format", False)
        (Path(save_directory) / WEIGHTS_MANIFEST).unlink(missing_ok=True)  # of weights that are replaced
        super().save_pretrained(save_directory, **kwargs)


def _hub_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: kwargs[key] for key in ("revision", "cache_dir", "local_files_only", "token") if key in kwargs}


def _load_generation_config(model: PreTrainedModel, directory: Path) -> None:
    settings = read_generation_config(directory)
    if model.can_generate() and settings is not None:
        model.generation_config = settings


def read_generation_config(directory: Path) -> GenerationConfig | None:
    """Settings of generation in a local folder, if it has any.

    Raises:
        CheckpointError: The file is damaged, or the id of a special token is not a number.
    """
    file = directory / "generation_config.json"
    if not file.is_file():
        return None
    settings = read_json_object(file, "settings", CheckpointError)
    require_token_ids(file, settings, CheckpointError)
    # Read once more: what transformers did not read itself it does not save as it was, as published folders need.
    return GenerationConfig.from_pretrained(directory)


def _refuse_mismatch(what: str, info: dict[str, Any], refused: set[str], rename: Callable[[str], str]) -> None:
    """Raises an error that names the keys of the refused kinds."""
    problems = []
    for kind in sorted(refused):
        keys = sorted({_describe(key, rename) for key in info.get(kind) or []})
        if keys:
            shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
            problems.append(f"{len(keys)} {kind.replace('_', ' ')}: {shown}")
    if problems:
        raise CheckpointError(
            f"{what}: {'; '.join(problems)}. With strict=False missing keys are initialised at random and unexpected "
            "ones left out, with ignore_mismatched_sizes=True keys of another shape are initialised at random"
        )


def _describe(key: Any, rename: Callable[[str], str]) -> str:
    """A key, or a key with the shapes of the checkpoint and of the model."""
    if isinstance(key, str):
        return rename(key)
    name, found, wanted = key
    return f"{rename(name)} {tuple(found)} instead of {tuple(wanted)}"
