"""Shared by all tests."""

import os

import pytest
import torch

from owl2.environment import MALLOC_SETTINGS


def pytest_configure(config: pytest.Config) -> None:
    os.environ.update({**MALLOC_SETTINGS, **os.environ})  # as `make` does: commands then do not start the tests anew
    torch.set_num_threads(1)  # faster for tiny tensors, and the same on every machine
