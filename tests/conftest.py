"""Shared by all tests."""

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # faster for tiny tensors, and the same on every machine
