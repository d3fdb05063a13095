"""Products of one row with weights in bfloat16 on a CPU: a step of decoding one answer is made of them.

Such a step takes as long as reading the weights. oneDNN, which torch asks for products in bfloat16, reads them at about
a third of the speed of memory, and torch's own product of a matrix and a vector, which it takes where oneDNN is off, at
half to nine tenths, by the shape (LLaMA's at 4,096 wide on an AMD EPYC, two threads). With more rows oneDNN is much
faster.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock

import torch

_lock = Lock()
_running = 0
_enabled_before = True


def fast_one_row_products(hidden_states: torch.Tensor) -> AbstractContextManager[None]:
    """A context for products with these rows, in which they are computed in the fastest way.

    Args:
        hidden_states: [..., D].
    """
    is_one_row = hidden_states.numel() == hidden_states.shape[-1]
    if is_one_row and hidden_states.dtype == torch.bfloat16 and hidden_states.device.type == "cpu":
        if not torch.compiler.is_compiling():
            return _without_onednn()
    return nullcontext()


@contextmanager
def _without_onednn() -> Iterator[None]:
    """The switch is one for all threads: the last to leave turns oneDNN on again."""
    global _running, _enabled_before
    with _lock:
        if _running == 0:
            _enabled_before = bool(torch.backends.mkldnn.enabled)
            torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # torch types it as its descriptor
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                torch.backends.mkldnn.enabled = _enabled_before  # type: ignore[assignment]
