"""Attention probabilities of chosen positions, layer by layer, whatever implementation of attention the model uses.

The model runs with scaled dot-product attention, which never holds all probabilities; beside it the rows of the chosen
positions alone are computed from the same queries and keys. So 8,192 tokens of 32 layers need the rows that are asked
for, and one layer's scores of them, instead of 8 GB a layer.

Shapes: B batch, H heads, Hkv key and value heads, S queries, T keys, R chosen positions, L chosen layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from owl2.modeling import Owl2ForConditionalGeneration

_NAME = "owl2_recorded"
_ROWS_AT_A_TIME = 256


class DecoderAttention(NamedTuple):
    """Attention of chosen positions in the decoder.

    Attributes:
        layers: Numbers of the layers, from 0.
        weights: [L, B, R, T] in float32, mean over the chosen heads; rows sum to 1. On the CPU. R is 1 where the mean
            over the positions was asked for.
        outputs: What the forward pass returned, with the logits of the chosen positions [B, R, V]; of the last one
            where their mean was asked for.
    """

    layers: list[int]
    weights: torch.Tensor
    outputs: Any


class _Recorder:
    """Collects rows while a model runs."""

    def __init__(self, positions: torch.Tensor, layers: Sequence[int], heads: Sequence[int] | None, mean: bool) -> None:
        self.positions, self.heads, self.mean = positions, heads, mean
        self.rows: dict[int, torch.Tensor | None] = {layer: None for layer in layers}

    def record(
        self, module: nn.Module, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float
    ) -> None:
        """Keeps the rows of a layer, if it is one of the chosen."""
        layer = module.layer_idx
        assert isinstance(layer, int), "attention of the decoder knows its layer"
        if layer not in self.rows:
            return
        found = [
            self._rows(positions, query, key, mask, scaling)
            for positions in self.positions.to(query.device).split(_ROWS_AT_A_TIME)
        ]
        if self.mean:
            total = sum(rows.sum(1, keepdim=True) for rows in found) / len(self.positions)
            self.rows[layer] = total.cpu()  # type: ignore[union-attr]
        else:
            self.rows[layer] = torch.cat([rows.cpu() for rows in found], dim=1)

    def _rows(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float
    ) -> torch.Tensor:
        """[B, R, T], mean over the heads; one head at a time bounds the memory."""
        new, length, groups = query.shape[2], key.shape[2], query.shape[1] // key.shape[1]
        heads = range(query.shape[1]) if self.heads is None else self.heads
        allowed = _allowed(mask, positions, new, length, query.device)
        total = query.new_zeros((query.shape[0], len(positions), length), dtype=torch.float32)
        for head in heads:
            scores = query[:, head, positions].float() @ key[:, head // groups].float().transpose(1, 2) * scaling
            total += _softmax(scores, allowed)
        return total / len(heads)


def _allowed(
    mask: torch.Tensor | None, positions: torch.Tensor, new: int, length: int, device: torch.device
) -> torch.Tensor:
    """What each chosen position may attend to: [B or 1, R, T], bool, or float to be added to the scores."""
    if mask is not None:
        return mask[:, 0, positions, :length]
    keys = torch.arange(length, device=device)
    return (keys[None, :] <= positions[:, None] + length - new)[None]


def _softmax(scores: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    if allowed.dtype == torch.bool:
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    else:
        scores = scores + allowed.float()
    return scores.softmax(-1)


_recorder: ContextVar[_Recorder | None] = ContextVar("owl2_attention_recorder", default=None)


def _recorded(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention that shows the recorder its queries and keys."""
    recorder = _recorder.get()
    assert recorder is not None, "this implementation is set only while something is recorded"
    recorder.record(module, query, key, attention_mask, scaling)
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, scaling=scaling, **kwargs)


@contextmanager
def _recording(model: Owl2ForConditionalGeneration, recorder: _Recorder) -> Iterator[None]:
    """Lets the decoder record inside the context; afterwards its implementation of attention is restored."""
    AttentionInterface.register(_NAME, _recorded)
    AttentionMaskInterface.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    decoder = model.model.language_model
    before = decoder.config._attn_implementation
    token = _recorder.set(recorder)
    decoder.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)
        _recorder.reset(token)


@torch.no_grad()
def decoder_attention(
    model: nn.Module,
    inputs: Mapping[str, Any],
    positions: Sequence[int] = (-1,),
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    mean: bool = False,
) -> DecoderAttention:
    """The decoder's attention from some positions.

    Args:
        model: Ours, or one of PEFT around it.
        inputs: Inputs of `forward`, as the processor makes them; a batch padded on either side. With a cache of earlier
            tokens, only the new ones: one row over a kept cache costs one step of decoding.
        positions: Among the new tokens; negative ones count from the end.
        layers: All of them by default; negative ones count from the end.
        heads: All of them by default.
        mean: Average over the positions, so that those of a long prompt need no memory each.

    Raises:
        ValueError: There is no such position, layer or head.
    """
    base = base_model(model)
    config = base.config.text_config
    length = inputs["input_ids"].shape[1]
    rows = _indices("position", positions, length)
    chosen = _indices("layer", range(config.num_hidden_layers) if layers is None else layers, config.num_hidden_layers)
    of_heads = None if heads is None else _indices("head", heads, config.num_attention_heads)
    recorder = _Recorder(torch.tensor(rows), chosen, of_heads, mean)
    kept = torch.tensor(rows[-1:] if mean else rows, device=inputs["input_ids"].device)
    with _recording(base, recorder):
        outputs = model(**inputs, logits_to_keep=kept)
    weights = [recorder.rows[layer] for layer in chosen]
    assert all(found is not None for found in weights), "every layer ran"
    return DecoderAttention(chosen, torch.stack(weights), outputs)  # type: ignore[arg-type]


def base_model(model: nn.Module) -> Owl2ForConditionalGeneration:
    """Our model, also where PEFT has wrapped it.

    Raises:
        ValueError: It is another one.
    """
    found: Any = model
    if hasattr(model, "get_base_model"):  # PeftModel, which is an extra
        found = found.get_base_model()
    if not isinstance(found, Owl2ForConditionalGeneration):
        raise ValueError(f"expected an Owl2ForConditionalGeneration, got {type(found).__name__}")
    return found


def _indices(what: str, wanted: Sequence[int], count: int) -> list[int]:
    found = [index + count if index < 0 else index for index in wanted]
    for index, given in zip(found, wanted, strict=True):
        if not 0 <= index < count:
            raise ValueError(f"there is no {what} {given}: the model has {count}, from 0 to {count - 1}")
    if not found:
        raise ValueError(f"expected at least one {what}")
    return found
