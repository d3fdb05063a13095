"""A record on its way to a conversation: its turns, its media, and what is wrong with it."""

import re
from dataclasses import dataclass, field
from typing import Any

from owl2.data.media import MediaRoot
from owl2.data.problems import Problem, ProblemKind, shown
from owl2.data.records import Conversation

Part = dict[str, Any]

MEDIA = ("image", "video")
PLACEHOLDERS = {"<image>": "image", "<|image|>": "image", "<video>": "video", "<|video|>": "video"}
"""In a text: those of LLaVA, and those of the official mPLUG-Owl2."""

_PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS)))


@dataclass
class RecordBuilder:
    """What a reader of a format fills in.

    Attributes:
        messages: turns with `role` and `content`, a list of parts; media parts carry nothing.
        media: sources of the images and of the videos, in the order of their placeholders.
        problems: found so far.
    """

    id: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    media: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in MEDIA})
    problems: list[Problem] = field(default_factory=list)

    def report(self, kind: ProblemKind, text: str) -> None:
        self.problems.append(Problem(kind, text))

    def take_media(self, kind: str, name: str, value: Any) -> None:
        """Sources of the record's field `name`: a text or a list of texts; nothing where it is empty."""
        sources = [] if value is None or value == "" else value if isinstance(value, list) else [value]
        if all(isinstance(source, str) for source in sources):
            self.media[kind] = sources
        else:
            self.report(ProblemKind.MALFORMED, f"{name!r} must be a text or a list of texts, got {shown(value)}")

    def finish(self, root: MediaRoot) -> Conversation | None:
        """Checks the turns and finds the media; the conversation, if nothing was wrong with the record."""
        if not any(problem.kind == ProblemKind.MALFORMED for problem in self.problems):
            self._check_order()
            self._check_counts()
        for number, message in enumerate(self.messages, 1):
            self._check_content(number, message)
        found = {kind: [self._resolve(source, kind, root) for source in self.media[kind]] for kind in MEDIA}
        if self.problems:
            return None
        videos = iter(found["video"])
        for message in self.messages:
            for part in message["content"]:
                if part["type"] == "video":
                    part["path"] = next(videos)
        return Conversation(self.id, self.messages, tuple(found["image"]))

    def _check_order(self) -> None:
        roles = [message["role"] for message in self.messages]
        dialogue = roles[1:] if roles[:1] == ["system"] else roles
        expected = ["user", "assistant"] * len(dialogue)
        for number, (role, wanted) in enumerate(zip(dialogue, expected, strict=False), 1 + len(roles) - len(dialogue)):
            if role != wanted:
                self.report(ProblemKind.ROLES, f"turn {number} is of the role {shown(role)}, where {wanted!r} belongs")
                break
        if "assistant" not in roles:
            self.report(ProblemKind.NO_ANSWER, f"no turn of {len(roles)} is the assistant's: nothing would be learnt")

    def _check_counts(self) -> None:
        parts = [part["type"] for message in self.messages for part in message["content"]]
        for kind in MEDIA:
            placeholders, sources = parts.count(kind), len(self.media[kind])
            if placeholders != sources:
                self.report(ProblemKind.PLACEHOLDERS, f"{placeholders} {kind} placeholders, but {sources} {kind}s")

    def _check_content(self, number: int, message: dict[str, Any]) -> None:
        parts = message["content"]
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        if not text.strip() and (message["role"] == "assistant" or all(part["type"] == "text" for part in parts)):
            self.report(ProblemKind.EMPTY_TURN, f"turn {number} ({message['role']}) has no text")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            self.report(
                ProblemKind.INVALID_UTF8, f"turn {number} holds half a surrogate pair, which is not a character"
            )

    def _resolve(self, source: str, kind: str, root: MediaRoot) -> str:
        found = root.resolve(source, kind)
        if isinstance(found, Problem):
            self.problems.append(found)
            return source
        return found


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


def _without_edges(parts: list[Part]) -> list[Part]:
    """No line breaks, and no empty texts, between the media at the beginning or the end and the text."""
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
