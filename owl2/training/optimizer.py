"""AdamW with the paper's settings, and Muon if a recipe asks for it: parameter groups, learning rates, schedule."""

import math
import re
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from owl2.modeling.parts import is_language_model
from owl2.training.recipe.optimization import OptimizerSettings, ScheduleSettings

MUON_MOMENTUM = 0.95

_ADAMW_STATE, _MUON_STATE = ("exp_avg", "exp_avg_sq", "step"), ("momentum_buffer",)
"""The names of each optimizer's state of a parameter."""


class RecipeOptimizer:
    """The optimizer of a recipe, in torch's interface: AdamW or, with `vision_optimizer: muon`, AdamW and Muon as one.

    Muon updates the matrices of vision encoder and abstractor. A vision encoder that starts from nothing learns in a
    third of the steps this way, since it also moves along directions of small gradients (Jordan et al. 2024; the
    learning rate is matched to AdamW's as in Liu et al., arXiv 2502.16982). The paper starts from a trained encoder and
    uses AdamW.

    Args:
        model: Spread over the ranks; what trains is float32 (see `parallelize`).
        settings: Section `optimizer` of the recipe.

    Attributes:
        parameters: Trained parameters by name.

    Raises:
        ValueError: Muon is to update matrices that are sharded over several ranks.
    """

    def __init__(self, model: nn.Module, settings: OptimizerSettings) -> None:
        self.parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        assert all(each.dtype == torch.float32 for each in self.parameters.values()), "updates would be lost"
        layers = num_vision_layers(model)
        groups: dict[_Group, list[nn.Parameter]] = {}
        self._matrices: dict[str, nn.Parameter] = {}  # whole, by the name of the parameter whose memory they share
        for name, parameter in self.parameters.items():
            if uses_muon(name, parameter.ndim, settings):
                self._matrices[name] = _whole_matrix(name, parameter)
            decay = settings.weight_decay if decays(name, parameter.ndim) else 0.0
            scale = learning_rate_scale(name, parameter.ndim, layers, settings)
            mesh = getattr(parameter, "device_mesh", None)  # one fused update takes no mixture of meshes
            group = _Group(name in self._matrices, scale, decay, mesh)
            groups.setdefault(group, []).append(self._matrices.get(name, parameter))
        self._optimizers: list[torch.optim.Optimizer] = []
        adamw = [group.to_dict(members) for group, members in groups.items() if not group.by_muon]
        if adamw:
            self._optimizers.append(torch.optim.AdamW(adamw, betas=settings.betas, eps=settings.eps, fused=True))
        muon = [group.to_dict(members) for group, members in groups.items() if group.by_muon]
        if muon:
            self._optimizers.append(torch.optim.Muon(muon, momentum=MUON_MOMENTUM, adjust_lr_fn="match_rms_adamw"))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """torch's groups of parameters; `lr_scale` is a group's share of the learning rate."""
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets the learning rate of the next steps, of which each group takes its share."""
        for group in self.param_groups:
            group["lr"] = learning_rate * group["lr_scale"]

    def step(self) -> None:
        """Updates the parameters by their gradients."""
        for name, matrix in self._matrices.items():
            gradient = self.parameters[name].grad
            matrix.grad = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        for optimizer in self._optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        """Drops all gradients on a GPU, and sets them to 0 on a CPU, whose heap would be fragmented by new ones."""
        for parameter in (*self.parameters.values(), *self._matrices.values()):
            if parameter.device.type != "cpu":
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    def named_state(self) -> dict[str, torch.Tensor]:
        """All tensors that the next step depends on, zeros before the first one; writing into them restores a state.

        Returns:
            The weights as `NAME.master`, what AdamW keeps as `NAME.exp_avg`, `NAME.exp_avg_sq` and `NAME.step`, what
            Muon keeps as `NAME.momentum_buffer`.
        """
        states = {key: state for optimizer in self._optimizers for key, state in self._begun(optimizer).items()}
        found: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            found[f"{name}.master"] = parameter.detach()
            keys = _MUON_STATE if name in self._matrices else _ADAMW_STATE
            state = states[self._matrices.get(name, parameter)]
            found |= {f"{name}.{key}": state[key] for key in keys}
        return found

    @staticmethod
    def _begun(optimizer: torch.optim.Optimizer) -> dict[Any, dict[str, torch.Tensor]]:
        """The state of an optimizer by parameter, made as torch would make it in the first step."""
        keys = _MUON_STATE if isinstance(optimizer, torch.optim.Muon) else _ADAMW_STATE
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            state = optimizer.state[parameter]
            for key in keys:
                if key not in state:
                    scalar = torch.zeros((), dtype=torch.float32, device=parameter.device)
                    state[key] = scalar if key == "step" else torch.zeros_like(parameter.detach())
        return optimizer.state


class _Group(NamedTuple):
    """The common settings of the parameters of a group."""

    by_muon: bool
    lr_scale: float
    weight_decay: float
    mesh: Any

    def to_dict(self, members: list[nn.Parameter]) -> dict[str, Any]:
        return {"params": members, "lr_scale": self.lr_scale, "weight_decay": self.weight_decay}


def _whole_matrix(name: str, parameter: nn.Parameter) -> nn.Parameter:
    """The matrix as a plain tensor, which Muon needs, in the memory of the parameter."""
    if not isinstance(parameter, DTensor):
        return parameter
    local = parameter.to_local().detach()
    if local.shape != parameter.shape:
        raise ValueError(
            f"optimizer.vision_optimizer=muon updates whole matrices, but {name} is sharded: of "
            f"{tuple(parameter.shape)} this rank holds {tuple(local.shape)}. Use adamw, or parallel.data_shards=1"
        )
    return nn.Parameter(local)


def num_vision_layers(model: nn.Module) -> int:
    """The depth of the vision encoder; 0 if there is none."""
    vision = getattr(getattr(model, "config", None), "vision_config", None)
    return vision.num_hidden_layers if vision is not None else 0


def decays(name: str, ndim: int) -> bool:
    """Whether weight decay applies to a parameter: not to vectors, nor to tables of embeddings and queries."""
    return ndim >= 2 and not re.search(r"embed_tokens|position_embedding|learnable_queries", name)


def uses_muon(name: str, ndim: int, settings: OptimizerSettings) -> bool:
    """Whether Muon updates a parameter: a matrix of vision encoder or abstractor, no table of positions or queries."""
    if settings.vision_optimizer != "muon":
        return False
    return ndim == 2 and decays(name, ndim) and bool(re.match(r"model\.(vision_tower|abstractor)\.", name))


def learning_rate_scale(name: str, ndim: int, vision_layers: int, settings: OptimizerSettings) -> float:
    """The learning rate of a parameter as a share of the schedule's.

    The last layer of the vision encoder has 1, and each layer below has `vision_layer_decay` times that of the next
    (section 4.1); parameters that Muon updates have `muon_lr_scale`.
    """
    if is_language_model(name):
        return settings.language_lr_scale
    if uses_muon(name, ndim, settings):
        return settings.muon_lr_scale
    if "vision_tower." not in name or settings.vision_layer_decay == 1.0:
        return 1.0
    layer = re.search(r"vision_tower\.layers\.(\d+)\.", name)
    if layer:
        return settings.vision_layer_decay ** (vision_layers - 1 - int(layer[1]))
    return 1.0 if "post_layernorm" in name else settings.vision_layer_decay**vision_layers


def scheduled_learning_rate(step: int, optimizer: OptimizerSettings, schedule: ScheduleSettings) -> float:
    """The learning rate of a step, from 0 on: linear warm-up to the peak, then half a cosine to the minimum."""
    peak, minimum = optimizer.learning_rate, optimizer.min_learning_rate
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
