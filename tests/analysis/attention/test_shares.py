"""Shares of attention by modality, on attention whose division is known."""

import pytest
import torch

from owl2.analysis.attention.recording import DecoderAttention
from owl2.analysis.attention.shares import minus_average, modality_shares


def attention(*rows: list[float]) -> DecoderAttention:
    """One layer, one position a sample."""
    return DecoderAttention([0], torch.tensor(rows)[None, :, None, :], None)


def test_an_even_row_has_no_enrichment_whatever_the_number_of_visual_tokens():
    is_vision = torch.tensor([[False, *[True] * 7, False, False]])
    found = modality_shares(attention([0.1] * 10), is_vision)
    assert [round(float(value), 4) for value in (found.begin, found.vision, found.text)] == [0.1, 0.7, 0.2]
    assert float(found.vision_enrichment) == pytest.approx(1) and float(found.text_enrichment) == pytest.approx(1)


def test_the_first_token_and_sinks_do_not_count_for_either_modality():
    is_vision = torch.tensor([[False, *[True] * 20, False]])
    row = [0.5, 0.3, *[0.005] * 19, 0.105]
    found = modality_shares(attention(row), is_vision)
    assert float(found.sinks) == pytest.approx(0.3) and float(found.vision) == pytest.approx(0.395)
    assert float(found.vision_enrichment) == pytest.approx((0.095 / 0.2) / (19 / 20))
    assert float(found.text_enrichment) == pytest.approx((0.105 / 0.2) / (1 / 20))


def test_padding_on_the_left_is_no_first_token():
    is_vision = torch.tensor([[False, False, True, False]])
    mask = torch.tensor([[0, 1, 1, 1]])
    found = modality_shares(attention([0.0, 0.6, 0.3, 0.1]), is_vision, mask)
    assert [round(float(value), 4) for value in (found.begin, found.vision, found.text)] == [0.6, 0.3, 0.1]


def test_a_batch_gives_the_mean_of_its_samples_and_text_alone_has_no_enrichment():
    is_vision = torch.tensor([[False, True, False], [False, False, False]])
    found = modality_shares(attention([0.2, 0.4, 0.4], [0.2, 0.4, 0.4]), is_vision)
    assert float(found.vision) == pytest.approx(0.2) and float(found.text) == pytest.approx(0.6)
    assert float(found.vision_enrichment) == pytest.approx(1)  # of the sample that has both
    assert torch.isnan(modality_shares(attention([0.2, 0.4, 0.4]), is_vision[1:]).vision_enrichment).all()


def test_modalities_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"attention to \(1, 3\) tokens, but modalities of \(1, 2\)"):
        modality_shares(attention([0.2, 0.4, 0.4]), torch.zeros(1, 2, dtype=torch.bool))


def test_what_every_token_attends_to_disappears_with_the_average():
    average = torch.tensor([0.6, 0.2, 0.2, 0.0])
    left = minus_average(torch.tensor([0.6, 0.1, 0.25, 0.05]), average)
    torch.testing.assert_close(left, torch.tensor([0.0, 0.0, 0.5, 0.5]))
    assert minus_average(average, average).sum() == 0
