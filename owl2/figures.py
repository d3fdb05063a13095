"""Figures of matplotlib with words of users and models in them."""

import warnings
from pathlib import Path
from typing import Any


def as_written(text: str) -> str:
    """Text that is drawn as it is: between two dollar signs, matplotlib would read mathematics."""
    return text.replace("$", r"\$")


def save_figure(figure: Any, path: Path, **settings: Any) -> None:
    """Writes a figure; characters that the font or matplotlib lacks are boxes, of which nothing is said on stderr.

    Args:
        figure: A figure of matplotlib.
        settings: Arguments of its `savefig`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from|Matplotlib currently does not support .* natively")
        figure.savefig(path, **settings)
