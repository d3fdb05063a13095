"""AdamW with the paper's settings: weight decay on matrices only, layer-wise rate decay for the vision encoder, cosine schedule."""

import math
import re

import torch
from torch import nn

BETAS, EPSILON = (0.9, 0.98), 1e-6
"""Supplement, Table 9."""


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, vision_layer_decay: float = 1.0
) -> torch.optim.AdamW:
    """AdamW over what trains. Norms, biases, embeddings and other vectors do not decay.

    Args:
        vision_layer_decay: the rate of a vision layer is this many times that of the layer above it (section 4.1).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and "embed" not in name and "queries" not in name
            scale = _vision_rate_scale(model, name, vision_layer_decay)
            groups.setdefault((scale, weight_decay if decays else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": learning_rate * scale, "scale": scale, "weight_decay": decay}
            for (scale, decay), parameters in groups.items()
        ],
        betas=BETAS,
        eps=EPSILON,
        fused=True,
    )


def _vision_rate_scale(model: nn.Module, name: str, decay: float) -> float:
    """Rate of a vision parameter as a share of the peak: the last layer 1, each one below `decay` times that."""
    if "vision_tower." not in name or decay == 1.0:
        return 1.0
    depth = model.config.vision_config.num_hidden_layers
    layer = re.search(r"vision_tower\.layers\.(\d+)\.", name)
    if layer:
        return decay ** (depth - 1 - int(layer[1]))
    return 1.0 if "post_layernorm" in name else decay**depth


def cosine_rate(step: int, total_steps: int, warmup_steps: int, peak: float, minimum: float) -> float:
    """Learning rate of a step: linear warm-up to the peak, then half a cosine to the minimum."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
