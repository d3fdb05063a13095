"""A record on its way to a conversation: its turns, its media, and what is wrong with it."""

from dataclasses import dataclass, field
from typing import Any

from owl2.data.media import MediaRoot
from owl2.data.problems import Problem, ProblemKind, shown
from owl2.data.records import Conversation

MEDIA = ("image", "video")

_BLANK = " \t\r\n\v\f\u00a0\u200b\u2060\ufeff"
"""Characters that are no text by themselves, including those without a width."""

_SOURCES = ("path", "url", "base64")  # of an object that stands for an image or a video, and the kind itself


@dataclass
class RecordBuilder:
    """A conversation that the reader of a format fills in.

    Attributes:
        messages: Turns with `role` and `content`, a list of parts; media parts carry nothing.
        media: Sources of the images and of the videos, in the order of their placeholders.
        problems: Problems found so far.
        unread: Names of fields that are not read and mean nothing to the model.
        turns_before: Number of messages at the beginning that are not turns of the file.
    """

    id: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    media: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in MEDIA})
    problems: list[Problem] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    turns_before: int = 0

    def report(self, kind: ProblemKind, text: str) -> None:
        self.problems.append(Problem(kind, text))

    def report_foreign(self, number: int, foreign: str) -> None:
        """Reports that a turn holds a placeholder of another model, as `foreign_placeholder` describes it."""
        self.report(ProblemKind.PLACEHOLDERS, f"turn {number} holds {foreign}")

    def sources_of(self, kind: str, name: str, value: Any) -> list[str] | None:
        """Sources in a field of the record: a text, an object such as `{"path": ...}`, or a list of them."""
        items = value if isinstance(value, list) else [value]
        sources = [source_in(item, kind) if isinstance(item, dict) else item for item in items]
        if all(isinstance(source, str) for source in sources):
            return sources
        self.report(ProblemKind.MALFORMED, f"{name!r} must be a text or a list of texts, got {shown(value)}")
        return None

    def finish(self, root: MediaRoot) -> Conversation | None:
        """Checks the turns and finds the media. Returns the conversation, if nothing is wrong with the record."""
        if not any(problem.kind == ProblemKind.MALFORMED for problem in self.problems):
            self._check_order()
            self._check_counts()
        for number, message in enumerate(self.messages, 1 - self.turns_before):
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
        first = 1 + len(roles) - len(dialogue) - self.turns_before
        for number, (role, wanted) in enumerate(zip(dialogue, expected, strict=False), first):
            if role != wanted:
                self.report(ProblemKind.ROLES, f"turn {number} is of the role {shown(role)}, where {wanted!r} belongs")
                break
        if "assistant" not in roles:
            self.report(ProblemKind.NO_ANSWER, f"no turn of {len(roles)} is the assistant's: nothing would be learnt")
        elif all(message.get("weight") == 0 for message in self.messages if message["role"] == "assistant"):
            self.report(ProblemKind.NO_ANSWER, "no turn of the assistant is to be learnt: all have the weight 0")

    def _check_counts(self) -> None:
        parts = [part["type"] for message in self.messages for part in message["content"]]
        for kind in MEDIA:
            placeholders, sources = parts.count(kind), len(self.media[kind])
            hint = "" if placeholders else f": write <{kind}> where each stands"
            if placeholders != sources:
                self.report(
                    ProblemKind.PLACEHOLDERS, f"{placeholders} {kind} placeholders, but {sources} {kind}s{hint}"
                )

    def _check_content(self, number: int, message: dict[str, Any]) -> None:
        parts = message["content"]
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        if not text.strip(_BLANK) and (message["role"] == "assistant" or all(part["type"] == "text" for part in parts)):
            self.report(ProblemKind.EMPTY_TURN, f"turn {number} ({message['role']}) has no text")
        if message["role"] == "assistant" and any(part["type"] in MEDIA for part in parts):
            text_of_problem = f"turn {number} is the assistant's and holds an image or video: a model only reads them"
            self.report(ProblemKind.PLACEHOLDERS, text_of_problem)
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


def source_in(value: dict[str, Any], kind: str = "image") -> Any:
    """The source in an object: a path, an address, or base64 (here as a data URL); `None` if there is none."""
    name = next((name for name in (kind, *_SOURCES) if value.get(name) is not None), None)
    if name == "base64" and isinstance(value[name], str) and not value[name].startswith("data:"):
        return f"data:{kind};base64,{value[name]}"
    return None if name is None else value[name]
