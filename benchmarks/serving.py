"""How fast a server answers, and whether it answers as `generate` does.

Requests with images at 1, 4, 16, 64 clients: time to the first token, time between tokens, tokens a second; beside
them, in the same run and on the same weights, `generate` for one request after the other and for one padded batch.
Answers that differ from those of `generate` alone are counted. `owl2 serve` is started by the benchmark;
`--url NAME=ADDRESS` adds any other server of the OpenAI API with the same weights, such as `transformers serve` or
vLLM.

Every request of a run has an image and a text of its own, so no cache of an earlier one helps. Answers have one length:
the end of the turn is forbidden, in `generate` and by `logit_bias`.
"""

import argparse
import base64
import http.client
import io
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from common import machine_facts
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
    """What a server wrote, and when (seconds from the request on, one entry a piece of text)."""

    text: str = ""
    times: list[float] = field(default_factory=list)
    tokens: int = 0


def make_requests(count: int, images: int, words: int, seed: int) -> list[Request]:
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    requests = []
    for _ in range(count):
        pixels = torch.randint(0, 256, (images, 64, 64, 3), generator=generator, dtype=torch.uint8).numpy()
        text = " ".join(draw.choices(WORDS, k=words))
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
        parts = [*({"type": "image"} for _ in request.images), {"type": "text", "text": request.text}]
        return self.processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)

    def answer(self, requests: list[Request]) -> list[str]:
        """Greedy answers, in one padded batch."""
        inputs = self.processor(
            text=[self.prompt(request) for request in requests],
            images=[request.images for request in requests] if any(request.images for request in requests) else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.model.device, dtype=self.model.dtype)
        output = self.model.generate(
            **inputs,
            max_new_tokens=self.tokens,
            do_sample=False,
            suppress_tokens=self.ends,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        return self.processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@contextmanager
def embedded_server(directory: str, arguments: argparse.Namespace):
    """`owl2 serve` in a process of its own, and its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "owl2", "serve", "--model", directory, "--port", str(port)]
    command += ["--dtype", arguments.dtype, "--device", arguments.device, *arguments.settings]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while not is_healthy(url):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"owl2 serve did not start: run {' '.join(command)}")
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=60)


def is_healthy(url: str) -> bool:
    try:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


def ask(url: str, model: str, request: Request, tokens: int, ends: list[int]) -> Answer:
    """One streamed answer."""
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": message_parts(request)}],
            "max_tokens": tokens,
            "temperature": 0,
            "logit_bias": {str(end): -100 for end in ends},
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=600)
    began = time.perf_counter()
    connection.request("POST", f"{parts.path}/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{url} answered {response.status}: {response.read().decode()[:500]}")
    answer = Answer()
    for line in response:
        data = line.removeprefix(b"data:").strip()
        if not data or data == b"[DONE]":
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise SystemExit(f"{url} says: {chunk['error']}")
        answer.tokens = (chunk.get("usage") or {}).get("completion_tokens", answer.tokens)
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content")
            if piece:
                answer.text += piece
                answer.times.append(time.perf_counter() - began)
    connection.close()
    return answer


def message_parts(request: Request) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for image in request.images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return [*parts, {"type": "text", "text": request.text}]


def model_of(url: str) -> str:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    connection.request("GET", f"{parts.path}/v1/models")
    return json.load(connection.getresponse())["data"][0]["id"]


def measure_server(url: str, requests: list[Request], clients: int, tokens: int, ends: list[int]) -> dict[str, float]:
    """All requests, as many at a time as there are clients."""
    model = model_of(url)
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        answers = list(threads.map(lambda request: ask(url, model, request, tokens, ends), requests))
    seconds = time.perf_counter() - began
    first = [answer.times[0] for answer in answers if answer.times]
    between = [later - earlier for each in answers for earlier, later in zip(each.times, each.times[1:], strict=False)]
    return {
        "tokens_per_second": sum(answer.tokens for answer in answers) / seconds,
        "first_token_median_seconds": statistics.median(first),
        "first_token_worst_seconds": max(first),
        "between_tokens_median_seconds": statistics.median(between) if between else 0.0,
        "between_tokens_worst_seconds": max(between, default=0.0),
        "different": sum(answer.text != each.expected for answer, each in zip(answers, requests, strict=True)),
        "requests": len(requests),
    }


def measure_generate(
    generator: Generator, requests: list[Request], clients: int
) -> tuple[dict[str, float], dict[str, float]]:
    """One request after the other, which also fills in what is expected, and padded batches of the clients' number."""
    began = time.perf_counter()
    for request in requests:
        (request.expected,) = generator.answer([request])
    sequential = time.perf_counter() - began
    began = time.perf_counter()
    answers: list[str] = []
    for start in range(0, len(requests), clients):
        answers += generator.answer(requests[start : start + clients])
    batched = time.perf_counter() - began
    total = len(requests) * generator.tokens
    different = sum(answer != request.expected for answer, request in zip(answers, requests, strict=True))
    return (
        {"tokens_per_second": total / sequential, "different": 0, "requests": len(requests)},
        {"tokens_per_second": total / batched, "different": different, "requests": len(requests)},
    )


def show(clients: int, rows: dict[str, dict[str, float]]) -> None:
    sequential = rows["generate, sequential"]["tokens_per_second"]
    batch = rows["generate, one batch"]["tokens_per_second"]
    print(f"\n{clients} clients")
    print(
        f"  {'':<24}{'tokens/s':>10}{'/ sequential':>14}{'/ batch':>9}{'first token':>13}{'next':>9}{'different':>11}"
    )
    for name, row in rows.items():
        rate = row["tokens_per_second"]
        first, between = row.get("first_token_median_seconds"), row.get("between_tokens_median_seconds")
        times = f"{first:>11.3f} s{between:>7.3f} s" if first is not None else " " * 22
        print(
            f"  {name:<24}{rate:>10.1f}{rate / sequential:>12.2f} x{rate / batch:>9.0%}{times}"
            f"{int(row['different']):>5} of {int(row['requests'])}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory of the checkpoint")
    parser.add_argument("--url", action="append", default=[], metavar="NAME=ADDRESS", help="another server")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--requests", type=int, default=1, help="of each client")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--images", type=int, default=1, help="of each request")
    parser.add_argument("--words", type=int, default=60, help="of each request")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE", help="of owl2 serve")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    generator = Generator(arguments.model, arguments.dtype, arguments.device, arguments.tokens)
    generator.answer(make_requests(1, arguments.images, arguments.words, seed=-1))
    results: dict[str, dict[str, dict[str, float]]] = {}
    with embedded_server(arguments.model, arguments) as own:
        servers = {"owl2 serve": own, **dict(each.split("=", 1) for each in arguments.url)}
        for url in servers.values():
            ask(url, model_of(url), make_requests(1, arguments.images, arguments.words, -1)[0], 4, generator.ends)
        for clients in arguments.clients:
            requests = make_requests(clients * arguments.requests, arguments.images, arguments.words, seed=clients)
            rows = dict(
                zip(
                    ("generate, sequential", "generate, one batch"),
                    measure_generate(generator, requests, clients),
                    strict=True,
                )
            )
            for name, url in servers.items():
                rows[name] = measure_server(url, requests, clients, arguments.tokens, generator.ends)
            show(clients, rows)
            results[str(clients)] = rows
    if arguments.out:
        arguments.out.write_text(json.dumps(describe(results, arguments), indent=2) + "\n")


def describe(results: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "by_clients": results,
        **{name: getattr(arguments, name) for name in ("requests", "tokens", "images", "words", "dtype", "settings")},
        **machine_facts(arguments.device.startswith("cuda")),
    }


if __name__ == "__main__":
    main()
