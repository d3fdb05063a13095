"""`owl2 serve --engine vllm`: OpenAI's client gets the answers of `generate`, and refusals that say why."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from model_server import data_url, picture, user
from openai import OpenAI
from PIL import Image
from vllm_cases import SETTINGS, Reader

from owl2.serving.engine.prompts import PromptBuilder

pytest.importorskip("vllm", reason="make test-vllm has an environment with vLLM")

START_SECONDS = 600
ROOT = Path(__file__).parents[3]


@dataclass
class RunningServer:
    url: str
    client: OpenAI
    log: Path


@pytest.fixture(scope="module")
def server(directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """In a process of its own, started as users start it."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "owl2.cli.main", "serve", "--engine", "vllm", "-m", str(directories["ours"])]
    settings = [f"port={port}", "model_name=tiny", "limits.images=3", "limits.image_pixels=10000"]
    options = ["limits.body_bytes=300000", "api_keys=[secret]", "--", "--max-num-seqs", "16", "--block-size", "32"]
    environment = {**os.environ, **SETTINGS, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *settings, *options], stdout=output, stderr=output, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process, log)
        yield RunningServer(url, OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0), log)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5)
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)


@dataclass
class Question:
    """What is sent, and the same for the processor."""

    messages: list[dict[str, Any]]
    plain: list[dict[str, Any]]
    images: list[Image.Image]
    frames: list[Image.Image] | None = None


def question(text: str, *seeds: int) -> Question:
    images = [picture(seed) for seed in seeds]
    parts = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    return Question([user(text, *images)], [{"role": "user", "content": parts}], images)


def video_question(text: str, seed: int) -> Question:
    """About an animation of as many frames as the model takes, without loss."""
    frames = [picture(seed + number) for number in range(4)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    url = f"data:video/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    ask = {"type": "text", "text": text}
    messages = [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": url}}, ask]}]
    return Question(messages, [{"role": "user", "content": [{"type": "video"}, ask]}], [], frames)


def several_turns(seed: int) -> Question:
    first, second = question("what is it?", seed), question("and this one?", seed + 1)
    said = {"role": "assistant", "content": "a cat"}
    return Question(
        [*first.messages, said, *second.messages],
        [*first.plain, said, *second.plain],
        [*first.images, *second.images],
    )


QUESTIONS = [
    question("hello"),
    question("what is it?", 1),
    question("which one?", 2, 3),
    question("and now?", 4, 5, 6),
    several_turns(7),
    video_question("what happens?", 20),
]


@torch.no_grad()
def generated(reader: Reader, asked: Question) -> list[int]:
    """Tokens that `generate` answers to a question alone."""
    builder = PromptBuilder(reader.processor, reader.model.config.text_config.vocab_size)
    prompt = builder.of_messages(asked.plain, asked.images, [asked.frames] if asked.frames else [])
    reader.model.generation_config.eos_token_id = 2
    output = reader.model.generate(
        input_ids=torch.tensor([prompt.input_ids]),
        mm_token_type_ids=torch.tensor([prompt.is_vision]).long(),
        pixel_values=prompt.pixel_values,
        max_new_tokens=16,
        do_sample=False,
    )
    return output[0, len(prompt) :].tolist()


def ask(server: RunningServer, messages: list[dict[str, Any]], **options: Any) -> Any:
    """The answer as OpenAI's client gives it; it also has its `token_ids`."""
    settings = {"model": "tiny", "temperature": 0, "max_tokens": 16, "extra_body": {"return_token_ids": True}}
    return server.client.chat.completions.create(messages=messages, **{**settings, **options}).choices[0]


def test_many_clients_at_once_get_what_generate_answers_to_each_alone(
    server: RunningServer, readers: dict[str, Reader]
) -> None:
    expected = [generated(readers["ours"], asked) for asked in QUESTIONS]
    numbers = [number % len(QUESTIONS) for number in range(16)]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda number: ask(server, QUESTIONS[number].messages), numbers))
    # Not their texts: random answers hold bytes that are no text, which vLLM shows piece by piece.
    assert [answer.token_ids for answer in answers] == [expected[number] for number in numbers]
    assert len({tuple(tokens) for tokens in expected}) > 1


def test_a_streamed_answer_is_the_same(server: RunningServer) -> None:
    stream = server.client.chat.completions.create(
        model="tiny", messages=QUESTIONS[1].messages, temperature=0, max_tokens=16, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == ask(server, QUESTIONS[1].messages).message.content


def parts(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(contents)}]


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def png_url(contents: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(contents).decode()}"


GOOD = data_url(picture(1))
CUT_SHORT = png_url(base64.b64decode(GOOD.partition(",")[2])[:500])
POSTSCRIPT = png_url(b"%!PS-Adobe-3.0 EPSF-3.0")


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (parts(image_part(GOOD), image_part(CUT_SHORT)), "image 2 is damaged or cut short"),
        (parts(image_part(POSTSCRIPT)), "image 1 cannot be read"),
        (parts(image_part("http://127.0.0.1:1/a.png")), "this server fetches nothing"),
        (parts(image_part("file:///etc/passwd")), "only data:"),
        (parts(image_part(data_url(picture(1, (101, 100))))), "over the limit of 10000"),
        (parts(*[image_part(GOOD)] * 4), "At most 3 image"),
        (parts({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}), "'input_audio' is not taken"),
        ([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}], "out of place"),
        (parts({"type": "text", "text": "a " * 2000}), "context length"),
    ],
    ids=["cut short", "PostScript", "address", "file", "pixels", "images", "audio", "roles", "too long"],
)
def test_a_request_without_an_answer_is_status_400_and_the_server_lives_on(
    messages: list[dict[str, Any]], said: str, server: RunningServer
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(server, messages)
    assert said in str(refused.value)
    assert len(ask(server, QUESTIONS[0].messages, max_tokens=1).token_ids) == 1


def test_a_text_is_letters_whatever_tokens_it_spells(server: RunningServer, readers: dict[str, Reader]) -> None:
    reader, typed = readers["ours"], "a</s> <|image|> b"
    answer = server.client.completions.create(
        model="tiny", prompt=typed, max_tokens=1, extra_body={"return_token_ids": True}
    )
    builder = PromptBuilder(reader.processor, reader.model.config.text_config.vocab_size)
    assert answer.choices[0].prompt_token_ids == builder.of_text(typed).input_ids


def test_a_prompt_of_unknown_ids_is_status_400(server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError, match="not in the vocabulary of 320 tokens"):
        server.client.completions.create(model="tiny", prompt=[1, 320], max_tokens=1)


def test_keys_names_and_sizes_are_checked_as_by_the_embedded_server(server: RunningServer) -> None:
    stranger = OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with pytest.raises(openai.APIStatusError) as too_large:
        ask(server, parts({"type": "text", "text": "a" * 400_000}))
    assert too_large.value.status_code == 413
    elsewhere = urllib.request.Request(f"{server.url}/v1/models", headers={"Host": "example.org"})
    with pytest.raises(urllib.error.HTTPError) as wrong_host:
        urllib.request.urlopen(elsewhere)
    assert wrong_host.value.code == 421


def test_the_model_has_its_name_and_context(server: RunningServer) -> None:
    (model,) = server.client.models.list().data
    assert (model.id, json.loads(model.model_dump_json())["max_model_len"]) == ("tiny", 512)
