"""Options of the commands that load a model, in the same words everywhere."""

from typing import Annotated

import typer


def _check_bits(bits: int | None) -> int | None:
    if bits not in (None, 8, 4):
        raise ValueError(f"--bits {bits}: the language model can be kept in 8 or in 4 bits")
    return bits


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
