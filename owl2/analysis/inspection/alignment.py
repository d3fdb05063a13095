"""How alike pictures and their texts are inside: debiased linear CKA by layer, beside shuffled pairs.

The biased CKA grows with the ratio of width to samples; the debiased one is 0 in the mean for independent data.

Shapes: n samples, L + 1 hidden states, D hidden.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from owl2.analysis.attention.on_image import visual_rows
from owl2.analysis.attention.recording import base_model

SHUFFLES = 20
LEAST_SAMPLES = 4  # of the unbiased estimator


class Alignment(NamedTuple):
    """CKA of pictures and texts by hidden state, the embeddings first.

    Attributes:
        cka: [L + 1] of each picture's mean visual token and its text's mean token.
        shuffled: [L + 1] mean of the same with pictures and texts paired at random.
        shuffled_deviation: [L + 1] over the shuffles.
    """

    cka: list[float]
    shuffled: list[float]
    shuffled_deviation: list[float]
    samples: int


def debiased_cka(one: torch.Tensor, other: torch.Tensor) -> float:
    """Debiased linear CKA of paired representations [n, D] and [n, E] (Song et al. 2012; Kornblith et al. 2019).

    Raises:
        ValueError: There are fewer than 4 pairs, or other numbers of rows.
    """
    if one.shape[0] != other.shape[0] or one.shape[0] < LEAST_SAMPLES:
        raise ValueError(f"expected at least {LEAST_SAMPLES} pairs, got {one.shape[0]} and {other.shape[0]} rows")
    first, second = (_gram(values) for values in (one, other))
    scale = (_unbiased_hsic(first, first) * _unbiased_hsic(second, second)).clamp(min=0).sqrt()
    return float(_unbiased_hsic(first, second) / scale) if scale > 0 else 0.0


def _gram(values: torch.Tensor) -> torch.Tensor:
    centred = values.double() - values.double().mean(0)
    return (centred @ centred.T).fill_diagonal_(0)


def _unbiased_hsic(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    n = one.shape[0]
    trace = (one * other).sum()
    means = one.sum() * other.sum() / ((n - 1) * (n - 2))
    rows = 2 * (one.sum(0) @ other.sum(0)) / (n - 2)
    return (trace + means - rows) / (n * (n - 3))


@torch.no_grad()
def alignment_by_layer(model: nn.Module, samples: Iterable[Mapping[str, Any]], seed: int = 0) -> Alignment:
    """How alike the hidden states of pictures and of their texts are.

    Args:
        samples: Inputs of one sample each, with one picture or more and text about it.

    Raises:
        ValueError: A sample has no picture or no text, or there are fewer than 4.
    """
    pairs = [_means(model, sample) for sample in samples]
    if len(pairs) < LEAST_SAMPLES:
        raise ValueError(f"expected at least {LEAST_SAMPLES} samples, got {len(pairs)}")
    vision = torch.stack([pair[0] for pair in pairs], dim=1)  # [L + 1, n, D]
    text = torch.stack([pair[1] for pair in pairs], dim=1)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(pairs), generator=generator) for _ in range(SHUFFLES)]
    cka = [debiased_cka(one, other) for one, other in zip(vision, text, strict=True)]
    shuffled = torch.tensor(
        [[debiased_cka(one, other[order]) for order in orders] for one, other in zip(vision, text, strict=True)]
    )
    return Alignment(cka, shuffled.mean(1).tolist(), shuffled.std(1).tolist(), len(pairs))


def _means(model: nn.Module, sample: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """[L + 1, D] mean over visual tokens, and over the tokens of text behind the first."""
    is_vision = visual_rows(sample, base_model(model).config)[0].cpu()
    is_text = ~is_vision
    is_text[0] = False
    if not is_vision.any() or not is_text.any():
        raise ValueError("every sample needs a picture and a text")
    outputs = model(**sample, output_hidden_states=True, logits_to_keep=1)
    states = torch.stack([layer[0].float().cpu() for layer in outputs.hidden_states])
    return states[:, is_vision].mean(1), states[:, is_text].mean(1)
