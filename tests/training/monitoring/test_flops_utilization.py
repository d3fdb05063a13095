"""The share of the GPUs' peak is the model's operations over what they could do in that time."""

from typing import Any, NamedTuple

import pytest
import torch

from owl2 import Owl2Config
from owl2.training.data.loader import Counts
from owl2.training.monitoring.flops_utilization import FlopsUtilization
from owl2.training.recipe.yaml_file import load_recipe


class Place(NamedTuple):
    """What is asked of a mesh."""

    device: torch.device
    size: int


def utilization(device: str, ranks: int) -> FlopsUtilization:
    place: Any = Place(torch.device(device), ranks)
    return FlopsUtilization(Owl2Config(vision_config={"image_size": 224}), load_recipe("pretrain"), place)


def test_captions_of_the_papers_first_stage_take_their_3_64_tflop_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    samples, rows = 512, 65 + 48  # visual rows and text
    counts = Counts(48 * samples, rows * samples, rows * samples, samples, samples, samples)
    for ranks in (1, 8):
        share = utilization("cuda", ranks).share(counts, 10.0)
        assert share == pytest.approx(samples * 3.64e12 / 10 / (ranks * 989e12), rel=3e-3)


@pytest.mark.parametrize(("device", "name"), [("cpu", None), ("cuda", "NVIDIA GeForce GTX 1080")])
def test_without_a_known_peak_there_is_no_share(device: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert utilization(device, 1).share(Counts(10, 100, 100, 1, 1, 1), 1.0) is None
