"""A model directory served over HTTP until the process is told to stop."""

import logging
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from owl2.checkpoints.loading import load_for_chat

from .openai_api.app import create_app
from .settings import ServeSettings


def serve(
    directory: str,
    settings: ServeSettings,
    dtype: str = "auto",
    device: str = "auto",
    base: str | None = None,
    bits: int | None = None,
) -> None:
    """Loads a model and answers until SIGINT or SIGTERM; answers that are being written are then finished first.

    Raises:
        ValueError: as `load_for_chat`; the settings do not fit the model.
    """
    _log_to_stderr()
    model, processor = load_for_chat(directory, dtype, device, base, bits)
    name = settings.model_name or Path(directory).expanduser().resolve().name
    app = create_app(model, processor, settings, name)
    try:
        uvicorn.Server(server_config(app, settings)).run()
    except KeyboardInterrupt:  # uvicorn has stopped in order, and passes the signal on
        pass


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # It writes ids of prompts to its warnings; its errors come back to us.
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)


def server_config(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    """How uvicorn runs an application: it waits for answers in flight as long as the engine does, and names nobody."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
    )
