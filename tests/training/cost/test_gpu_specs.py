"""GPUs by the names of their drivers."""

import pytest

from owl2.training.cost.gpu_specs import GPUS, gpu_of_device


@pytest.mark.parametrize(
    ("device", "gpu"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA A10", "a10"),
    ],
)
def test_a_gpu_is_known_by_the_name_that_its_driver_gives(device: str, gpu: str) -> None:
    assert gpu_of_device(device) == GPUS[gpu]


def test_an_unknown_device_has_no_peak() -> None:
    assert gpu_of_device("NVIDIA GeForce GTX 1080") is None
    assert gpu_of_device("NVIDIA A1000") is None
