"""LoRA adapters of the official code, as Q-Align's and DeQA-Score's training leaves them.

Such a folder has a `config.json` in the official layout, PEFT's `adapter_config.json` with `adapter_model.safetensors`
or `.bin`, and `non_lora_trainables.bin` with what trained in full beside the adapters (the visual abstractor). Their
names are those of the official code behind prefixes of PEFT's. They are merged into a base model by arithmetic; PEFT is
not needed, and no pickle is executed.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from owl2.files import read_json_object
from owl2.modeling import CheckpointError, Owl2ForConditionalGeneration
from owl2.modeling.official_checkpoint import official_to_owl2, owl2_to_official
from owl2.modeling.stored_weights import read_weights

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
OTHERS = "non_lora_trainables.bin"


def is_official_adapter(directory: str | Path) -> bool:
    """Whether a folder holds an adapter of the official code and not a model, or an adapter of ours."""
    path = Path(directory).expanduser()
    if not (path / ADAPTER_CONFIG).is_file() or (path / "model.safetensors").is_file():
        return False
    if (path / OTHERS).is_file():
        return True
    config = path / "config.json"
    return config.is_file() and "visual_config" in read_json_object(config, "the settings of a model")


@dataclass
class OfficialAdapter:
    """The changes of a folder, by official names.

    Attributes:
        pairs: Matrices A [r, in] and B [out, r] of each linear's weight, without those that miss one of the two.
        replaced: Tensors that trained in full.
        halves: Keys whose other matrix is missing.
        keys: Number of keys in the files.
    """

    scaling_of_rank: "_Scaling"
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    replaced: dict[str, torch.Tensor] = field(default_factory=dict)
    halves: list[str] = field(default_factory=list)
    keys: int = 0

    def problems(self, shapes: Mapping[str, torch.Size]) -> list[str]:
        """What does not fit weights of these shapes, by official names."""
        found = [f"{name} has no other half" for name in self.halves]
        for name, (first, second) in self.pairs.items():
            wanted = shapes.get(name)
            if wanted is None:
                found.append(f"{name} is not in the model")
            elif first.ndim != 2 or second.ndim != 2 or (second.shape[0], first.shape[1]) != tuple(wanted):
                found.append(f"{name} gets {list(second.shape)} x {list(first.shape)}, but is {list(wanted)}")
            elif first.shape[0] != second.shape[1]:
                found.append(f"{name} gets matrices of ranks {first.shape[0]} and {second.shape[1]}")
        for name, tensor in self.replaced.items():
            if name not in shapes:
                found.append(f"{name} is not in the model")
            elif tensor.shape != shapes[name]:
                found.append(f"{name} is {list(tensor.shape)}, but {list(shapes[name])} in the model")
        return found

    def merged_into(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """An official state dict with the changes, in its own precision."""
        return {name: self.changed(name, tensor) for name, tensor in state.items()}

    def changed(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """One official tensor with its changes, if it has any."""
        weight = self.replaced[name].to(weight) if name in self.replaced else weight
        if name not in self.pairs:
            return weight
        first, second = self.pairs[name]
        delta = second.to(weight.device).float() @ first.to(weight.device).float()
        return (weight.float() + self.scaling_of_rank(len(first)) * delta).to(weight.dtype)

    def require_fit(self, shapes: Mapping[str, torch.Size], adapter: str | Path, base: str | Path) -> None:
        """Refuses weights of other shapes, by official names.

        Raises:
            CheckpointError: They do not fit; the message lists which.
        """
        if problems := self.problems(shapes):
            more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
            raise CheckpointError(f"the adapter {adapter} does not fit {base}: {'; '.join(problems[:4])}{more}")


@dataclass(frozen=True)
class _Scaling:
    """The factor of an adapter: alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA."""

    alpha: float
    stabilised: bool

    def __call__(self, rank: int) -> float:
        return self.alpha / (math.sqrt(rank) if self.stabilised else rank)


def read_official_adapter(directory: str | Path) -> OfficialAdapter:
    """The changes of a folder.

    Raises:
        CheckpointError: It has no weights, they cannot be read, or it holds another kind of adapter than LoRA.
    """
    path = Path(directory).expanduser()
    adapter = OfficialAdapter(_scaling(path / ADAPTER_CONFIG))
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in _tensors(path):
        adapter.keys += 1
        name = official_name_of(key)
        module, mark, half = name.partition(".lora_")
        if mark:
            halves.setdefault(f"{module}.weight", {})[half[0]] = tensor
        else:
            adapter.replaced[name] = tensor
    for name, found in halves.items():
        if found.keys() == {"A", "B"}:
            adapter.pairs[name] = (found["A"], found["B"])
        else:
            adapter.halves.append(name)
    return adapter


def load_official_adapter(directory: str | Path, base: str | Path, **settings: Any) -> Owl2ForConditionalGeneration:
    """The base model with the adapter merged into it.

    Args:
        base: Directory of the model that the adapter was trained on, in either layout.
        settings: As for `from_pretrained` of the model.

    Raises:
        CheckpointError: The adapter does not fit the base; the message names what.
    """
    adapter = read_official_adapter(directory)
    model = Owl2ForConditionalGeneration.from_pretrained(base, **settings)
    state = owl2_to_official(model.state_dict(), model.config)
    adapter.require_fit({name: tensor.shape for name, tensor in state.items()}, directory, base)
    model.load_state_dict(official_to_owl2(adapter.merged_into(state), model.config), strict=False)
    return model


def official_name_of(key: str) -> str:
    """The official code's own name of a key, without the prefixes of PEFT and of the ways it was saved."""
    name = key.removeprefix("base_model.")
    if name.startswith(("model.model.", "model.lm_head.")):
        name = name.removeprefix("model.")
    return name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    adapters = [path / name for name in WEIGHTS if (path / name).is_file()]
    if not adapters:
        raise CheckpointError(f"{path} has an {ADAPTER_CONFIG}, but neither {' nor '.join(WEIGHTS)}")
    files = [adapters[0], *([path / OTHERS] if (path / OTHERS).is_file() else [])]
    for file in files:
        yield from read_weights(file).items()


def _scaling(file: Path) -> _Scaling:
    settings = read_json_object(file, "the settings of an adapter", CheckpointError)
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(f"{file} describes an adapter of the kind {settings.get('peft_type')!r}, not LORA")
    unknown = [name for name in ("use_dora", "fan_in_fan_out", "alpha_pattern") if settings.get(name)]
    if unknown:
        raise CheckpointError(f"{file} uses {', '.join(unknown)}, which cannot be merged here: merge it with PEFT")
    alpha = settings.get("lora_alpha")
    if not isinstance(alpha, int | float) or alpha <= 0:
        raise CheckpointError(f"{file} has the lora_alpha {alpha!r}, not a positive number")
    return _Scaling(float(alpha), bool(settings.get("use_rslora", False)))
