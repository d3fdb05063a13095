"""Figures of attention show words as they are, whatever a user asks and a model answers."""

import warnings
from html import unescape
from pathlib import Path

import pytest
import torch
from PIL import Image

from owl2.analysis.attention.figures import (
    default_layers,
    draw_figure_4,
    draw_image_maps,
    draw_mean_shares,
    draw_shares,
    save,
    spans,
)
from owl2.analysis.attention.over_data import MeanShares
from owl2.analysis.attention.recording import DecoderAttention
from owl2.analysis.attention.shares import Shares
from owl2.analysis.attention.study import Study

ANSWER = r"It costs $5$ or $\frac{1}{ 色"
TOKENS = ["It", "costs", "$5$", r"$\frac{1}{", "色"]
SHARES = Shares(*(torch.full((3,), value) for value in (0.3, 0.4, 0.2, 0.1, 1.1, 0.9)))


def study() -> Study:
    """Three layers, a prompt of two visual tokens and a word, and the answer."""
    is_vision = torch.tensor([[False, True, True, False, False, False, False, False]])
    weights = torch.rand(3, 1, len(TOKENS), is_vision.shape[1], generator=torch.Generator().manual_seed(0))
    attention = DecoderAttention([0, 1, 2], weights / weights.sum(-1, keepdim=True), None)
    return Study({"mm_token_type_ids": is_vision}, 3, ANSWER, TOKENS, attention, attention, SHARES)


def drawn(figure, path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The texts of a figure, which is saved without a warning."""
    monkeypatch.setitem(__import__("matplotlib").rcParams, "svg.fonttype", "none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [file.suffix for file in save(figure, path)] == [".png", ".svg"]
    return unescape(path.with_suffix(".svg").read_text())


def test_answers_and_tokens_with_formulas_stand_in_the_figures_as_they_are(tmp_path, monkeypatch):
    labels = ["<s>", "<image>", "<image>", *TOKENS]
    text = drawn(draw_figure_4({"$a$": study()}, {"$a$": labels}, [0, 2]), tmp_path / "figure_4", monkeypatch)
    assert f">$a$: {ANSWER}<" in text
    assert all(text.count(f">{token}<") == 3 for token in TOKENS)  # rows of two layers, columns below
    assert ANSWER in drawn(draw_shares({"one": study()}), tmp_path / "shares", monkeypatch)


def test_names_and_captions_do_too(tmp_path, monkeypatch):
    found = {"$a$ $b": {"relevant": MeanShares(SHARES, SHARES, SHARES, 4)}}
    assert ">picture, $a$ $b<" in drawn(draw_mean_shares(found, "of $x$."), tmp_path / "mean", monkeypatch)
    maps = {"attention": torch.rand(2, 2), "occlusion": torch.randn(2, 2)}
    figure = draw_image_maps(Image.new("RGB", (8, 8)), maps, f"the tokens of {ANSWER!r}")
    assert f"the tokens of {ANSWER!r}" in drawn(figure, tmp_path / "image", monkeypatch)


def test_no_caption_is_wider_than_its_figure(tmp_path):
    labels, caption = ["<s>", "<image>", "<image>", *TOKENS], "attention: mean over heads and tokens; " * 4
    figures = [draw_figure_4({"one": study()}, {"one": labels}, [0]), draw_shares({"one": study()})]
    figures.append(draw_image_maps(Image.new("RGB", (8, 8)), {"attention": torch.rand(2, 2)}, caption))
    for figure in figures:
        save(figure, tmp_path / "figure")
        (extent,) = [text.get_window_extent() for text in figure.texts]
        assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width and extent.y0 >= 0


def test_runs_of_visual_tokens_are_found_at_both_ends():
    assert spans(torch.tensor([True, True, False, True])) == [(0, 1), (3, 3)]
    assert spans(torch.tensor([False, False])) == []


@pytest.mark.parametrize(("count", "layers"), [(1, [0]), (2, [0, 1]), (32, [0, 16, 31])])
def test_the_first_middle_and_last_layer_are_drawn(count, layers):
    assert default_layers(count) == layers
