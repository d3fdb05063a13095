"""Replies of judges on disk, one JSON file a request, named by the SHA-256 of the request."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from owl2.files import write_whole

from .request import JudgeReply, JudgeRequest


class JudgeCache:
    """Replies under `directory`. Threads and processes may share it: a file appears whole or not at all."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    def path(self, request: JudgeRequest) -> Path:
        key = request.key()
        return self.directory / key[:2] / f"{key}.json"

    def read(self, request: JudgeRequest) -> JudgeReply | None:
        """The stored reply, or `None`.

        Raises:
            ValueError: The file is damaged or belongs to another request.
        """
        path = self.path(request)
        try:
            content = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            entry = json.loads(content)
            if entry["request"] == request.identity() and isinstance(entry["reply"]["text"], str):
                return JudgeReply(**entry["reply"])
        except (ValueError, KeyError, TypeError):
            pass
        raise ValueError(f"{path} in the judge cache is damaged or was edited: delete it and judge again")

    def write(self, request: JudgeRequest, reply: JudgeReply) -> None:
        path = self.path(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        entry = json.dumps({"request": request.identity(), "reply": asdict(reply)}, indent=1)
        write_whole(path, entry)
