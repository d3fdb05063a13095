"""The table of what trains, at which rate and with which decay, which is printed before the first step and stored."""

import re
from typing import Any, NamedTuple

from rich.table import Table
from torch import nn

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.modeling.parts import PARTS, part_of
from owl2.training.optimizer import decays, learning_rate_scale, num_vision_layers
from owl2.training.recipe.optimization import OptimizerSettings

LORA = "lora"
"""The adapters' name in the table."""


class PartParameters(NamedTuple):
    """The parameters of a part of the model, and how they train.

    Attributes:
        parameters, trained: Numbers of parameters.
        lowest_rate, highest_rate: Peak rates of its parameters; 0 where nothing trains.
        weight_decay: Weight decay of its matrices; vectors and tables of embeddings never decay.
        decayed: Number of parameters that decay.
    """

    part: str
    parameters: int
    trained: int
    lowest_rate: float
    highest_rate: float
    weight_decay: float
    decayed: int


def trainable_table(model: Owl2ForConditionalGeneration, optimizer: OptimizerSettings) -> list[PartParameters]:
    """A row for each part, by the parameters that require a gradient before they are sharded."""
    kinds = model.config.text_config.modality_adaptive
    found: dict[str, list[tuple[str, nn.Parameter]]] = {part: [] for part in (*PARTS, LORA)}
    for name, parameter in model.named_parameters():
        found[LORA if re.search(r"\.lora_\w+\.", name) else part_of(name, kinds)].append((name, parameter))
    layers = num_vision_layers(model)
    rows = []
    for part, parameters in found.items():
        trained = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
        scales = [learning_rate_scale(name, parameter.ndim, layers, optimizer) for name, parameter in trained]
        rates = [optimizer.learning_rate * scale for scale in scales] or [0.0]
        decayed = sum(parameter.numel() for name, parameter in trained if decays(name, parameter.ndim))
        rows.append(
            PartParameters(
                part,
                sum(count(parameter) for _, parameter in parameters),
                sum(parameter.numel() for _, parameter in trained),
                min(rates),
                max(rates),
                optimizer.weight_decay if decayed else 0.0,
                decayed if optimizer.weight_decay else 0,
            )
        )
    return [row for row in rows if row.parameters]


def count(parameter: nn.Parameter) -> int:
    """The number of values of a parameter; for one in 4 bits, where two share a byte, the original number."""
    quantized = getattr(parameter, "quant_state", None)
    return parameter.numel() if quantized is None else int(quantized.shape.numel())


def as_json(rows: list[PartParameters]) -> list[dict[str, Any]]:
    return [row._asdict() for row in rows]


def as_rich(rows: list[PartParameters], title: str) -> Table:
    """The table for a terminal."""
    table = Table(title=title)
    table.add_column("part")
    for heading in ("parameters", "trained", "peak rate", "weight decay"):
        table.add_column(heading, justify="right")
    for row in rows:
        rate = f"{row.highest_rate:.3g}"
        if row.lowest_rate != row.highest_rate:
            rate = f"{row.lowest_rate:.3g} to {rate}"
        trains = row.trained > 0
        table.add_row(
            row.part.replace("_", " "),
            f"{row.parameters:,}",
            f"{row.trained:,}" if trains else "frozen",
            rate if trains else "",
            f"{row.weight_decay:g}" if trains else "",
        )
    total, trained = sum(row.parameters for row in rows), sum(row.trained for row in rows)
    table.add_section()
    table.add_row("all", f"{total:,}", f"{trained:,}", "", "")
    return table
