"""A tiny model with adapters that are trained a little."""

import torch
from helpers import IMAGE, batch, sample, tiny_model
from torch import nn

from owl2 import Owl2ForConditionalGeneration
from owl2.training.adapters.lora import apply_lora
from owl2.training.stages import select_trainable

VISION = ("vision_encoder", "abstractor")


def inputs(model: Owl2ForConditionalGeneration) -> dict:
    one, other = sample(model.config, [3, IMAGE, 5], 1), sample(model.config, [7, IMAGE, 2, IMAGE], 2)
    return batch([one, other])


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs(model)).logits


def step(model: Owl2ForConditionalGeneration, steps: int = 1, rate: float = 0.05) -> list[float]:
    """Plain gradient descent on all that trains."""
    model.train()
    losses = []
    for _ in range(steps):
        loss = model(**inputs(model)).loss
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(rate * parameter.grad)
                    parameter.grad = None
        losses.append(loss.item())
    return losses


def adapted(parts: tuple[str, ...] = (*VISION, "decoder_vision"), **lora) -> Owl2ForConditionalGeneration:
    """A model of which the parts and adapters have been trained a little."""
    model = tiny_model()
    select_trainable(model, parts)
    apply_lora(model, **{"rank": 4, "alpha": 8, **lora})
    step(model, 3)
    return model
