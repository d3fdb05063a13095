"""Figures of an inspection show names as they are."""

import warnings
from html import unescape

import matplotlib

from owl2.analysis.attention.figures import save
from owl2.analysis.inspection.figures import draw_forgetting
from owl2.analysis.inspection.forgetting import TextAbility
from owl2.analysis.statistics import Interval


def test_names_of_checkpoints_are_drawn_as_they_are(tmp_path):
    ability = TextAbility(3.0, Interval(2.0, 4.0), 0.5, Interval(0.4, 0.6))
    names = ["runs/$a$", r"$\frac{", "色"]
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.simplefilter("error")
        save(draw_forgetting(dict.fromkeys(names, ability), "of $x$ and $y$"), tmp_path / "figure")
    text = unescape((tmp_path / "figure.svg").read_text())
    assert all(text.count(f">{name}<") == 2 for name in names) and "of $x$ and $y$" in text
