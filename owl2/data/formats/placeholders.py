"""Placeholders of images and videos in texts: those that are read, and those of other models, which would be words."""

import re
from typing import Any

Part = dict[str, Any]

PLACEHOLDERS = {"<image>": "image", "<|image|>": "image", "<video>": "video", "<|video|>": "video"}
"""The placeholders that are read in texts: those of LLaVA and of the official mPLUG-Owl2."""

_PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS)))

# With the words that follow a name: <image_1>, <ImageHere>, <video_token>, <audio>.
_AFTER = r"[ _-]?(?:\d{1,3}|here|tokens?|pad|placeholder|start|end|context|features?|soft_token|patch|content)"
_AUDIO, _BOX = "audio, which mPLUG-Owl2 does not take", "a box or region of ms-swift"
_FOREIGN = {
    "an image of Qwen-VL": r"<img>[^<>\n]{1,500}</img>",
    "an image": rf"(?i:</?(?:image|img|picture|pic|photo){_AFTER}\s*/?>|</image>|<image\s*/>|<fake_token_around_image>"
    r"|<(?:start|end|begin)_of_image>|<im_(?:patch|start|end|col)>"
    r"|<\|(?!image\|>)\w*(?:image|img|vision|visual|picture|media)\w*\|>)"
    r"|<(?!image>)(?i:image)>|\[(?:IMG|IMAGE)(?:_[A-Z]+|[ _]?\d+)?\]",
    "a video": rf"(?i:</?(?:video|vid|frame|clip){_AFTER}\s*/?>|<vid>|<\|(?!video\|>)\w*(?:video|frame)\w*\|>)"
    r"|<(?!video>)(?i:video)>|\[VIDEO\]",
    _AUDIO: rf"(?i:</?(?:audio|speech|sound)(?:{_AFTER})?\s*/?>"
    r"|<\|\w*(?:audio|speech|sound)\w*\|>)|\[AUDIO\]",
    _BOX: r"<(?:bbox|ref-object)>",
}
_WRITE = "write <image> or <video> there, and the file in the record's 'images' or 'videos'"
_INSTEAD = {_AUDIO: "leave it out", _BOX: "write the numbers or the words themselves"}
_ANY_FOREIGN = re.compile("|".join(f"(?P<k{n}>{pattern})" for n, pattern in enumerate(_FOREIGN.values())))
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)


def parts_of_text(text: str) -> list[Part]:
    """Parts of a text with placeholders.

    Line breaks between placeholders at its beginning or end and the words are left out, as in the published prompt.
    """
    parts: list[Part] = []
    position = 0
    for match in _PLACEHOLDER.finditer(text):
        parts += [{"type": "text", "text": text[position : match.start()]}, {"type": PLACEHOLDERS[match.group()]}]
        position = match.end()
    parts.append({"type": "text", "text": text[position:]})
    return _without_edges(parts) if len(parts) > 1 else parts


def placeholder_in(text: str) -> str | None:
    """The first placeholder of the model itself in a text that should hold none."""
    return next((token for token in ("<|image|>", "<|video|>") if token in text), None)


def foreign_placeholder(text: str, is_part: bool = False) -> str | None:
    """The first placeholder of another model in a text, and what it was taken for, in words.

    Code, between backticks, is left alone. In a text that is a part (`is_part`) only tokens in `<|` and `|>` count:
    media are parts of their own there, and everything else is text.
    """
    if "<" not in text and "[" not in text:
        return None
    for match in _ANY_FOREIGN.finditer(_CODE.sub("", text) if "`" in text else text):
        token = match.group()
        if token in PLACEHOLDERS or (is_part and not token.startswith("<|")):
            continue
        meaning = list(_FOREIGN)[int(match.lastgroup[1:])]  # type: ignore[index]
        return f"{token[:80]!r}, which looks like the place of {meaning}: {_INSTEAD.get(meaning, _WRITE)}"
    return None


def _without_edges(parts: list[Part]) -> list[Part]:
    """Removes line breaks and empty texts between the text and the media at its beginning or end."""
    written = [index for index, part in enumerate(parts) if part["type"] == "text" and part["text"].strip("\r\n")]
    first, last = (written[0], written[-1]) if written else (len(parts), -1)
    kept = []
    for index, part in enumerate(parts):
        if part["type"] == "text":
            text = part["text"]
            text = text.lstrip("\r\n") if index <= first and first > 0 else text
            text = text.rstrip("\r\n") if index >= last and last < len(parts) - 1 else text
            part = {"type": "text", "text": text}
        if part["type"] != "text" or part["text"]:
            kept.append(part)
    return kept
