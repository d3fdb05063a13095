"""A server in the place of a judge, started by the tests."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(text: str | None, model: str = "the-model-2024") -> bytes:
    return json.dumps({"model": model, "choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


class JudgeServer:
    """Answers the n-th request (from 0) with `answer(n, body)`: a body, a status, status and headers, or silence."""

    def __init__(self) -> None:
        self.answer: Callable[[int, dict], Any] = lambda number, body: completion("0.5")
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.closing = threading.Event()
        self.most_at_once = self._at_once = 0
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(server.requests)
                    server.requests.append(body)
                    server.headers.append({"path": self.path, **self.headers})
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                answer = server.answer(number, body)
                with lock:
                    server._at_once -= 1
                self.give(answer)

            def do_GET(self) -> None:
                raise AssertionError("a judge only posts")

            def give(self, answer: Any) -> None:
                if answer == "silence":
                    server.closing.wait()
                    return
                if answer == "hang up":
                    self.close_connection = True
                    return
                status, headers = (200, {}) if isinstance(answer, bytes) else answer
                content = answer if isinstance(answer, bytes) else b'{"error": {"message": "no such luck"}}'
                drips = headers.pop("drips", False)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if not drips:
                    self.wfile.write(content)
                while drips and not server.closing.wait(0.01):
                    self.wfile.write(b" ")

            def log_message(self, *_: Any) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:  # the client has left
                    pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
