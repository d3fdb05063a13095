"""What the benchmarks of serving share: requests, servers in processes of their own, and streamed answers."""

import base64
import http.client
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from PIL import Image

from owl2.checkpoints.loading import load_for_chat

WORDS = "what is the colour of this shape and how many are there in a picture with blue red or green things".split()
START_SECONDS = 300


@dataclass
class Request:
    """A question about images, and what `generate` answers to it alone."""

    images: list[Image.Image]
    text: str
    expected: str = ""


@dataclass
class Answer:
    """What a server wrote, and when (seconds from the request on, one entry a piece of text).

    Attributes:
        error: `status code` of a refusal or of an event in the stream, if the answer is not whole.
    """

    text: str = ""
    times: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str = ""


@dataclass(frozen=True)
class Server:
    """Attributes:
    process: its own, where the benchmark has started it.
    """

    url: str
    model: str
    process: "subprocess.Popen[bytes] | None" = None

    def processor_seconds(self) -> float | None:
        """Processor time that its processes have taken, where Linux tells it."""
        if self.process is None or not Path("/proc/self/stat").is_file():
            return None
        ticks = 0
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # a process has ended meanwhile
                fields = file.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid:  # the session that `started` makes
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> int | None:
        """Of the host, resident, where Linux tells it."""
        file = Path(f"/proc/{self.process.pid}/statm") if self.process is not None else None
        if file is None or not file.is_file():
            return None
        return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def is_healthy(self) -> bool:
        try:
            return self.get("/health").status == 200
        except OSError:
            return False

    def get(self, path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        connection.request("GET", urlsplit(self.url).path + path)
        return connection.getresponse()


def make_requests(count: int, images: int, words: int, seed: int) -> list[Request]:
    """Requests with as many images and at most as many words."""
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    requests = []
    for _ in range(count):
        pixels = torch.randint(0, 256, (images, 64, 64, 3), generator=generator, dtype=torch.uint8).numpy()
        text = " ".join(draw.choices(WORDS, k=draw.randint(1, words)))
        requests.append(Request([Image.fromarray(each) for each in pixels], text))
    return requests


class Generator:
    """`generate` with answers of a fixed length."""

    def __init__(self, directory: str, dtype: str, device: str, tokens: int) -> None:
        self.model, self.processor = load_for_chat(directory, dtype, device)
        self.tokens = tokens
        end = self.model.generation_config.eos_token_id
        end = self.processor.tokenizer.eos_token_id if end is None else end
        self.ends = list(end) if isinstance(end, list | tuple) else [end]

    def prompt(self, request: Request) -> str:
        parts = [*({"type": "image"} for _ in request.images), text_part(request.text)]
        return self.processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)

    def inputs(self, requests: list[Request]) -> Any:
        """One padded batch."""
        return self.processor(
            text=[self.prompt(request) for request in requests],
            images=[request.images for request in requests] if any(request.images for request in requests) else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )

    def prompt_tokens(self, requests: list[Request]) -> list[int]:
        return self.inputs(requests)["attention_mask"].sum(dim=1).tolist()

    def answer(self, requests: list[Request]) -> list[str]:
        """Greedy answers, in one padded batch."""
        inputs = self.inputs(requests).to(self.model.device, dtype=self.model.dtype)
        output = self.model.generate(
            **inputs,
            max_new_tokens=self.tokens,
            do_sample=False,
            suppress_tokens=self.ends,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        return self.processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@contextmanager
def started(command: list[str], model: str, port: int, extra: dict[str, str] | None = None) -> Iterator[Server]:
    """A server in a process and session of its own, from when it is healthy to the end of the block.

    Args:
        extra: Variables of its environment.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), **(extra or {})}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    server = Server(f"http://127.0.0.1:{port}", model, process)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not server.is_healthy():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start: run {' '.join(command)}")
            time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def owl2_serve(directory: str, dtype: str, device: str, settings: list[str]) -> Any:
    """`owl2 serve`, to be entered."""
    port = free_port()
    command = [sys.executable, "-m", "owl2", "serve", "--model", directory, "--port", str(port)]
    command += ["--dtype", dtype, "--device", device, *settings, "model_name=benchmark"]
    return started(command, "benchmark", port)


def transformers_serve(directory: str, dtype: str, device: str) -> Any:
    """`transformers serve`, to be entered. It knows our classes as soon as owl2 is imported."""
    port = free_port()
    program = "import sys, owl2; from transformers.cli.transformers import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", directory, "--port", str(port), "--host", "127.0.0.1"]
    return started([*command, "--dtype", dtype, "--device", device], directory, port)


def vllm_serve(python: str, directory: str, dtype: str) -> Any:
    """`owl2 serve --engine vllm`, to be entered; on a CPU with the threads of the other servers.

    Args:
        python: Of an environment with vLLM.
    """
    port = free_port()
    command = [python, "-m", "owl2", "serve", "--engine", "vllm", "--model", directory, "--port", str(port)]
    on_cpu = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return started([*command, "--dtype", dtype, "model_name=benchmark"], "benchmark", port, on_cpu)


def elsewhere(url: str) -> Server:
    """A server that runs already, with the first model that it names."""
    return Server(url, json.load(Server(url, "").get("/v1/models"))["data"][0]["id"])


def body_of(server: Server, parts: list[dict[str, Any]], tokens: int, ends: list[int]) -> bytes:
    """A request for a streamed greedy answer of so many tokens to a message of these parts."""
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": tokens,
        "temperature": 0,
        "logit_bias": {str(end): -100.0 for end in ends},  # transformers serve takes no whole numbers
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body).encode()


def ask(server: Server, body: bytes, tokens: int, leave_after: int | None = None) -> Answer:
    """One streamed answer.

    Args:
        tokens: Of the answer, for servers that do not count.
        leave_after: Hang up after so many pieces of text.
    """
    answer, began = Answer(), time.perf_counter()
    try:
        for chunk in _chunks(server, body):
            if "error" in chunk:
                error = chunk["error"]  # a text in some servers
                answer.error = str(error.get("code") or error.get("message") if isinstance(error, dict) else error)
                break
            answer.tokens = (chunk.get("usage") or {}).get("completion_tokens", answer.tokens)
            for choice in chunk["choices"]:
                if choice["delta"].get("content"):
                    answer.text += choice["delta"]["content"]
                    answer.times.append(time.perf_counter() - began)
            if leave_after is not None and len(answer.times) >= leave_after:
                answer.error = "left"
                break
    except (OSError, http.client.HTTPException) as error:
        answer.error = type(error).__name__
    answer.tokens = answer.tokens or (0 if answer.error else tokens)
    return answer


def _chunks(server: Server, body: bytes) -> Iterator[dict[str, Any]]:
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=600)
    try:
        connection.request("POST", f"{parts.path}/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            text = response.read().decode(errors="replace")
            yield {"error": {"code": f"{response.status} {_code_in(text)}"}}
            return
        for line in response:
            data = line.removeprefix(b"data:").strip()
            if data.startswith(b"{"):
                yield json.loads(data)
    finally:
        connection.close()


def _code_in(text: str) -> str:
    try:
        error = json.loads(text)["error"]
        return str(error.get("code") or error["message"]) if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        return text[:200]


def message_parts(request: Request) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [image_part(png_of(image)) for image in request.images]
    return [*parts, text_part(request.text)]


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def image_part(contents: bytes) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(contents).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def png_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
