"""Questions to a judge and its replies, independent of where the judge runs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

JudgeMessage = Mapping[str, str]  # {"role": "system" or "user", "content": text}


@dataclass(frozen=True)
class Ask:
    """One question to a judge. `None` leaves the temperature or the length of the reply to the endpoint."""

    messages: tuple[JudgeMessage, ...]
    temperature: float | None = 0.0
    max_tokens: int | None = None


@dataclass(frozen=True)
class JudgeRequest:
    """An ask to a model. `run` and `attempt` keep apart the replies to equal asks: runs of a benchmark, and re-asking
    after a reply that could not be read. They are not sent: as the official programs do, the endpoint draws again.
    """

    model: str
    ask: Ask
    run: int = 0
    attempt: int = 0

    def body(self) -> dict[str, Any]:
        """The JSON body of a chat-completions request."""
        fields = {"model": self.model, **asdict(self.ask), "messages": [dict(message) for message in self.ask.messages]}
        return {name: value for name, value in fields.items() if value is not None}

    def identity(self) -> dict[str, Any]:
        """Everything that tells this request from others, as JSON."""
        return {**self.body(), "run": self.run, "attempt": self.attempt}

    def key(self) -> str:
        """SHA-256 of the identity, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class JudgeReply:
    """The text of a judge, and the model that wrote it according to the endpoint."""

    text: str
    served_by: str | None = None
