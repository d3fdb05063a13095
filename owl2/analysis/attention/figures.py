"""The figures of a study; a line under each says what was averaged."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from owl2.figures import as_written, save_figure

from .over_data import MeanShares
from .study import Study

_VISION, _TEXT, _BEGIN, _SINK = "#c0504d", "#3b6ea5", "#8c8c8c", "#e0a44c"
_MOST_LABELS = 60
NOT_IMPORTANCE = "Attention is not importance: see the occlusion."


def default_layers(count: int) -> list[int]:
    """First, middle and last layer."""
    return sorted({0, count // 2, count - 1})


def draw_figure_4(studies: Mapping[str, Study], labels: Mapping[str, list[str]], layers: Sequence[int]) -> Figure:
    """Tokens of the answer over the input, a row a layer, a column a model; the picture's tokens are marked."""
    figure = Figure(figsize=(6.5 * len(studies), 1.2 + 1.9 * len(layers)), layout="constrained")
    grid = figure.subplots(len(layers), len(studies), squeeze=False)
    for column, (name, study) in enumerate(studies.items()):
        for row, layer in enumerate(layers):
            axes = grid[row][column]
            weights = study.attention.weights[layer, 0].numpy()
            drawn = axes.imshow(weights, aspect="auto", cmap="magma", norm=PowerNorm(0.4, vmin=0, vmax=1))
            _mark_pictures(axes, study.is_vision)
            axes.set_ylabel(f"layer {layer}", fontsize=8)
            axes.set_yticks(range(len(study.tokens)), [as_written(token) for token in study.tokens], fontsize=6)
            axes.set_xticks([])
            if row == 0:
                axes.set_title(as_written(f"{name}: {study.answer[:60]}"), fontsize=9)
        _label_tokens(grid[-1][column], labels[name], study.is_vision)
    figure.colorbar(drawn, ax=grid[:, -1], shrink=0.8, label="attention (scale: power 0.4)")
    heads = "mean over heads; tokens of the answer (rows) over prompt and answer (columns); red bar: visual tokens"
    figure.supxlabel(f"{heads}. {NOT_IMPORTANCE}", fontsize=7, wrap=True)
    return figure


def _mark_pictures(axes: Any, is_vision: torch.Tensor) -> None:
    limits = axes.get_ylim()
    for first, last in spans(is_vision):
        axes.plot([first - 0.5, last + 0.5], [-0.5, -0.5], color=_VISION, linewidth=4, clip_on=False)
    axes.set_ylim(limits)


