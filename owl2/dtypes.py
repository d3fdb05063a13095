"""Names of the precisions that models are stored and computed in, where nobody waits for torch."""

from typing import Literal, get_args

WeightDtype = Literal["float32", "bfloat16", "float16"]
"""The precision in which weights are written."""

ComputeDtype = Literal["auto", WeightDtype]
"""The precision in which a model computes; auto is the checkpoint's own."""


def check_dtype(dtype: str) -> None:
    """Raises `ValueError` unless it is a `ComputeDtype`."""
    known = get_args(ComputeDtype)
    if dtype not in known:
        raise ValueError(f"there is no dtype {dtype!r}: choose among {', '.join(known)}")
