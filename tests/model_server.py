"""Servers of small models in threads of the test's process, and what is sent to them."""

import base64
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from openai import OpenAI
from PIL import Image

from owl2.serving.openai_api.app import create_app
from owl2.serving.server import GracefulServer
from owl2.serving.settings import ServeSettings

NAME = "tiny"
SMALL = ("engine.max_requests=8", "engine.page_tokens=8", "engine.image_cache_bytes=1000000", "shutdown_seconds=2")
"""Settings of a server for tests."""


class Server:
    """A server in a thread of this process, reached over a socket as any other is."""

    def __init__(self, app: Any, port: int) -> None:
        self.app = app
        self.url = f"http://127.0.0.1:{port}"
        self.state = app.state.server
        self.engine = self.state.engine

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, **options})

    def wait(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Until something is so, or the test fails."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.01)


@contextmanager
def serving(model: Any, processor: Any, settings: ServeSettings) -> Iterator[Server]:
    """Runs a server while the block lasts."""
    app = create_app(model, processor, settings, NAME)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = GracefulServer(app, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running = Server(app, port)
        running.wait(lambda: server.started)
        try:
            yield running
        finally:
            server.should_exit = True
            thread.join(timeout=20)


def picture(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A random image, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(values.numpy())


def data_url(image: Image.Image, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def user(text: str, *images: Image.Image) -> dict[str, Any]:
    """A user's message, its images first."""
    parts = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
