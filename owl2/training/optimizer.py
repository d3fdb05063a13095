"""AdamW with the paper's settings: no decay of vectors, layer-wise rates for the vision encoder, cosine schedule."""

import math
import re
import time
from typing import Any

import torch
from torch import nn

from .stages import is_language_model

BETAS, EPSILON = (0.9, 0.98), 1e-6
"""Supplement, Table 9."""


class MasterWeightAdamW:
    """AdamW that keeps float32 copies of the weights of a model in a lower precision.

    Norms, biases, embeddings and other vectors do not decay. A float32 model is its own master.

    Args:
        vision_layer_decay: the rate of a vision layer is this many times that of the layer above it (section 4.1).
        language_rate: rate of the language model's own weights, as a share of that of the vision parts.
        max_norm: gradients are clipped to this norm.
    """

    def __init__(
        self,
        model: nn.Module,
        weight_decay: float,
        vision_layer_decay: float = 1.0,
        language_rate: float = 1.0,
        max_norm: float = 1.0,
    ) -> None:
        self.max_norm = max_norm
        self.weights: list[nn.Parameter] = []
        self.masters: list[torch.Tensor] = []
        groups: dict[tuple[float, float], list[torch.Tensor]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            is_float = parameter.dtype == torch.float32
            master = parameter if is_float else parameter.detach().float().requires_grad_()
            self.weights.append(parameter)
            self.masters.append(master)
            decays = parameter.ndim >= 2 and not re.search(r"embed_tokens|position_embedding|learnable_queries", name)
            scale = _vision_rate_scale(model, name, vision_layer_decay)
            if is_language_model(name):
                scale *= language_rate
            groups.setdefault((scale, weight_decay if decays else 0.0), []).append(master)
        self._adamw = torch.optim.AdamW(
            [{"params": group, "scale": scale, "weight_decay": decay} for (scale, decay), group in groups.items()],
            betas=BETAS,
            eps=EPSILON,
            fused=True,
        )

    def step(self, rate: float) -> float:
        """One update at a learning rate; clears the gradients.

        Returns:
            Norm of the gradient before clipping.
        """
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight is not master:
                master.grad, weight.grad = (None if weight.grad is None else weight.grad.float()), None
        norm = nn.utils.clip_grad_norm_(self.masters, self.max_norm)
        for group in self._adamw.param_groups:
            group["lr"] = rate * group["scale"]
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self._copy_to_weights()
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self._adamw.state_dict(), "masters": [master.detach() for master in self.masters]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._adamw.load_state_dict(state["adamw"])
        for master, saved in zip(self.masters, state["masters"], strict=True):
            master.copy_(saved)
        self._copy_to_weights()

    @torch.no_grad()
    def _copy_to_weights(self) -> None:
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight is not master:
                weight.copy_(master)


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


def fastest_training_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where its matrix products are faster than float32's, which on a CPU depends on the processor."""
    if device.type != "cpu":
        return torch.bfloat16
    seconds = {dtype: _matmul_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return min(seconds, key=lambda dtype: seconds[dtype])


def _matmul_seconds(dtype: torch.dtype, repeats: int = 5) -> float:
    left, right = torch.randn(1024, 512, dtype=dtype), torch.randn(512, 512, dtype=dtype)
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - start)
    return best
