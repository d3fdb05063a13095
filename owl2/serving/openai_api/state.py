"""The state that the routes share."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from owl2.serving.engine.engine import Engine
from owl2.serving.engine.errors import PromptTooLong, RequestError
from owl2.serving.engine.grammar import Grammars
from owl2.serving.engine.prompts import PromptBuilder
from owl2.serving.fetching import Fetcher
from owl2.serving.settings import ServeSettings

from .metrics import Metrics


class ModelNotFound(RequestError):
    status = 404
    code = "model_not_found"


@dataclass
class ServerState:
    """One model with its engine.

    Attributes:
        preparation: The one thread that decodes images and tokenizes.
        fetches: Threads that wait for images from elsewhere.
    """

    engine: Engine
    prompts: PromptBuilder
    settings: ServeSettings
    model_name: str
    metrics: Metrics
    fetcher: Fetcher
    grammars: Grammars
    created: int = field(default_factory=lambda: int(time.time()))
    preparation: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "owl2-prompts"))
    fetches: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8, "owl2-fetches"))

    def check_model(self, name: str | None) -> None:
        """Raises `ModelNotFound` for any name but that of the model; no name is accepted too."""
        if name is not None and name != self.model_name:
            raise ModelNotFound(f"there is no model {name!r}: this server has {self.model_name!r}", "model")

    def check_prompt(self, tokens: int) -> None:
        """Raises `PromptTooLong` for more tokens than a prompt may have."""
        limit = self.settings.limits.prompt_tokens
        if limit is not None and tokens > limit:
            raise PromptTooLong(f"the prompt takes {tokens} tokens, over the limit of {limit}")


def state_of(request: Request) -> ServerState:
    state: Any = request.app.state
    return state.server


def client_of(request: Request) -> str:
    """The client of a request, for fairness and rates: its key or, without keys, its address."""
    key = request.headers.get("authorization", "")
    return key or (request.client.host if request.client else "")
