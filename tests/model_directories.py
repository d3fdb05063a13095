"""Small models and adapters on disk."""

from pathlib import Path

import torch
from helpers import randomize

from owl2 import Owl2Config, Owl2ForConditionalGeneration, Owl2Processor


def wide_model(official: Path, directory: Path) -> Path:
    """Random weights like those of an official directory, whose widths are multiples of 32, as 4 bits need."""
    config = Owl2Config.from_pretrained(official)
    config.text_config.intermediate_size = 192
    randomize(Owl2ForConditionalGeneration(config)).save_pretrained(directory)
    Owl2Processor.from_pretrained(official).save_pretrained(directory)
    return directory


def adapter_on(base: Path, directory: Path) -> Path:
    """Random adapters on the language decoder, beside copies for vision and an abstractor that trained in full."""
    from owl2.training.adapters.lora import apply_lora, save_adapter
    from owl2.training.stages import select_trainable

    model = Owl2ForConditionalGeneration.from_pretrained(base)
    select_trainable(model, ("abstractor", "decoder_vision"))
    apply_lora(model, rank=4, alpha=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 20)
    save_adapter(model, directory, base)
    return directory
