"""The optimizers of the quickstart's loop."""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from owl2.modeling.parts import is_language_model

from .optimizer import decays, num_vision_layers

BETAS, EPSILON = (0.9, 0.98), 1e-6
"""Supplement, Table 9."""


class MasterWeightAdamW:
    """AdamW that keeps float32 copies of the weights of a model in a lower precision.

    Norms, biases, embeddings and other vectors do not decay. A float32 model is its own master.

    Args:
        vision_layer_decay: the rate of a vision layer is this many times that of the layer above it (section 4.1).
        language_lr_scale: rate of the language model's own weights, as a share of that of the vision parts.
        max_norm: gradients are clipped to this norm.
        betas, eps: of the running means.

    Attributes:
        adamw: torch's optimizer of the masters.
        names: of the parameters that train, in the order of `masters`.
    """

    def __init__(
        self,
        model: nn.Module,
        weight_decay: float,
        vision_layer_decay: float = 1.0,
        language_lr_scale: float = 1.0,
        max_norm: float = 1.0,
        betas: tuple[float, float] = BETAS,
        eps: float = EPSILON,
    ) -> None:
        self.max_norm = max_norm
        self.names: list[str] = []
        self.weights: list[nn.Parameter] = []
        self.masters: list[torch.Tensor] = []
        groups: dict[tuple[float, float, Any], list[torch.Tensor]] = {}
        layers = num_vision_layers(model)
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            is_float = parameter.dtype == torch.float32
            master = parameter if is_float else parameter.detach().float().requires_grad_()
            self.names.append(name)
            self.weights.append(parameter)
            self.masters.append(master)
            decay = weight_decay if decays(name, parameter.ndim) else 0.0
            scale = rate_scale(name, layers, vision_layer_decay, language_lr_scale)
            mesh = getattr(parameter, "device_mesh", None)  # one fused update takes no mixture of meshes
            groups.setdefault((scale, decay, mesh), []).append(master)
        self.adamw = torch.optim.AdamW(
            [{"params": group, "scale": scale, "weight_decay": decay} for (scale, decay, _), group in groups.items()],
            betas=betas,
            eps=eps,
            fused=True,
        )

    def step(self, rate: float) -> float:
        """One update at a learning rate; clears the gradients.

        Returns:
            Norm of the gradient before clipping.
        """
        norm = self.clip()
        self.update(rate)
        return float(norm)

    def clip(
        self, clip: Callable[[list[torch.Tensor], float], torch.Tensor] = nn.utils.clip_grad_norm_
    ) -> torch.Tensor:
        """Moves the gradients to the masters and clips them; the norm before.

        Args:
            clip: what clips the gradients of tensors to a norm and returns theirs, where they lie on several meshes.
        """
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight is not master:
                master.grad, weight.grad = (None if weight.grad is None else weight.grad.float()), None
        return clip(self.masters, self.max_norm)

    def update(self, rate: float) -> None:
        """One update with the gradients that `clip` left, at a learning rate; clears them."""
        for group in self.adamw.param_groups:
            group["lr"] = rate * group["scale"]
        self.adamw.step()
        self.clear()
        self._copy_to_weights()

    def clear(self) -> None:
        """Forgets the gradients: of a step that is skipped."""
        self.adamw.zero_grad(set_to_none=True)
        for weight in self.weights:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self.adamw.state_dict(), "masters": [master.detach() for master in self.masters]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adamw.load_state_dict(state["adamw"])
        for master, saved in zip(self.masters, state["masters"], strict=True):
            master.copy_(saved)
        self._copy_to_weights()

    def named_state(self) -> dict[str, torch.Tensor]:
        """Tensors of the state by name, zeros before the first step: `NAME.master`, `.exp_avg`, `.exp_avg_sq`, `.step`.

        Writing into them and then calling `restored` loads a state.
        """
        found: dict[str, torch.Tensor] = {}
        for name, master in zip(self.names, self.masters, strict=True):
            state = self.adamw.state[master]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(master), torch.zeros_like(master)
            found[f"{name}.master"] = master.detach()
            found |= {f"{name}.{key}": state[key] for key in ("exp_avg", "exp_avg_sq", "step")}
        return found

    def restored(self) -> None:
        """To be called when `named_state` was written into: the model's weights follow their masters."""
        self._copy_to_weights()

    @torch.no_grad()
    def _copy_to_weights(self) -> None:
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight is not master:
                weight.copy_(master)


def rate_scale(name: str, vision_layers: int, vision_layer_decay: float, language_lr_scale: float) -> float:
    """Rate of a parameter as a share of the peak.

    Of the vision encoder, the last layer has 1 and each one below `vision_layer_decay` times that (section 4.1).
    """
    if is_language_model(name):
        return language_lr_scale
    if "vision_tower." not in name or vision_layer_decay == 1.0:
        return 1.0
    layer = re.search(r"vision_tower\.layers\.(\d+)\.", name)
    if layer:
        return vision_layer_decay ** (vision_layers - 1 - int(layer[1]))
    return 1.0 if "post_layernorm" in name else vision_layer_decay**vision_layers


def cosine_rate(step: int, total_steps: int, warmup_steps: int, peak: float, minimum: float) -> float:
    """Learning rate of a step: linear warm-up to the peak, then half a cosine to the minimum."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


MOMENTUM = 0.95


class MuonAdamW(MasterWeightAdamW):
    """See `MasterWeightAdamW`; its layer-wise and language rates do not apply to the matrices.

    Args:
        muon_share: rate of the matrices as a multiple of AdamW's.
    """

    def __init__(self, model: nn.Module, weight_decay: float, muon_share: float, **settings: Any) -> None:
        super().__init__(model, weight_decay, **settings)
        self.muon_share = muon_share
        matrices = [
            master for name, master in zip(self.names, self.masters, strict=True) if is_vision_matrix(name, master.ndim)
        ]
        taken = {id(matrix) for matrix in matrices}
        for group in self.adamw.param_groups:
            group["params"] = [master for master in group["params"] if id(master) not in taken]
        self.muon = torch.optim.Muon(
            matrices, weight_decay=weight_decay, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
        )

    def update(self, rate: float) -> None:
        """One update with the gradients that `clip` left, at a learning rate; clears them."""
        for group in self.muon.param_groups:
            group["lr"] = rate * self.muon_share
        self.muon.step()
        super().update(rate)

    def clear(self) -> None:
        """Forgets the gradients."""
        self.muon.zero_grad(set_to_none=True)
        super().clear()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"muon": self.muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        super().load_state_dict(state)

    def named_state(self) -> dict[str, torch.Tensor]:
        raise NotImplementedError("checkpoints of recipes hold AdamW's state: use state_dict")


def is_vision_matrix(name: str, ndim: int) -> bool:
    """Whether a parameter is a matrix of the vision encoder or the abstractor, and no table of positions or queries."""
    return ndim == 2 and decays(name, ndim) and bool(re.match(r"model\.(vision_tower|abstractor)\.", name))
