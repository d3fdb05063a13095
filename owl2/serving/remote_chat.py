"""A conversation with a model behind any server of the OpenAI API. Needs neither torch nor the model's files."""

import base64
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from owl2.reply import Reply

IMAGE_TOKEN, VIDEO_TOKEN = "<|image|>", "<|video|>"
_PLACEHOLDER = re.compile(f"({re.escape(IMAGE_TOKEN)}|{re.escape(VIDEO_TOKEN)})")

KEY_VARIABLE = "OWL2_API_KEY"
"""The environment variable with the key, if the server requires one."""

_LONGEST_ERROR = 2000
_SECONDS = 600.0


class RemoteChatSession:
    """A `ChatSession` whose model is on a server, which gets the whole conversation at each turn.

    Args:
        url: Address of the server, with or without `/v1` at its end.
        model: Its name there; the first that the server lists, if it is not given.

    Raises:
        ValueError: Not an http or https address, nothing answers there, or it lists no such model.
    """

    def __init__(self, url: str, system: str | None = None, model: str | None = None) -> None:
        if not re.match(r"https?://[^/]", url):
            raise ValueError(f"{url!r} is not the address of a server: it must begin with http:// or https://")
        self.url = url.rstrip("/").removesuffix("/v1") + "/v1"
        self.system = system
        # Not by way of a proxy or through a redirect: images and the key go to this server alone.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
        listed = {entry["id"]: entry for entry in self._models()}
        if not listed or model is not None and model not in listed:
            raise ValueError(f"the server at {self.url} has the models {', '.join(listed) or 'none'}, not {model!r}")
        self.model_name = model or next(iter(listed))
        self.context: int | None = listed[self.model_name].get("max_model_len")
        self.reset()

    @property
    def place(self) -> str:
        return self.url

    def reset(self) -> None:
        """Forgets the conversation, and images that wait for their turn."""
        self.messages: list[dict[str, Any]] = []
        if self.system:
            self.messages.append({"role": "system", "content": self.system})
        self._waiting: dict[str, list[dict[str, Any]]] = {IMAGE_TOKEN: [], VIDEO_TOKEN: []}
        self._sent = {IMAGE_TOKEN: 0, VIDEO_TOKEN: 0}

    def add_image(self, path: str) -> Image.Image:
        """Reads an image file for the next turn.

        Raises:
            ValueError: There is no such file, or it is not an image.
        """
        contents = _read(path, "image")
        try:
            image = Image.open(path)
        except OSError as error:
            raise ValueError(f"the image {path} is not an image that can be read") from error
        part = {"type": "image_url", "image_url": {"url": _data_url(Image.MIME.get(image.format or "", ""), contents)}}
        self._waiting[IMAGE_TOKEN].append(part)
        return image

    def add_video(self, path: str) -> None:
        """Reads a video file for the next turn; only servers of owl2 take them."""
        part = {"type": "video_url", "video_url": {"url": _data_url("video/mp4", _read(path, "video"))}}
        self._waiting[VIDEO_TOKEN].append(part)

    def ask(
        self,
        text: str,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """One turn; see `ChatSession.ask`. If it fails or is interrupted, the conversation is as before.

        Raises:
            ValueError: The server refuses it (the message is the server's); numbers of placeholders and of images
                differ.
        """
        started = time.perf_counter()
        message = {"role": "user", "content": self._parts(text)}
        body = {
            "model": self.model_name,
            "messages": [*self.messages, message],
            "max_tokens": self._most_tokens(max_new_tokens, [*self.messages, message]),
            "temperature": temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        answer, reason, usage = self._receive(body, on_text)
        self.messages += [message, {"role": "assistant", "content": answer}]
        for token, waiting in self._waiting.items():
            self._sent[token] += len(waiting)
        self._waiting = {IMAGE_TOKEN: [], VIDEO_TOKEN: []}
        return Reply(
            prompt=text,
            text=answer,
            images=self._sent[IMAGE_TOKEN],
            videos=self._sent[VIDEO_TOKEN],
            input_tokens=usage.get("prompt_tokens", 0),
            output_tokens=usage.get("completion_tokens", 0),
            seconds=round(time.perf_counter() - started, 3),
            finish_reason=reason,
        )

    def _most_tokens(self, wanted: int, messages: list[dict[str, Any]]) -> int:
        """The tokens that the context leaves: a server refuses more. If it does not count tokens, those asked for."""
        if self.context is None:
            return wanted
        try:
            with self._open("/tokenize", {"model": self.model_name, "messages": messages}, self.url[:-3]) as response:
                room = self.context - int(json.load(response)["count"])
        except (ValueError, KeyError, TypeError):
            return wanted
        return min(wanted, room) if room > 0 else wanted  # then the server says what is wrong

    def _parts(self, text: str) -> list[dict[str, Any]]:
        """The parts of a message: images in front of the text, or at its placeholders."""
        queues = {token: iter(waiting) for token, waiting in self._waiting.items()}
        parts: list[dict[str, Any]] = []
        for token, waiting in self._waiting.items():
            if token in text and text.count(token) != len(waiting):
                raise ValueError(f"{text.count(token)} {token} placeholders in the text but {len(waiting)} were given")
            if token not in text:
                parts += waiting
        for piece in _PLACEHOLDER.split(text):
            if piece in queues:
                parts.append(next(queues[piece]))
            elif piece:
                parts.append({"type": "text", "text": piece})
        return parts

    def _receive(self, body: dict[str, Any], on_text: Callable[[str], None] | None) -> tuple[str, str, dict[str, int]]:
        """The text, the reason of its end, and the usage."""
        answer, reason = "", "length"
        usage: dict[str, int] = {}
        for chunk in self._events(body):
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", ()):
                piece = choice["delta"].get("content") or ""
                reason = choice.get("finish_reason") or reason
                if not answer:
                    piece = piece.lstrip()  # the space between the prompt and the answer
                answer += piece
                if on_text is not None and piece:
                    on_text(piece)
        return answer.strip(), reason, usage

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with self._open("/chat/completions", body) as response:
            for line in response:
                data = line.decode("utf-8").strip().removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                if data:
                    event = json.loads(data)
                    if "error" in event:
                        raise ValueError(f"the server says: {event['error'].get('message', event['error'])}")
                    yield event
        raise ValueError("the server ended the answer before it was complete")

    def _models(self) -> list[dict[str, Any]]:
        with self._open("/models", None) as response:
            try:
                return list(json.load(response)["data"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"what answers at {self.url} does not have the API of OpenAI") from error

    def _open(self, path: str, body: dict[str, Any] | None, root: str | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            return self._opener.open(urllib.request.Request((root or self.url) + path, data, headers), timeout=_SECONDS)
        except urllib.error.HTTPError as error:
            raise ValueError(f"the server says: {_message(error)}") from error
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(f"nothing answers at {self.url}: {getattr(error, 'reason', error)}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _message(error: urllib.error.HTTPError) -> str:
    """The message in the body of a refusal."""
    text = error.read(_LONGEST_ERROR).decode("utf-8", "replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {error.code} {text.strip()[:200]}"


def _read(path: str, kind: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the {kind} {path}: {error.strerror or error}") from error


def _data_url(kind: str, contents: bytes) -> str:
    return f"data:{kind or 'application/octet-stream'};base64,{base64.b64encode(contents).decode()}"
