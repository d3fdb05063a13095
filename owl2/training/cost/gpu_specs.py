"""The peak speed and the memory of GPUs, from the makers' datasheets."""

from typing import NamedTuple


class Gpu(NamedTuple):
    """A kind of GPU.

    Attributes:
        flops: Dense bfloat16 operations a second with float32 sums (datasheets print twice that, with sparsity).
        memory: Bytes as in the datasheet, decimal; a card has a few per cent more.
    """

    flops: float
    memory: float
    source: str


GPUS = {
    "b200": Gpu(2250e12, 180e9, "NVIDIA HGX B200 datasheet"),
    "h200": Gpu(989.5e12, 141e9, "NVIDIA H200 datasheet, SXM"),
    "h100": Gpu(989.5e12, 80e9, "NVIDIA H100 datasheet, SXM"),
    "h100-pcie": Gpu(756e12, 80e9, "NVIDIA H100 datasheet, PCIe"),
    "a100": Gpu(312e12, 80e9, "NVIDIA A100 80GB datasheet"),
    "a100-40gb": Gpu(312e12, 40e9, "NVIDIA A100 datasheet"),
    "l40s": Gpu(362e12, 48e9, "NVIDIA L40S datasheet"),
    "a6000": Gpu(154.8e12, 48e9, "NVIDIA Ampere GA102 whitepaper, RTX A6000"),
    "rtx4090": Gpu(165.2e12, 24e9, "NVIDIA Ada GPU architecture whitepaper"),
    "rtx3090": Gpu(71e12, 24e9, "NVIDIA Ampere GA102 whitepaper"),
    "l4": Gpu(121e12, 24e9, "NVIDIA L4 datasheet"),
    "a10": Gpu(125e12, 24e9, "NVIDIA A10 datasheet"),
}

_NAMES = {
    "B200": "b200",
    "H200": "h200",
    "H100 PCIe": "h100-pcie",
    "H100": "h100",
    "A100-PCIE-40GB": "a100-40gb",
    "A100-SXM4-40GB": "a100-40gb",
    "A100": "a100",
    "L40S": "l40s",
    "RTX A6000": "a6000",
    "RTX 4090": "rtx4090",
    "RTX 3090": "rtx3090",
    "L4": "l4",
    "A10": "a10",
}
"""Words in the driver's name of a GPU; the first that is found counts."""


def gpu_named(name: str) -> Gpu:
    """A GPU of the table.

    Raises:
        ValueError: The table does not have it.
    """
    if name.lower() not in GPUS:
        raise ValueError(f"there is no GPU {name!r} in the table; choose among {', '.join(GPUS)}")
    return GPUS[name.lower()]


def gpu_of_device(device_name: str) -> Gpu | None:
    """The GPU of `torch.cuda.get_device_name()`; `None` where its kind is not in the table."""
    words = f" {device_name} "
    for shown, name in _NAMES.items():
        if f" {shown} " in words or f" {shown}-" in words:
            return GPUS[name]
    return None
