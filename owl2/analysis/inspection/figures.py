"""One figure a measure; a line under each says what was averaged."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from owl2.figures import as_written

from .alignment import Alignment
from .copies import Drift
from .forgetting import TextAbility
from .gradients import Conflict
from .swap import Swap

_VISION, _TEXT, _BETWEEN, _NOISE = "#c0504d", "#3b6ea5", "#4f8a4c", "#8c8c8c"


def draw_swap(accuracy: float, swaps: Sequence[Swap], caption: str) -> Figure:
    """Accuracy lost by layer, and for all layers at once; in points."""
    figure = Figure(figsize=(2.2 + 0.45 * len(swaps), 3.4), layout="constrained")
    axes = figure.subplots()
    names = ["all" if swap.layer is None else str(swap.layer) for swap in swaps]
    lost = [100 * swap.lost for swap in swaps]
    errors = _errors(lost, [[100 * end for end in swap.interval] for swap in swaps])
    colors = [_BETWEEN if swap.layer is None else _VISION for swap in swaps]
    axes.bar(range(len(swaps)), lost, yerr=errors, color=colors, width=0.6, capsize=2, ecolor="#444444")
    axes.set_xticks(range(len(swaps)), names, fontsize=7)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xlabel("decoder layers whose visual tokens take the parameters of text", fontsize=8)
    axes.set_ylabel(f"points lost of {100 * accuracy:.1f}", fontsize=8)
    return _captioned(figure, caption)


def draw_drift(drifts: Sequence[Drift], caption: str) -> Figure:
    """Distance and angle of each copy from its origin, by layer."""
    figure = Figure(figsize=(8.2, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(drift.name for drift in drifts):
        chosen = [drift for drift in drifts if drift.name == name]
        layers = [drift.layer for drift in chosen]
        left.plot(layers, [drift.distance for drift in chosen], marker="o", markersize=3, label=name)
        right.plot(layers, [drift.angle for drift in chosen], marker="o", markersize=3)
    left.set_ylabel("distance / norm of the origin", fontsize=8)
    right.set_ylabel("angle (degrees)", fontsize=8)
    _by_layer(left, right)
    figure.legend(fontsize=6, loc="outside right upper")
    return _captioned(figure, caption)


def draw_conflict(conflicts: Sequence[Conflict], caption: str) -> Figure:
    """Cosine of text and picture gradients of each shared matrix between the noise floors of both."""
    figure = Figure(figsize=(3.2 + 0.18 * len(conflicts), 4.6), layout="constrained")
    axes = figure.subplots()
    places = range(len(conflicts))
    axes.plot(places, [each.within_text for each in conflicts], "_", color=_TEXT, label="two halves of text")
    axes.plot(places, [each.within_vision for each in conflicts], "_", color=_VISION, label="two halves of pictures")
    axes.plot(
        places, [each.between for each in conflicts], "o", color=_BETWEEN, markersize=4, label="text and pictures"
    )
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xticks(places, [_short(each.name) for each in conflicts], rotation=90, fontsize=6)
    axes.set_ylabel("cosine of gradients", fontsize=8)
    axes.legend(fontsize=7)
    return _captioned(figure, caption)


def draw_alignment(alignment: Alignment, caption: str) -> Figure:
    """Debiased CKA by hidden state, beside pairs at random."""
    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    axes = figure.subplots()
    layers = range(len(alignment.cka))
    low, high = (
        [mean + sign * 2 * deviation for mean, deviation in zip(*alignment[1:3], strict=True)] for sign in (-1, 1)
    )
    axes.fill_between(layers, low, high, color=_NOISE, alpha=0.3, label="shuffled pairs, ± 2 deviations")
    axes.plot(layers, alignment.shuffled, color=_NOISE, linewidth=0.8)
    axes.plot(layers, alignment.cka, color=_BETWEEN, marker="o", markersize=3, label="a picture and its text")
    axes.set_ylabel("debiased linear CKA", fontsize=8)
    _by_layer(axes, label="hidden state (0: embeddings)")
    axes.legend(fontsize=7)
    return _captioned(figure, caption)


def draw_forgetting(abilities: Mapping[str, TextAbility], caption: str) -> Figure:
    """Perplexity of the corpus, and questions without pictures that are answered, from checkpoint to checkpoint."""
    figure = Figure(figsize=(3.0 + 1.6 * len(abilities), 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    found = list(abilities.values())
    for axes, values, intervals, label in (
        (left, [each.perplexity for each in found], [each.perplexity_interval for each in found], "perplexity"),
        (
            right,
            [100 * each.accuracy for each in found],
            [[100 * end for end in each.accuracy_interval] for each in found],
            "questions answered (%)",
        ),
    ):
        axes.errorbar(range(len(found)), values, yerr=_errors(values, intervals), color=_TEXT, marker="o", capsize=3)
        axes.set_xticks(range(len(found)), [as_written(name) for name in abilities], fontsize=7, rotation=20)
        axes.set_xlim(-0.5, len(found) - 0.5)
        axes.set_ylabel(label, fontsize=8)
    return _captioned(figure, caption)


def _errors(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[list[float]]:
    """Lengths of the bars below and above; none where there is no interval."""
    ends = [
        (0.0, 0.0) if math.isnan(low) else (max(0.0, value - low), max(0.0, high - value))
        for value, (low, high) in zip(values, intervals, strict=True)
    ]
    return [list(side) for side in zip(*ends, strict=True)]


def _by_layer(*axes: Any, label: str = "decoder layer") -> None:
    for place in axes:
        place.set_xlabel(label, fontsize=8)
        place.xaxis.set_major_locator(MaxNLocator(integer=True))


def _short(name: str) -> str:
    """`3.self_attn.q_proj` of a parameter's full name."""
    return name.split("layers.")[-1].removesuffix(".weight")


def _captioned(figure: Figure, caption: str) -> Figure:
    figure.supxlabel(as_written(caption), fontsize=7, wrap=True)
    return figure
