"""An adapter folder and its base model to one plain model."""

from pathlib import Path

from owl2.checkpoints.inspect import checkpoint_layout
from owl2.checkpoints.loading import processor_of_adapter
from owl2.checkpoints.official_adapter import is_official_adapter, load_official_adapter
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor

from .lora import load_adapter, merge_adapters


def merge_lora(adapter: str | Path, base: str | Path, out: str | Path) -> Path:
    """Writes the model that `adapter` makes of `base`, with its processor, in our layout and the base's precision.

    The adapter is one of ours or of the official code (`owl2.checkpoints.official_adapter`), which needs no PEFT. The
    processor is that of the adapter folder, if it holds one: it knows the resolution of the training.

    Args:
        base: directory of the model that the adapter was trained on, in our or the official layout; of a model that
            was trained in 4 bits, the one in full precision.

    Returns:
        The directory `out`.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: the adapter does not fit the base, or `out` holds something.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: choose another directory for the merged model")
    checkpoint_layout(base)
    if is_official_adapter(adapter):
        processor = processor_of_adapter(adapter, base)
        load_official_adapter(adapter, base, dtype="auto").save_pretrained(out)
        processor.save_pretrained(out)
        return out
    model = Owl2ForConditionalGeneration.from_pretrained(base, dtype="auto")
    merge_adapters(load_adapter(model, adapter))
    with_processor = (Path(adapter) / "processor_config.json").is_file()
    processor = Owl2Processor.from_pretrained(adapter if with_processor else base)
    size = processor.image_processor.size["height"]
    if size != model.config.vision_config.image_size:
        model.set_image_size(size)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out
