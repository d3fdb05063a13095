"""A model directory in either layout, loaded for inference: model, processor, device."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError

from owl2.modeling import CheckpointError, Owl2ForConditionalGeneration
from owl2.processing.processor import Owl2Processor

from .inspect import checkpoint_layout


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
    directory: str | Path, dtype: str = "auto", device: str = "auto"
) -> tuple[Owl2ForConditionalGeneration, Owl2Processor]:
    """Model and processor of a directory in our or the official layout.

    Args:
        dtype: one of `DTYPES`; "auto" is the checkpoint's own.
        device: as torch names it; "auto" is the first GPU if there is one, else the CPU.

    Raises:
        ValueError: not a model directory; weights that do not fit or cannot be read; no tokenizer; no such device.
    """
    if dtype not in DTYPES:
        raise ValueError(f"There is no dtype {dtype!r}: choose among {', '.join(DTYPES)}.")
    checkpoint_layout(directory)
    path = Path(directory).expanduser()
    place = _device(device)
    processor = load_processor(directory)
    try:
        model = Owl2ForConditionalGeneration.from_pretrained(
            path, dtype=dtype if dtype == "auto" else getattr(torch, dtype)
        )
    except CheckpointError:
        raise
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"The weights in {directory} cannot be read: {error}") from error
    return model.to(place).eval(), processor


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
