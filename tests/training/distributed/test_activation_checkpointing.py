"""Activations that are computed twice: the same gradients, and less is kept."""

import pytest
import torch
from training.rank_programs import (
    Layout,
    Run,
    assert_same_curve,
    curve,
    new_mesh,
)

from owl2.training.stages import INSTRUCTION_TUNING_PARTS

pytestmark = pytest.mark.usefixtures("alone")

ONE = Layout()


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_activation_checkpointing_changes_no_gradient(recompute: str) -> None:
    wanted = curve(ONE, INSTRUCTION_TUNING_PARTS, steps=2)
    assert_same_curve(curve(Layout(recompute=recompute), INSTRUCTION_TUNING_PARTS, steps=2), wanted, 1e-6)


def kept_bytes(recompute: str) -> int:
    """Bytes of the activations that a forward pass keeps."""
    run = Run(new_mesh(ONE), Layout(recompute=recompute), INSTRUCTION_TUNING_PARTS)
    parameters = {parameter.data_ptr() for parameter in run.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = run.model(input_ids=torch.full((4, 64), 5), labels=torch.full((4, 64), 5), use_cache=False).loss
    del loss
    return sum(kept.values())


def test_full_activation_checkpointing_keeps_less() -> None:
    assert kept_bytes("full") < 0.7 * kept_bytes("none")


def test_a_cache_is_refused_where_layers_are_computed_twice() -> None:
    run = Run(new_mesh(ONE), Layout(recompute="full"), INSTRUCTION_TUNING_PARTS)
    with pytest.raises(ValueError, match="use_cache=False"):
        run.model(input_ids=torch.full((1, 4), 5), use_cache=True)
