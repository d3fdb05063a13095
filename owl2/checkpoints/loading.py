"""A model directory in either layout, loaded for inference: model, processor, device."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from owl2.dtypes import check_dtype
from owl2.files import model_directory, read_json_object
from owl2.modeling import CheckpointError, Owl2ForConditionalGeneration
from owl2.processing.processor import Owl2Processor

from .adapter_folder import AdapterFolder, is_adapter_folder
from .adapters import load_adapter, merge_adapters
from .inspect import checkpoint_layout
from .int8_products import use_int8_products
from .official_adapter import is_official_adapter, load_official_adapter
from .quantized import quantized_settings


def load_processor(directory: str | Path) -> Owl2Processor:
    """The processor of a local model directory.

    Raises:
        ValueError: The directory has no tokenizer or processor, or one that is damaged.
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


def load_for_chat(
    directory: str | Path,
    dtype: str = "auto",
    device: str = "auto",
    base: str | Path | None = None,
    bits: int | None = None,
) -> tuple[Owl2ForConditionalGeneration, Owl2Processor]:
    """Model and processor of a directory in our or the official layout, or of an adapter of ours or the official code.

    Adapters are merged into the model; those of ours stay on top of one in 8 or 4 bits, as QLoRA trains them.

    Args:
        base: The model that an adapter was trained on; its processor is taken where the adapter has none.
        dtype: One of `owl2.dtypes.ComputeDtype`; "auto" is the checkpoint's own.
        device: As torch names it; "auto" is the first GPU if there is one, else the CPU.
        bits: Keep the language decoder in 8 or 4 bits.

    Raises:
        ImportError: PEFT for an adapter of ours, or a package for the bits, is not installed.
        ValueError: Not a model directory; weights that do not fit or cannot be read; no tokenizer; no such device; an
            adapter without a base, or a base for a whole model; bits that are not available.
    """
    check_dtype(dtype)
    path = model_directory(directory)
    is_official = is_official_adapter(path)
    _check_base(directory, base, is_adapter=is_official or is_adapter_folder(path))
    whole = path if base is None else model_directory(base)
    checkpoint_layout(whole)
    place = _device(device)
    settings: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if bits is not None:
        if is_official:
            raise ValueError(
                f"{directory} is an adapter of the official code, which is merged in full precision: owl2 merge-lora "
                f"{directory} OUT --base {base} makes a model that loads in {bits} bits"
            )
        in_full = [] if base is None else AdapterFolder(path).modules_in_full()
        own = None if dtype == "auto" else getattr(torch, dtype)
        settings |= quantized_settings(bits, whole, own, place, in_full)
    try:
        processor = load_processor(path) if base is None else processor_of_adapter(path, base)
        if is_official:
            model = load_official_adapter(path, whole, **settings)
        else:
            model = Owl2ForConditionalGeneration.from_pretrained(whole, **settings)
            if bits == 8:
                use_int8_products(model)
            if base is not None:
                model = _with_adapter(model, path, processor, merged=bits is None)
    except CheckpointError:
        raise
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"the weights in {directory} cannot be read: {error}") from error
    return (model.to(place) if bits is None else model).eval(), processor


def _check_base(directory: str | Path, base: str | Path | None, is_adapter: bool) -> None:
    if is_adapter and base is None:
        raise ValueError(
            f"{directory} is an adapter: name the model that it was trained on (--base DIR), or make one of both with "
            f"owl2 merge-lora {directory} OUT --base DIR"
        )
    if base is not None and not is_adapter:
        checkpoint_layout(directory)
        raise ValueError(f"{directory} is a whole model, which needs no base")


def _with_adapter(
    model: Owl2ForConditionalGeneration, directory: Path, processor: Owl2Processor, merged: bool
) -> Owl2ForConditionalGeneration:
    """The model with an adapter of ours, at the resolution of the processor, as `owl2 merge-lora` makes it."""
    model = load_adapter(model, directory)
    size = processor.image_processor.size["height"]
    if size != model.config.vision_config.image_size:
        model.set_image_size(size)
    return merge_adapters(model) if merged else model


def processor_of_adapter(directory: str | Path, base: str | Path) -> Owl2Processor:
    """The processor in the folder of an adapter; without a tokenizer there, that of its base with the folder's padding.

    Raises:
        ValueError: As `load_processor`.
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
        raise ValueError(f"the device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    if device.type == "meta":
        raise ValueError("the device 'meta' holds no values, so nothing can be computed there")
    return device
