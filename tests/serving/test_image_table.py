"""Encoded images by virtual ids, of which none is ever used for other pixels."""

import pytest
import torch

from owl2.serving.engine.image_table import ImageTable, ImageTableFull

ROWS, HIDDEN, FIRST = 3, 4, 100


def images(*values: float) -> torch.Tensor:
    return torch.stack([torch.full((3, 2, 2), value) for value in values])


def encode(pixel_values: torch.Tensor) -> torch.Tensor:
    """Visual tokens that say of which image they are, and of which row."""
    rows = pixel_values[:, 0, 0, 0, None] + torch.arange(ROWS) / 10
    return rows[..., None].expand(-1, -1, HIDDEN)


@pytest.fixture
def table() -> ImageTable:
    return ImageTable(ROWS, HIDDEN, 2, FIRST)


def test_ids_look_up_the_rows_of_their_image(table):
    for (_, ids), value in zip(table.acquire(images(1, 2, 1), encode), (1, 2, 1), strict=True):
        assert torch.equal(table.lookup(torch.tensor([ids]))[0], encode(images(value))[0])
    assert (table.misses, table.hits) == (2, 1)


def test_the_same_pixels_have_the_same_ids_as_long_as_they_stay(table):
    (slot, first), *_ = table.acquire(images(1), encode)
    table.release([slot])
    assert table.acquire(images(1), lambda pixels: pytest.fail("encoded again"))[0][1] == first


def test_no_id_is_used_again_for_other_pixels_nor_for_the_same_after_they_left(table):
    seen: dict[int, int] = {}
    for value in (1, 2, 3, 1, 4, 2, 1, 5):
        ((slot, ids),) = table.acquire(images(value), encode)
        assert all(seen.setdefault(token, value) == value for token in ids)
        assert torch.equal(table.lookup(torch.tensor(ids)), encode(images(value))[0])
        table.release([slot])
    assert min(seen) >= FIRST and table.evictions >= 4
    assert table.bytes_in_use == 2 * ROWS * HIDDEN * 4


def test_the_least_recently_used_leaves_but_nothing_that_is_held(table):
    held = table.acquire(images(1, 2), encode)
    with pytest.raises(ImageTableFull):
        table.acquire(images(2, 3), encode)
    table.release([held[1][0]])
    table.acquire(images(3), encode)
    assert table.acquire(images(1), lambda pixels: pytest.fail("encoded again"))[0][1] == held[0][1]


def test_an_encoder_that_fails_leaves_nothing_held(table):
    def broken(pixel_values: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory")

    table.acquire(images(1), encode)
    with pytest.raises(RuntimeError):
        table.acquire(images(1, 2), broken)
    assert sum(table._pins) == 1


def test_ids_that_would_not_fit_32_bits_are_refused(table, monkeypatch):
    monkeypatch.setattr("owl2.serving.engine.image_table.LARGEST_ID", FIRST + 2 * ROWS)
    slots = [slot for slot, _ in table.acquire(images(1, 2), encode)]
    table.release(slots)
    with pytest.raises(ImageTableFull, match="used up"):
        table.acquire(images(3), encode)
