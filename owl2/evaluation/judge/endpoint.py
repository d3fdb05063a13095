"""One request to an OpenAI-compatible chat-completions endpoint, and the kinds of its failures."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from .request import JudgeReply, JudgeRequest

OPENAI_BASE_URL = "https://api.openai.com/v1"
KEY_VARIABLE, BASE_URL_VARIABLE = "OPENAI_API_KEY", "OPENAI_BASE_URL"
_SECONDS_TO_EXPLAIN = 1.0  # for the body of an error, which is a courtesy
_CHUNK = 65536


class JudgeFailure(Exception):
    """A request without a usable answer.

    Attributes:
        kind: "timeout", "connection", "malformed" or "http_" and the status.
        passing: Whether another attempt may succeed.
        retry_after: Seconds to wait that the endpoint asks for, or 0.
    """

    def __init__(self, kind: str, detail: str, passing: bool = True, retry_after: float = 0.0) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.passing, self.retry_after = kind, passing, retry_after


@dataclass(frozen=True)
class Endpoint:
    """The endpoint of a judge: `base_url` is without "/chat/completions", `timeout` is for a whole request."""

    base_url: str
    api_key: str = field(repr=False)
    timeout: float

    @classmethod
    def from_environment(cls, base_url: str | None, api_key: str | None, timeout: float) -> "Endpoint":
        """An endpoint; `OPENAI_BASE_URL` and `OPENAI_API_KEY` replace arguments that are `None`.

        Raises:
            ValueError: No key, a base URL that is not http(s), or a timeout that is not positive.
        """
        base_url = base_url or os.environ.get(BASE_URL_VARIABLE) or OPENAI_BASE_URL
        api_key = (api_key or os.environ.get(KEY_VARIABLE) or "").strip()
        if not api_key:
            raise ValueError(
                f"the judge at {base_url} has no API key: set the variable {KEY_VARIABLE} (to any text for a server "
                f"that needs none; {BASE_URL_VARIABLE} names another server), or replay from the cache"
            )
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"the judge's base URL {base_url!r} must begin with http:// or https://")
        if timeout <= 0:
            raise ValueError(f"the judge's timeout of {timeout} seconds must be positive")
        return cls(base_url.rstrip("/"), api_key, timeout)

    def send(self, request: JudgeRequest) -> JudgeReply:
        """Asks once.

        Raises:
            JudgeFailure: No usable answer this time.
            ValueError: No request can succeed: wrong key, address or model.
        """
        post = Request(
            f"{self.base_url}/chat/completions",
            data=json.dumps(request.body()).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.api_key}"},
            method="POST",
        )
        deadline = time.monotonic() + self.timeout
        try:
            with build_opener(_NoRedirect).open(post, timeout=self.timeout) as response:
                return _reply(_read_until(deadline, response.read1))
        except HTTPError as error:
            raise self._refusal(error, request.model) from error
        except TimeoutError as error:
            raise self._timed_out() from error
        except (OSError, HTTPException) as error:
            if isinstance(error, URLError) and isinstance(error.reason, TimeoutError):
                raise self._timed_out() from error
            raise JudgeFailure("connection", f"{self.base_url}: {error}") from error

    def _timed_out(self) -> JudgeFailure:
        return JudgeFailure("timeout", f"{self.base_url} has not answered within {self.timeout} seconds")

    def _refusal(self, error: HTTPError, model: str) -> Exception:
        status, said = error.code, _explanation(error)
        if status in (401, 403):
            return ValueError(f"{self.base_url} refuses the API key ({status}): check {KEY_VARIABLE}. It says: {said}")
        if status == 404 or 300 <= status < 400:
            return ValueError(
                f"{self.base_url} does not offer chat completions of a model {model!r} ({status}): check "
                f"{BASE_URL_VARIABLE} (it often ends in /v1; redirects are not followed) and the model. It says: {said}"
            )
        passing = status in (408, 429) or status >= 500
        return JudgeFailure(f"http_{status}", said, passing, _seconds(error.headers.get("Retry-After")))


class _NoRedirect(HTTPRedirectHandler):
    """Refuses redirects, which would hand the key to another server."""

    def redirect_request(self, *arguments: Any, **keywords: Any) -> None:
        return None


def _read_until(deadline: float, read: Callable[[int], bytes]) -> bytes:
    """Reads a whole body by a deadline: a socket's own timeout starts again with each byte."""
    chunks = []
    while chunk := read(_CHUNK):
        chunks.append(chunk)
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(chunks)


def _reply(body: bytes) -> JudgeReply:
    try:
        answer = json.loads(body)
        text = answer["choices"][0]["message"]["content"]
        served_by = answer.get("model")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise JudgeFailure("malformed", f"no chat completion: {body[:200]!r}") from error
    if not isinstance(text, str):
        raise JudgeFailure("malformed", f"a chat completion without text: {body[:200]!r}")
    return JudgeReply(text, served_by if isinstance(served_by, str) else None)


def _explanation(error: HTTPError) -> str:
    try:
        with error:
            body = _read_until(time.monotonic() + _SECONDS_TO_EXPLAIN, error.read1)
    except (OSError, HTTPException):
        body = b""
    return body[:300].decode(errors="replace") or str(error.reason)


def _seconds(retry_after: str | None) -> float:
    """A Retry-After header in seconds; its other form, a date, is left to the back-off."""
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:
        return 0.0
