"""`owl2 serve` as a process of its own: what it does with SIGTERM."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import picture, user

GRACE_SECONDS = 2


@pytest.fixture
def long_context(directory: Path, tmp_path: Path) -> Path:
    """The tiny model, which may write longer answers than the grace lasts."""
    copy = Path(shutil.copytree(directory, tmp_path / "served"))
    config = json.loads((copy / "config.json").read_text())
    config["max_position_embeddings"] = 30_000
    (copy / "config.json").write_text(json.dumps(config))
    return copy


class Stream:
    """A streamed answer, whose first event has come."""

    def __init__(self, port: int, max_tokens: int, *images: Any) -> None:
        body = {"messages": [user("hello", *images)], "stream": True, "temperature": 0, "max_tokens": max_tokens}
        bias = {"2": -100}  # never the end of the turn
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        headers = {"Content-Type": "application/json"}
        self.connection.request("POST", "/v1/chat/completions", json.dumps({**body, "logit_bias": bias}), headers)
        self.response = self.connection.getresponse()
        assert self.response.status == 200
        self.events = self._events()
        next(self.events)

    def _events(self) -> Iterator[Any]:
        for line in self.response:
            data = line.removeprefix(b"data:").strip()
            if data:
                yield data.decode() if data == b"[DONE]" else json.loads(data)


def is_healthy(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


def test_sigterm_lets_streams_end_or_says_why_not_and_leaves_nothing_behind(long_context: Path, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "owl2", "serve", "-m", str(long_context), "--port", str(port)]
    command += [f"shutdown_seconds={GRACE_SECONDS}", "engine.max_requests=4", "engine.image_cache_bytes=1000000"]
    log = tmp_path / "log"
    with (
        log.open("w") as file,
        subprocess.Popen(command, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}) as server,
    ):
        try:
            deadline = time.monotonic() + 300
            while not is_healthy(port):
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            endless, short = Stream(port, 25_000), Stream(port, 8, picture(0))
            server.send_signal(signal.SIGTERM)
            assert list(short.events)[-1] == "[DONE]"
            *_, last = endless.events
            assert last["error"]["code"] == "shutting_down"
            assert server.wait(timeout=60) == 0
        finally:
            server.kill()
    assert "Traceback" not in log.read_text() and "Exception" not in log.read_text()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