def spans(is_vision: torch.Tensor) -> list[tuple[int, int]]:
    """First and last index of each run of visual tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_vision.int().numpy(), [0]])))
    return [(int(first), int(last) - 1) for first, last in zip(edges[::2], edges[1::2], strict=True)]


def _label_tokens(axes: Any, labels: Sequence[str], is_vision: torch.Tensor) -> None:
    places = [index for index, vision in enumerate(is_vision.tolist()) if not vision]
    shown = places[:: max(1, len(places) // _MOST_LABELS)]
    axes.set_xticks(shown, [as_written(labels[index].strip()) or "·" for index in shown], rotation=90, fontsize=5)


def draw_shares(studies: Mapping[str, Study]) -> Figure:
    """Share of text and picture by layer, with the first token and visual sinks apart, and the enrichment beside it."""
    figure = Figure(figsize=(4.2 * len(studies), 5.2), layout="constrained")
    grid = figure.subplots(2, len(studies), squeeze=False, sharey="row")
    for column, (name, study) in enumerate(studies.items()):
        shares, layers = study.shares, range(len(study.shares.vision))
        upper, lower = grid[0][column], grid[1][column]
        upper.stackplot(
            layers,
            (shares.vision - shares.sinks).numpy(),
            shares.sinks.numpy(),
            shares.text.numpy(),
            shares.begin.numpy(),
            labels=["picture", "visual sinks", "text", "first token"],
            colors=[_VISION, _SINK, _TEXT, _BEGIN],
        )
        upper.set_ylim(0, 1)
        upper.set_title(as_written(f"{name}: {study.answer[:40]}"), fontsize=9)
        lower.plot(layers, shares.vision_enrichment.numpy(), color=_VISION, marker="o", markersize=3)
        lower.plot(layers, shares.text_enrichment.numpy(), color=_TEXT, marker="o", markersize=3)
        lower.axhline(1, color="black", linewidth=0.6, linestyle=":")
        lower.set_xlabel("decoder layer", fontsize=8)
        lower.set_xlim(upper.get_xlim())
        for axes in (upper, lower):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[0][0].set_ylabel("share of attention", fontsize=8)
    grid[1][0].set_ylabel("share / share of tokens", fontsize=8)
    figure.legend(*grid[0][-1].get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    figure.supxlabel(
        "mean over heads and over the tokens of the answer; below, first token and sinks are left out",
        fontsize=7,
        wrap=True,
    )
    return figure


_LINES = {"vision": ("picture", _VISION), "sinks": ("visual sinks", _SINK), "text": ("text", _TEXT)} | {
    "begin": ("first token", _BEGIN)
}
_STYLES = ("-", "--", ":", "-.")


def draw_mean_shares(found: Mapping[str, Mapping[str, MeanShares]], caption: str) -> Figure:
    """Means over a data set by layer, a column a condition; bands are intervals, models differ in the line's style.

    Args:
        found: Shares by model and condition.
    """
    conditions = list(next(iter(found.values())))
    figure = Figure(figsize=(3.4 * len(conditions), 5.6), layout="constrained")
    grid = figure.subplots(2, len(conditions), squeeze=False, sharey="row", sharex=True)
    for column, condition in enumerate(conditions):
        upper, lower = grid[0][column], grid[1][column]
        upper.set_title(condition, fontsize=9)
        for style, (model, by_condition) in zip(itertools.cycle(_STYLES), found.items()):
            shares = by_condition[condition]
            for name, (label, color) in _LINES.items():
                _band(upper, shares, name, color, style, as_written(f"{label}, {model}"))
            for name, color in (("vision_enrichment", _VISION), ("text_enrichment", _TEXT)):
                _band(lower, shares, name, color, style, None)
        upper.set_ylim(0, 1)
        lower.axhline(1, color="black", linewidth=0.6, linestyle=":")
        lower.set_xlabel("decoder layer", fontsize=8)
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[0][0].set_ylabel("share of attention", fontsize=8)
    grid[1][0].set_ylabel("share / share of tokens", fontsize=8)
    figure.legend(*grid[0][0].get_legend_handles_labels(), fontsize=6, loc="outside right upper")
    figure.supxlabel(as_written(f"{caption} {NOT_IMPORTANCE}"), fontsize=7, wrap=True)
    return figure


def _band(axes: Any, shares: MeanShares, name: str, color: str, style: str, label: str | None) -> None:
    mean, low, high = (getattr(each, name).numpy() for each in shares[:3])
    axes.fill_between(range(len(mean)), low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(mean, color=color, linestyle=style, marker="o", markersize=2, label=label)


def draw_image_maps(image: Image.Image, maps: Mapping[str, torch.Tensor], caption: str) -> Figure:
    """Heat maps over an image, from red (for) to blue (against) where a map has both signs."""
    figure = Figure(figsize=(2.6 * (len(maps) + 1), 3.0), layout="constrained")
    axes = figure.subplots(1, len(maps) + 1)
    axes[0].imshow(image)
    axes[0].set_title("image", fontsize=8)
    for place, (name, values) in zip(axes[1:], maps.items(), strict=True):
        signed = bool((values < 0).any())
        limit = float(values.abs().max()) or 1.0
        extent = (0, image.width, image.height, 0)
        place.imshow(image.convert("L"), cmap="gray", extent=extent)
        place.imshow(
            values.numpy(),
            extent=extent,
            alpha=0.6,
            cmap="coolwarm" if signed else "inferno",
            vmin=-limit if signed else 0,
            vmax=limit,
            interpolation="nearest",
        )
        place.set_title(name, fontsize=8)
    for place in axes:
        place.set_axis_off()
    figure.supxlabel(as_written(caption), fontsize=7, wrap=True)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes a figure as PNG and SVG."""
    files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        save_figure(figure, file, dpi=150)
    return files
