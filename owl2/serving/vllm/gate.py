"""The checks of `owl2 serve` in front of vLLM's server: host, key, type and size of every request."""

import os
from functools import cache

from starlette.types import ASGIApp

from owl2.serving.openai_api.metrics import Metrics
from owl2.serving.openai_api.security import Gate
from owl2.serving.settings import ServeSettings

from .launch import SETTINGS


@cache
def shared_settings() -> ServeSettings:
    """The settings that the launcher left in the environment; the defaults if vLLM was started without it."""
    return ServeSettings.model_validate_json(os.environ.get(SETTINGS, "{}"))


class VllmGate(Gate):
    """The gate as vLLM makes it of its option `--middleware`; vLLM counts the requests."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, shared_settings(), Metrics())
