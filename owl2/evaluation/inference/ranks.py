"""The processes that share the samples: one, or those that `torchrun` started."""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

_LONGEST_WAIT = timedelta(days=7)  # for the slowest rank: a share may take days


class Ranks:
    """This process among `size`; as a context manager it opens and closes the group of processes."""

    group: dist.ProcessGroup | None = None
    """The group of processes; the default one if `None`."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))

    def __enter__(self) -> "Ranks":
        if self.size > 1:
            dist.init_process_group("gloo", timeout=_LONGEST_WAIT)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.size > 1 and kind is None:
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process: with "auto" on several GPUs, each process has its own."""
        if name != "auto" or self.size == 1 or not torch.cuda.is_available():
            return name
        return f"cuda:{self.local_rank}"

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.size > 1:
            dist.barrier(group=self.group)

    def any_of(self, is_so: bool) -> bool:
        """Whether a condition holds on any process; the processes wait for each other."""
        if self.size == 1:
            return is_so
        found = torch.tensor(int(is_so))
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.group)
        return bool(found)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """A contiguous part of the items for each process: none is lost or repeated."""
        start, end = (len(items) * number // self.size for number in (self.rank, self.rank + 1))
        return items[start:end]
