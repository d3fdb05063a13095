"""Prepares a layer for training: what it keeps for the backward pass, and its compilation."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from owl2.modeling.compatibility import CACHE

ActivationCheckpointing = Literal["none", "selective", "full"]

GRAPHS = 64
"""The number of graphs of all layers together at which torch gives up compiling; eleven were seen."""

_KEPT_ATTENTION = tuple(
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
)
_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def prepare_block(block: nn.Module, recompute: ActivationCheckpointing = "none", compile: bool = False) -> None:
    """Lets a layer keep less for the backward pass, and compiles it; in place. The hooks of sharding stay outside.

    Args:
        recompute: "none" keeps everything; "full" keeps the layer's input and computes all again (a third more work);
            "selective" keeps what attention and the projections around it gave, and computes the wide middle of the
            MLP, norms and element-wise steps again (half of that work): about six rows of the hidden size a token.
        compile: Compile the layer for any shapes.
    """
    if recompute == "selective" and compile:
        # A compiled layer computes norms and element-wise steps again by itself.
        mlp = block.get_submodule("mlp")
        mlp.forward = _recomputed(mlp.forward)
    if compile:
        from torch._dynamo import config as compiler  # slow to import

        # Layers of three kinds share the code that transformers wraps around them, with a handful of graphs each.
        compiler.recompile_limit = max(compiler.recompile_limit, GRAPHS)
        block.forward = torch.compile(block.forward)
    elif recompute == "selective":
        policy = functools.partial(_keep_attention_and_projections, _hidden_size(block))
        contexts = functools.partial(create_selective_checkpoint_contexts, policy)
        block.forward = _recomputed(block.forward, context_fn=contexts)
    if recompute == "full":
        block.forward = _recomputed(block.forward)


def _recomputed(forward: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Wraps a forward pass so that it is computed again in the backward pass."""

    @functools.wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get(CACHE) is not None:
            raise ValueError("activation checkpointing computes layers twice, which a cache cannot: use_cache=False")
        return checkpoint(forward, *args, use_reentrant=False, **options, **kwargs)

    return recomputed


def _hidden_size(block: nn.Module) -> int:
    mlp = block.get_submodule("mlp")
    return next(module for module in mlp.modules() if isinstance(module, nn.Linear)).in_features


def _keep_attention_and_projections(
    hidden_size: int, context: Any, operator: Any, *args: Any, **kwargs: Any
) -> CheckpointPolicy:
    """Keeps attention and the products from rows of the hidden size to rows no wider.

    All products cost the same work for each byte of their result; the result of the last one is never needed again.
    """
    if operator in _KEPT_ATTENTION:
        return CheckpointPolicy.MUST_SAVE
    if operator in _PRODUCTS:
        inner, outer = args[-1].shape
        return CheckpointPolicy.MUST_SAVE if outer <= inner == hidden_size else CheckpointPolicy.PREFER_RECOMPUTE
    return CheckpointPolicy.PREFER_RECOMPUTE
