"""Texts, images and records from a user's files, made fit for a terminal."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.color import Color
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from PIL import Image

    from .preview import Preview, TokenRun

SUPERVISED = ("\N{LEFT DOUBLE ANGLE BRACKET}", "\N{RIGHT DOUBLE ANGLE BRACKET}")
"""The marks around supervised tokens where the output has no colours."""


def printable(text: str) -> str:
    """The text with control characters written out, so that a record cannot steer the terminal."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", lambda match: repr(match.group())[1:-1], text)


def thumbnail(image: "Image.Image", columns: int = 48) -> Text:
    """An image in coloured half blocks, two pixels a character."""
    rows = max(1, round(columns * image.height / image.width / 2))
    small = image.convert("RGB").resize((columns, 2 * rows))
    lines = []
    for row in range(rows):
        line = Text()
        for column in range(columns):
            upper, lower = (small.getpixel((column, 2 * row + half)) for half in (0, 1))
            line.append("\u2580", Style(color=_color(upper), bgcolor=_color(lower)))
        lines.append(line)
    return Text("\n").join(lines)


def _color(pixel: Any) -> Color:
    return Color.from_rgb(*pixel)


def preview_texts(shown: "Preview", heading: str, unit: str, has_colors: bool) -> Iterator[Text]:
    """A record as the model gets it: its number of tokens, its images, and its text with the supervised part marked.

    Args:
        heading: The name of the record.
        unit: The word for its tokens.
        has_colors: Whether the output shows colours, and images in them.
    """
    tokens = sum(run.tokens for run in shown.runs)
    supervised = sum(run.tokens for run in shown.runs if run.is_supervised)
    marking = Text("in colour", "bold green") if has_colors else Text("between {} and {}".format(*SUPERVISED))
    yield Text(f"{printable(heading)}: {tokens} {unit}, {supervised} supervised, ").append_text(marking)
    for name, picture in zip(shown.media, shown.pictures, strict=True):
        yield Text(printable(name))
        if has_colors:
            yield thumbnail(picture)
    for turn, token in shown.control_tokens:
        yield Text(f"turn {turn}: {printable(token)} is a control token here, which a run leaves out", "bold red")
    yield Text()
    yield Text.assemble(*(_styled(run, has_colors) for run in shown.runs))


def _styled(run: "TokenRun", has_colors: bool) -> tuple[str, str]:
    if run.is_visual:
        return f"[{run.text}, {run.tokens} tokens]", "cyan"
    text = printable(run.text)
    if run.is_supervised and not has_colors:
        text = f"{SUPERVISED[0]}{text}{SUPERVISED[1]}"
    return text, "bold green" if run.is_supervised else ""
