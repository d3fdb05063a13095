"""An adapter folder: PEFT's `adapter_config.json` and `adapter_model.safetensors`.

The weights are those of the adapters and of every module that trained in full beside them (PEFT's `modules_to_save`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from owl2.files import read_json_object
from owl2.modeling import Owl2ForConditionalGeneration

ADAPTER = "default"
"""PEFT's name of the only adapter in a model."""

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

PREFIX = "base_model.model."
"""The prefix of the names of parameters in the folder."""

_POSITIONS = "model.vision_tower.position_embedding"


def is_adapter_folder(directory: str | Path) -> bool:
    """Whether a folder holds an adapter and no model. One of the official code may have a `config.json` beside it."""
    path = Path(directory).expanduser()
    return (path / CONFIG).is_file() and not (path / "config.json").is_file()


class AdapterFolder:
    """An adapter folder that is read on demand.

    Raises:
        ValueError: A file is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        for file in (CONFIG, WEIGHTS):
            if not (self.path / file).is_file():
                raise ValueError(f"{self.path} is not an adapter folder: it has no {file}")

    def config(self) -> Any:
        """PEFT's configuration, for adapters that train.

        Raises:
            ImportError: PEFT is not installed.
            ValueError: The file is damaged, or describes something else than LoRA.
        """
        stored = self._stored()
        if stored.get("peft_type") != "LORA":
            kind = stored.get("peft_type")
            raise ValueError(f"{self.path / CONFIG} describes an adapter of the kind {kind!r}, not LORA")
        config = peft().LoraConfig.from_pretrained(self.path)
        # What trained in full is written into the model itself: nothing is to be wrapped.
        config.modules_to_save, config.inference_mode = None, False
        return config

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by their names in the model, but without `.default` in the names of adapters.

        Raises:
            ValueError: The file is damaged.
        """
        with self._weights() as file:
            return {name.removeprefix(PREFIX): file.get_tensor(name) for name in file.keys()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of `tensors`, which are not read."""
        with self._weights() as file:
            return {name.removeprefix(PREFIX): tuple(file.get_slice(name).get_shape()) for name in file.keys()}

    def modules_in_full(self) -> list[str]:
        """Names of the modules whose own parameters the folder holds."""
        names = (name for name in self.shapes() if ".lora_" not in name)
        return list(dict.fromkeys(name.replace(".base_layer.", ".").rpartition(".")[0] for name in names))

    def check_fit(self, model: nn.Module) -> None:
        """Refuses a model whose adapters have other parameters; the model may be on the device "meta".

        Learnt positions of another resolution fit: `write_into` sees to them.

        Raises:
            ValueError: They differ; the message names the first ones, and the base model of the folder.
        """
        shapes, own = self.shapes(), {name: tuple(value.shape) for name, value in parameters_of(model).items()}
        missing = [name for name in sorted(own.keys() - shapes.keys()) if ".lora_" in name]
        problems = [f"{name} is missing in the folder" for name in missing]
        for name, shape in shapes.items():
            if name not in own:
                problems.append(f"{name} is not in the model")
            elif shape != own[name] and name != _POSITIONS:
                problems.append(f"{name} is {list(shape)}, in the model {list(own[name])}")
        if problems:
            more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
            base = self._stored().get("base_model_name_or_path") or "a model that it does not name"
            raise ValueError(
                f"the adapter {self.path} does not fit this base model: {'; '.join(problems[:4])}{more}. "
                f"It was made for {base}"
            )

    @torch.no_grad()
    def write_into(self, model: Owl2ForConditionalGeneration) -> None:
        """Writes all weights into a model that has such adapters, in place.

        The model gets the resolution of the folder, where the vision encoder trained: stage 2 starts from a model of
        224 px and learns positions at 448 (section 4.1).
        """
        tensors, tower = self.tensors(), model.model.vision_tower
        table = tensors.get(_POSITIONS)
        if table is not None and table.shape != tower.position_embedding.shape:
            grid = round((len(table) - tower.num_prefix) ** 0.5)
            model.set_image_size(grid * tower.config.patch_size)
        own = parameters_of(model)
        for name, tensor in tensors.items():
            own[name].copy_(tensor)

    def _stored(self) -> dict[str, Any]:
        return read_json_object(self.path / CONFIG, "the settings of an adapter")

    @contextmanager
    def _weights(self) -> Iterator[Any]:
        try:
            with safe_open(self.path / WEIGHTS, framework="pt") as opened:
                yield opened
        except SafetensorError as error:
            raise ValueError(f"{self.path / WEIGHTS} cannot be read: {error}") from error


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model with adapters by their names in `AdapterFolder.tensors`."""
    return {name_in_folder(name): parameter for name, parameter in model.named_parameters()}


def name_in_folder(name: str) -> str:
    """The name in `AdapterFolder.tensors` of a parameter of a model with adapters."""
    return name.replace(f".{ADAPTER}.", ".")


def peft() -> Any:
    """The package.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import peft as package
    except ImportError as error:
        raise ImportError('LoRA needs PEFT: install it with pip install "owl2[train]"') from error
    return package
