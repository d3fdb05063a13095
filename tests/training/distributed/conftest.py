"""Shared by the tests of training on ranks."""

from collections.abc import Iterator

import pytest

from owl2.training.distributed.mesh import process_group


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """The process group of one process."""
    with process_group(60):
        yield
