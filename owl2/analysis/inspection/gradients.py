"""Do text and pictures pull the shared matrices in different directions? Cosines of gradients beside their noise.

Cosines of small batches are near 0 for every model. So the batches of each modality are split in halves: the cosine of
the two halves says how much of a direction there is at all.

Shapes: the gradient of a matrix is flattened.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from owl2.analysis.attention.recording import base_model
from owl2.modeling.parts import part_of

SHARED = "decoder_shared"


class Conflict(NamedTuple):
    """Cosines of the gradients of one shared matrix.

    Attributes:
        between: Text and pictures, all batches of each.
        within_text, within_vision: The two halves of the batches of one modality: the noise floor.
        corrected: `between` divided by the geometric mean of the two floors at full size (Spearman and Brown), 1 where
            both modalities want the same; NaN where a floor is not positive.
    """

    name: str
    between: float
    within_text: float
    within_vision: float
    corrected: float


def gradient_conflict(
    model: nn.Module, text: Iterable[Mapping[str, Any]], vision: Iterable[Mapping[str, Any]]
) -> list[Conflict]:
    """Cosines of text and picture gradients for every shared matrix of the decoder.

    Needs memory for four gradients of the shared matrices. The model is left as it was.

    Args:
        text, vision: Batches with labels: without, and with pictures. At least two each.

    Raises:
        ValueError: There are fewer than two batches of a modality.
    """
    base = base_model(model)
    kinds = base.config.text_config.modality_adaptive
    shared = {
        name: parameter
        for name, parameter in base.named_parameters()
        if parameter.ndim == 2 and part_of(name, kinds) == SHARED
    }
    required = {name: parameter.requires_grad for name, parameter in base.named_parameters()}
    for name, parameter in base.named_parameters():
        parameter.requires_grad_(name in shared)
    try:
        of_text, of_vision = (_halves(model, batches, shared) for batches in (text, vision))
    finally:
        for name, parameter in base.named_parameters():
            parameter.requires_grad_(required[name])
            parameter.grad = None
    return [_conflict(name, of_text, of_vision) for name in shared]


Halves = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


def _halves(model: nn.Module, batches: Iterable[Mapping[str, Any]], shared: Mapping[str, nn.Parameter]) -> Halves:
    """Sums of the gradients of the even and of the odd batches."""
    sums: Halves = ({}, {})
    count = 0
    for batch in batches:
        model.zero_grad(set_to_none=True)
        model(**batch).loss.backward()
        into = sums[count % 2]
        for name, parameter in shared.items():
            assert parameter.grad is not None, "every shared matrix takes part in every loss"
            gradient = parameter.grad.detach().double()
            into[name] = gradient if name not in into else into[name] + gradient
        count += 1
    if count < 2:
        raise ValueError(f"expected at least two batches of each modality, got {count}")
    return sums


def _conflict(name: str, text: Halves, vision: Halves) -> Conflict:
    within_text, within_vision = (_cosine(halves[0][name], halves[1][name]) for halves in (text, vision))
    between = _cosine(text[0][name] + text[1][name], vision[0][name] + vision[1][name])
    floors = [_at_full_size(within) for within in (within_text, within_vision)]
    positive = min(floors) > 0
    corrected = between / (floors[0] * floors[1]) ** 0.5 if positive else float("nan")
    return Conflict(name, between, within_text, within_vision, corrected)


def _at_full_size(half: float) -> float:
    """The cosine of two gradients of all batches, from that of two halves (Spearman and Brown)."""
    return 2 * half / (1 + half)


def _cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))
