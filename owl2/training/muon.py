"""Muon for the matrices of vision encoder and abstractor, AdamW for all else.

A vision encoder that starts from nothing behind a frozen language model learns in a third of the steps this way: Muon
orthogonalises each update of a matrix, so that directions with small gradients move too (Jordan et al. 2024; the rate
is matched to AdamW's as in Liu et al., arXiv 2502.16982). The paper starts from a trained encoder and uses AdamW alone.
"""

import re
from typing import Any

import torch
from torch import nn

from .optimizer import MasterWeightAdamW, decays

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
