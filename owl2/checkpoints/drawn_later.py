"""The random values of a new model without the memory for them: every draw is noted, and made again when it is read.

A parameter is created on the device "meta". What initialises it in place is noted with the state of torch's generator
at that moment, and drawn once into memory that is freed at once, so that the generator continues as if the parameter
were there. Parameters and the draws after them are therefore those of a model that is made in memory from the same
seed.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from owl2.modeling import Owl2Config, Owl2ForConditionalGeneration

from .initialize import config_of_paper
from .lazy_tensors import LazyState, LazyTensor, in_memory

_DRAWS = {torch.ops.aten.uniform_.default, torch.ops.aten.normal_.default}


class DrawnLater(TorchDispatchMode):
    """Inside the context, `torch.empty` takes no memory, and what is then done to such a tensor in place is noted.

    Attributes:
        steps: By the identity of a tensor, itself (so that nothing else takes the identity), and what was done to it:
            operation, arguments, and of a draw the state of the generator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[int, tuple[torch.Tensor, list[tuple[Any, Any, torch.Tensor | None]]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.ops.aten.empty.memory_format:
            return func(*args, **kwargs | {"device": torch.device("meta")})
        target = args[0] if args else None
        if isinstance(target, torch.Tensor) and target.is_meta and func._schema.name.endswith("_"):
            is_draw = func in _DRAWS
            state = torch.get_rng_state() if is_draw else None
            self.steps.setdefault(id(target), (target, []))[1].append((func, args[1:], state))
            if is_draw:
                func(torch.empty(target.shape, dtype=target.dtype), *args[1:])
                return target
        return func(*args, **kwargs)

    def lazy(self, parameter: torch.Tensor) -> LazyTensor:
        """A parameter that was made inside the context."""
        if not parameter.is_meta:
            return in_memory(parameter.detach())
        return LazyTensor(parameter.detach(), partial(self._values, parameter))

    def _values(self, parameter: torch.Tensor) -> torch.Tensor:
        values = torch.empty(parameter.shape, dtype=parameter.dtype)
        for func, arguments, state in self.steps[id(parameter)][1]:
            if state is None:
                func(values, *arguments)
            else:
                func(values, *arguments, generator=torch.Generator().set_state(state))
        return values


def random_parameters(config: Owl2Config) -> LazyState:
    """The parameters of a new model in float32, drawn from torch's generator, which continues after them.

    The vision encoder and the abstractor begin as those of the paper's module under the same seed: see `initialize`.
    """
    with DrawnLater() as drawn:
        of_paper = config_of_paper(config)
        if of_paper is None:
            return _parameters(drawn, Owl2ForConditionalGeneration(config))
        shared = _parameters(drawn, Owl2ForConditionalGeneration(of_paper))
        state = torch.get_rng_state()
        arm = _parameters(drawn, Owl2ForConditionalGeneration(config))
        torch.set_rng_state(state)
    return {name: shared[name] if _is_shared(name) else tensor for name, tensor in arm.items()}


def _is_shared(name: str) -> bool:
    return name.startswith(("model.vision_tower.", "model.abstractor."))


def _parameters(drawn: DrawnLater, model: Owl2ForConditionalGeneration) -> dict[str, LazyTensor]:
    named: Mapping[str, torch.Tensor] = dict(model.named_parameters())
    return {name: drawn.lazy(parameter) for name, parameter in named.items()}
