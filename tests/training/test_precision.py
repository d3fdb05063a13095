"""`precision: auto` is what trains faster here."""

import time

import pytest
import torch

from owl2.training.precision import fastest_training_dtype


@pytest.mark.parametrize("slow", [torch.float32, torch.bfloat16])
def test_on_a_cpu_it_is_the_precision_whose_products_are_faster(slow, monkeypatch):
    original = torch.nn.functional.linear

    def product(left, right):
        time.sleep(0.05 if left.dtype == slow else 0)
        return original(left, right)

    monkeypatch.setattr(torch.nn.functional, "linear", product)
    (wanted,) = {torch.float32, torch.bfloat16} - {slow}
    assert fastest_training_dtype(torch.device("cpu")) == wanted


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_elsewhere_it_is_bfloat16_without_a_trial(device, monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *_: pytest.fail("it was tried"))
    assert fastest_training_dtype(torch.device(device)) == torch.bfloat16
