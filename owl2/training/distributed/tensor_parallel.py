"""Tensor parallel: the ranks of a tensor group share every decoder layer (paper, section 4.1: size 2).

Queries, keys and values of both modalities and the first products of the MLP are split by output, the products after
them by input, so that a layer sums over the ranks twice. Norms, embeddings and the vision side are computed by all.
"""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.modeling.configuration import Owl2TextConfig

_STYLES: dict[str, type[ParallelStyle]] = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}


def split_over_tensor_ranks(model: Owl2ForConditionalGeneration, mesh: DeviceMesh) -> None:
    """Splits the layers of the language decoder over the ranks of a mesh of one dimension; in place.

    Raises:
        ValueError: The heads or the width of the MLP are not a multiple of the ranks.
    """
    decoder = model.base_model.language_model
    _check_sizes(decoder.config, mesh.size())
    for layer in decoder.layers:
        parallelize_module(layer, mesh, _plan(layer, decoder.config))


def _plan(layer: nn.Module, config: Owl2TextConfig) -> dict[str, ParallelStyle]:
    """The plan that the configuration declares for transformers and vLLM too, for the modules of this layer.

    Norms of query and key heads see only the heads of this rank: their gradients are sums over the ranks.
    """
    present = dict(layer.named_modules())
    declared = {name.removeprefix("layers.*."): style for name, style in config.base_model_tp_plan.items()}
    plan: dict[str, ParallelStyle] = {name: _STYLES[style]() for name, style in declared.items() if name in present}
    if config.qk_norm:
        for name in ("self_attn.q_norm", "self_attn.k_norm"):
            plan[name] = SequenceParallel(sequence_dim=2, use_local_output=True)  # [B, S, heads, head_dim]
    return plan


def _check_sizes(config: Owl2TextConfig, ranks: int) -> None:
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(config, name) % ranks != 0:
            raise ValueError(f"{name} {getattr(config, name)} is not a multiple of {ranks} tensor ranks: use fewer")
