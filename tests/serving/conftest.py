"""Shared by the tests of serving: a small random model, and a server of it on a port of this machine."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from helpers import write_official
from model_server import SMALL, Server, serving
from openai import OpenAI
from PIL import Image

from owl2 import Owl2ForConditionalGeneration, Owl2Processor
from owl2.checkpoints.loading import load_for_chat
from owl2.serving.settings import load_settings


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory as the official code writes it, with its tokenizer."""
    return write_official(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def loaded(directory: Path) -> tuple[Owl2ForConditionalGeneration, Owl2Processor]:
    return load_for_chat(directory, "float32", "cpu")


@pytest.fixture(scope="session")
def model(loaded: Any) -> Owl2ForConditionalGeneration:
    return loaded[0]


@pytest.fixture(scope="session")
def processor(loaded: Any) -> Owl2Processor:
    return loaded[1]


@pytest.fixture
def start(loaded: Any) -> Iterator[Callable[..., Server]]:
    """Starts servers with settings of their own."""
    with ExitStack() as stack:
        yield lambda *overrides: stack.enter_context(serving(*loaded, load_settings(None, [*SMALL, *overrides])))


@pytest.fixture(scope="session")
def server(loaded: Any) -> Iterator[Server]:
    """A server that tests share; they leave it as it was."""
    with serving(*loaded, load_settings(None, SMALL)) as running:
        yield running


@pytest.fixture(scope="session")
def keyed_server(loaded: Any) -> Iterator[Server]:
    """As `server`, with the keys secret and second."""
    with serving(*loaded, load_settings(None, [*SMALL, "api_keys=[secret, second]"])) as running:
        yield running


@pytest.fixture
def with_settings(server: Server) -> Iterator[Callable[..., Server]]:
    """Gives the shared server other settings, of those that it looks up for each request, until the test ends."""
    before = server.state.settings

    def change(*overrides: str) -> Server:
        server.state.settings = load_settings(None, [*SMALL, *overrides])
        return server

    yield change
    server.state.settings = before


@pytest.fixture(scope="session", autouse=True)
def quick_collection() -> None:
    """The manager of transformers collects garbage when it stops, which takes long among all that torch has made."""
    gc.freeze()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], None]:
    """Lets a server take its time for each token, until the end of the test."""

    def delay(server: Server) -> None:
        sampler = server.engine.sampler
        prepare = sampler.prepare_tensor_args

        def prepare_slowly(requests: Any) -> Any:
            time.sleep(0.02)
            return prepare(requests)

        monkeypatch.setattr(sampler, "prepare_tensor_args", prepare_slowly)

    return delay


@pytest.fixture
def client(server: Server) -> OpenAI:
    return server.client()


@pytest.fixture
def generated(model: Any, processor: Any) -> Callable[..., str]:
    """What `generate` answers to a request alone."""

    def answer(text: str, *images: Image.Image, max_new_tokens: int = 12, placed: bool = False) -> str:
        front = "" if placed else "<|image|>" * len(images)
        inputs = processor(text=f"USER: {front}{text} ASSISTANT:", images=list(images) or None, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=0)
        return processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return answer
