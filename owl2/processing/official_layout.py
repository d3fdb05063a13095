"""Reads what the processor needs from a checkpoint directory that another program wrote.

The official layout has a flat `config.json` with `visual_config`, a `tokenizer.model`, and maybe a
`preprocessor_config.json` of CLIP's image processor; none of them knows of our processor's settings.
"""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, cached_file

from .image_loading import read_file

_FILE_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_CLIP_SETTINGS = ("image_mean", "image_std", "resample", "rescale_factor", "do_rescale", "do_normalize", "do_resize")


def load_tokenizer(directory: Any, **kwargs: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint; a `tokenizer.model` alone is read as the LLaMA tokenizer that it is.

    transformers would read it without word-start marks or beginning-of-sequence token where the files beside it do not
    ask for them.
    """
    arguments = {name: kwargs[name] for name in _FILE_ARGUMENTS if kwargs.get(name) is not None}
    is_sentencepiece = _has_file(directory, "tokenizer.model", arguments)
    if is_sentencepiece and Path(directory, "tokenizer.model").is_file():
        read_file(Path(directory, "tokenizer.model"), "tokenizer")  # an empty one would be read without an error
    if is_sentencepiece and not _has_file(directory, "tokenizer.json", arguments):
        config = get_tokenizer_config(directory, **arguments)
        if config.get("tokenizer_class", "LlamaTokenizer") in ("LlamaTokenizer", "LlamaTokenizerFast"):
            kwargs.setdefault("add_bos_token", config.get("add_bos_token", True))
            return LlamaTokenizer.from_pretrained(directory, **kwargs)
    return AutoTokenizer.from_pretrained(directory, **kwargs)


def settings_from_model(directory: Any, **kwargs: Any) -> dict[str, Any]:
    """Processor settings from a model's own files: `num_image_tokens` and the settings of the image processor.

    Args:
        directory: A local directory or the name of a model on the hub.

    Returns:
        The settings that the files state, and no others.
    """
    arguments = {name: kwargs[name] for name in _FILE_ARGUMENTS if kwargs.get(name) is not None}
    image_settings: dict[str, Any] = {}
    if _has_file(directory, IMAGE_PROCESSOR_NAME, arguments):
        saved, _ = ImageProcessingMixin.get_image_processor_dict(directory, **arguments)
        image_settings = {name: saved[name] for name in (*_CLIP_SETTINGS, "size", "aspect") if name in saved}
    settings: dict[str, Any] = {"image_processor": image_settings}
    if not _has_file(directory, CONFIG_NAME, arguments):
        return settings
    config, _ = PreTrainedConfig.get_config_dict(directory, **arguments)
    if config.get("image_aspect_ratio") == "pad":  # the quality models; other values leave the official inference
        image_settings.setdefault("aspect", "pad")
    visual = config.get("visual_config", {})
    vision = visual.get("visual_model") or config.get("vision_config") or {}
    abstractor = visual.get("visual_abstractor") or config.get("abstractor_config") or {}
    if "image_size" in vision:
        image_settings["size"] = {"height": vision["image_size"], "width": vision["image_size"]}
    if "num_learnable_queries" in abstractor:
        settings["num_image_tokens"] = abstractor["num_learnable_queries"] + 1
    return settings


def _has_file(directory: Any, name: str, arguments: dict[str, Any]) -> bool:
    return cached_file(directory, name, _raise_exceptions_for_missing_entries=False, **arguments) is not None
