"""A model directory in either layout, loaded for inference: model, processor, device."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from owl2.files import read_json_object
from owl2.modeling import CheckpointError, Owl2ForConditionalGeneration
from owl2.processing.processor import Owl2Processor

from .inspect import checkpoint_layout
from .official_adapter import load_official_adapter


def load_processor(directory: str | Path) -> Owl2Processor:
    """The processor of a local model directory.

    Raises:
        ValueError: it has no tokenizer or processor, or one that is damaged.
    """
    try:
        return Owl2Processor.from_pretrained(Path(directory).expanduser())
    except Exception as error:  # transformers and tokenizers raise many kinds on files that are missing or damaged
        raise ValueError(f"{directory} has no tokenizer or processor that can be read: {error}") from error


def prompt_of(directory: str | Path) -> str | None:
    """How a question about one image is put to the model, `...` for its text; `None` without a readable tokenizer."""
    try:
        processor = load_processor(directory)
    except ValueError:
        return None
    parts = [{"type": "image"}, {"type": "text", "text": "..."}]
    return processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)


DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_for_chat(
    directory: str | Path, dtype: str = "auto", device: str = "auto", base: str | Path | None = None
) -> tuple[Owl2ForConditionalGeneration, Owl2Processor]:
    """Model and processor of a directory in our or the official layout, or of an adapter of the official code.

    Args:
        base: of an adapter, the model that it was trained on; the processor is the base's where the adapter has none.
        dtype: one of `DTYPES`; "auto" is the checkpoint's own.
        device: as torch names it; "auto" is the first GPU if there is one, else the CPU.

    Raises:
        ValueError: not a model directory; weights that do not fit or cannot be read; no tokenizer; no such device; an
            adapter without a base, or a base for a whole model.
    """
    if dtype not in DTYPES:
        raise ValueError(f"There is no dtype {dtype!r}: choose among {', '.join(DTYPES)}.")
    is_adapter = checkpoint_layout(directory) == "official adapter"
    if is_adapter != (base is not None):
        raise ValueError(
            f"{directory} is an adapter: name the model that it was trained on (--base DIR)."
            if is_adapter
            else f"{directory} is a whole model, which needs no base."
        )
    place = _device(device)
    settings: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    try:
        if base is not None:
            checkpoint_layout(base)
            processor = processor_of_adapter(directory, base)
            model = load_official_adapter(directory, Path(base).expanduser(), **settings)
        else:
            processor = load_processor(directory)
            model = Owl2ForConditionalGeneration.from_pretrained(Path(directory).expanduser(), **settings)
    except CheckpointError:
        raise
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"The weights in {directory} cannot be read: {error}") from error
    return model.to(place).eval(), processor


def processor_of_adapter(directory: str | Path, base: str | Path) -> Owl2Processor:
    """The processor in the folder of an official adapter; where it has no tokenizer, its base's with its own padding.

    Raises:
        ValueError: as `load_processor`.
    """
    path = Path(directory).expanduser()
    if any((path / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        return load_processor(path)
    processor = load_processor(base)
    config = path / "config.json"
    if config.is_file() and read_json_object(config, "the settings of a model").get("image_aspect_ratio") == "pad":
        processor.image_processor.aspect = "pad"
    return processor


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"The device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    if device.type == "meta":
        raise ValueError("The device 'meta' holds no values, so nothing can be computed there.")
    return device
