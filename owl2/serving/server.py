"""A model directory served over HTTP until the process is told to stop."""

import asyncio
import logging
import math
import signal
import socket
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from owl2.checkpoints.loading import load_for_chat

from .openai_api.app import create_app
from .settings import ServeSettings

_LAST_WORDS_SECONDS = 1.0
"""The time in which clients can still read how their answers ended."""


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
        ValueError: As `load_for_chat`; the settings do not fit the model.
    """
    _log_to_stderr()
    model, processor = load_for_chat(directory, dtype, device, base, bits)
    name = settings.model_name or Path(directory).expanduser().resolve().name
    server = GracefulServer(create_app(model, processor, settings, name), settings)
    # uvicorn passes both signals on when it has stopped properly, and the exit code is to say so.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        server.run()
    except KeyboardInterrupt:
        pass


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # It writes ids of prompts to its warnings; its errors come back to us.
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)


class GracefulServer(uvicorn.Server):
    """uvicorn with the application of `create_app`, which ends as the engine does.

    When it is told to stop, it accepts no more connections, and answers in flight have `shutdown_seconds`. The rest
    then ends with an error, and clients that do not read it are cut off.
    """

    def __init__(self, app: FastAPI, settings: ServeSettings) -> None:
        super().__init__(_config(app, settings))
        self.engine = app.state.server.engine
        self.shutdown_seconds = settings.shutdown_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_answers())
        try:
            await super().shutdown(sockets)  # waits for the connections
        finally:
            ending.cancel()

    async def _end_answers(self) -> None:
        await self.engine.drain(self.shutdown_seconds)
        await asyncio.sleep(_LAST_WORDS_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _config(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds + 2 * _LAST_WORDS_SECONDS),
    )
