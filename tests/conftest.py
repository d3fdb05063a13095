"""Shared by all tests. Imports wait until they are needed: the process that hands out tests reads this file too."""

import os
from typing import Any

import pytest

from owl2.environment import MALLOC_SETTINGS


def pytest_configure(config: pytest.Config) -> None:
    os.environ.update({**MALLOC_SETTINGS, **os.environ})  # as `make` does: commands then do not start the tests anew
    if config.getoption("numprocesses", default=None):
        return  # this process only hands out tests
    import torch

    torch.set_num_threads(1)  # faster for tiny tensors, and the same on every machine


@pytest.fixture(scope="session")
def model() -> Any:
    """A random model that answers in the tokens of `processor`; folders that need another one have their own."""
    from helpers import tiny_config, tiny_model

    return tiny_model(tiny_config(vocab_size=320, eos_token_id=2))


@pytest.fixture(scope="session")
def processor() -> Any:
    from helpers import GOLDENS
    from transformers import AutoTokenizer

    from owl2 import Owl2ImageProcessor, Owl2Processor

    tokenizer = AutoTokenizer.from_pretrained(GOLDENS / "tokenizer")
    return Owl2Processor(Owl2ImageProcessor(size={"height": 16, "width": 16}), tokenizer, num_image_tokens=4)
