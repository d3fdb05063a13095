"""Shared by the tests of the vLLM plugin: a model in both layouts, and what `generate` makes of the cases."""

from pathlib import Path

import pytest
from vllm_cases import CASES, Reader, Reference, save_model


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model in our layout, and another in the official one."""
    folder = tmp_path_factory.mktemp("vllm")
    return {layout: save_model(folder / layout, layout) for layout in ("ours", "official")}


@pytest.fixture(scope="session")
def readers(directories: dict[str, Path]) -> dict[str, Reader]:
    """These in transformers."""
    return {layout: Reader(directory) for layout, directory in directories.items()}


@pytest.fixture(scope="session")
def references(readers: dict[str, Reader]) -> dict[str, list[Reference]]:
    """The answers to all cases, one after the other."""
    return {layout: [reader.read(case) for case in CASES] for layout, reader in readers.items()}
