"""What users and models write is drawn as it is, and nothing of fonts is said on stderr."""

import warnings
from html import unescape
from pathlib import Path

import pytest

from owl2.figures import as_written, save_figure

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("matplotlib.figure")


@pytest.mark.parametrize(
    "text", ["$5 and $6", r"$\frac{", "a$b", r"\$5", "$$", "x^2 $y_1$ 100% #1 & {z}", "$色$", r"\\$a$"]
)
def test_text_with_dollar_signs_is_drawn_letter_by_letter(text: str, tmp_path: Path) -> None:
    figure = matplotlib.figure.Figure(layout="constrained")
    figure.subplots().set_xticks([0], [as_written(text)])
    figure.supxlabel(as_written(text), wrap=True)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        save_figure(figure, tmp_path / "figure.svg")
    assert unescape((tmp_path / "figure.svg").read_text()).count(f">{text}</text>") == 2


def test_characters_that_the_font_lacks_are_no_warning_and_other_warnings_stay(tmp_path: Path) -> None:
    figure = matplotlib.figure.Figure(layout="constrained")
    figure.suptitle("色 \N{TELUGU LETTER KA} \U0001f989 \t")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "figure.png", dpi=50)
        save_figure(figure, tmp_path / "figure.svg")
    assert (tmp_path / "figure.png").stat().st_size > 500
    with pytest.warns(UserWarning, match="no room"):
        save_figure(_Warning(), tmp_path / "figure.png")


class _Warning:
    def savefig(self, path: Path) -> None:
        warnings.warn("no room", stacklevel=1)
