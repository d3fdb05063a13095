"""Options of the commands that load a model, in the same words everywhere."""

from difflib import get_close_matches
from typing import Annotated

import typer

from owl2.dtypes import ComputeDtype
from owl2.spelling import did_you_mean


def _check_bits(bits: int | None) -> int | None:
    if bits not in (None, 8, 4):
        raise ValueError(f"--bits {bits}: the language model can be kept in 8 or in 4 bits")
    return bits


def _check_device(device: str) -> str:
    kind, colon, index = device.partition(":")
    if kind not in DEVICES or (colon and not index.isdecimal()):
        hint = did_you_mean([] if kind in DEVICES else get_close_matches(kind, DEVICES, 1, cutoff=0.7))
        raise ValueError(f"--device {device}: {hint}choose among {', '.join(DEVICES)}; cuda:1 is the second GPU")
    return device


DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "hpu", "npu", "mtia")
"""Those on which PyTorch computes; whether one is here is seen when the model is loaded."""

Base = Annotated[
    str | None,
    typer.Option("--base", metavar="DIR", help="If DIR is a LoRA adapter: the model that it was trained on."),
]

Bits = Annotated[
    int | None,
    typer.Option(
        "--bits",
        metavar="8|4",
        callback=_check_bits,
        help="Keep the language model in 8 or 4 bits; needs the extra quantization.",
    ),
]

Dtype = Annotated[
    ComputeDtype,
    typer.Option("--dtype", help="Precision of the computation; auto is the checkpoint's own."),
]

Device = Annotated[str, typer.Option("--device", callback=_check_device, help="auto, cpu, cuda, cuda:1, mps, ...")]
