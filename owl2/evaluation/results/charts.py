"""Charts of results next to the published ones."""

from collections.abc import Sequence
from math import pi
from pathlib import Path
from typing import Protocol

from owl2.evaluation.results.published.tables import REFERENCE

_OURS, _PUBLISHED = "tab:blue", "tab:orange"


class Compared(Protocol):
    """The parts of a comparison that are drawn."""

    @property
    def label(self) -> str: ...
    @property
    def ours(self) -> float: ...
    @property
    def published(self) -> float | None: ...
    @property
    def reasons(self) -> tuple[str, ...]: ...


def draw_radar(comparisons: Sequence[Compared], path: Path) -> Path:
    """Ours as a share of the published result, one axis a measure; the published one is the circle at 1.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = _figure((7, 7), polar=True)
    pairs = [(entry, entry.published) for entry in comparisons if entry.published]
    angles = [2 * pi * index / len(pairs) for index in range(len(pairs))]
    shares = [entry.ours / published for entry, published in pairs]
    axes.plot([*angles, *angles[:1]], [*shares, *shares[:1]], color=_OURS, marker="o", label="Ours")
    axes.fill(angles, shares, color=_OURS, alpha=0.15)
    circle = [2 * pi * index / 100 for index in range(101)]
    axes.plot(circle, [1.0] * 101, color=_PUBLISHED, label=f"{REFERENCE}, published")
    axes.set_xticks(angles, [_label(entry) for entry, _ in pairs], fontsize=8)
    axes.set_ylim(0, max(1.1, *shares) if shares else 1.1)
    axes.legend(loc="upper right", bbox_to_anchor=(1.2, 1.1))
    return _save(figure, path)


def draw_bars(comparisons: Sequence[Compared], path: Path) -> Path:
    """Ours and the published result of each measure side by side, each pair on its own scale with its numbers.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = _figure((8, 0.5 * len(comparisons) + 1.5))
    for index, entry in enumerate(comparisons):
        published = entry.published or 0.0
        scale = max(entry.ours, published) or 1.0
        for offset, value, color in ((-0.2, entry.ours, _OURS), (0.2, published, _PUBLISHED)):
            axes.barh(index + offset, value / scale, 0.38, color=color)
            axes.text(value / scale, index + offset, f" {value:.4g}", va="center", fontsize=8)
    axes.set_yticks(range(len(comparisons)), [_label(entry) for entry in comparisons], fontsize=8)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.set_xlim(0, 1.15)
    axes.set_title(
        f"Ours (blue) and {REFERENCE} as published (orange)\n* not a fair comparison, see the table", fontsize=9
    )
    return _save(figure, path)


def _label(entry: Compared) -> str:
    return entry.label + ("*" if entry.reasons else "")


def _figure(size: tuple[float, float], polar: bool = False):  # type: ignore[no-untyped-def]  # matplotlib is optional
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the charts need matplotlib: pip install 'owl2[eval]'") from error
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot(projection="polar" if polar else None)


def _save(figure, path: Path) -> Path:  # type: ignore[no-untyped-def]
    figure.savefig(path, dpi=120)
    return path
