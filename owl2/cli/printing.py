"""What every command does with texts and images from a user's files."""

import re
from typing import TYPE_CHECKING, Any

from rich.color import Color
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from PIL import Image


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
