"""The processes of a run and the mesh that they form: replicas x shards x tensor ranks.

One process is a mesh of one, so that nothing else asks how many there are. Several are started by torchrun, whose
environment (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT) says who they are.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import debug

Found = TypeVar("Found")

COLLECTIVE_TIMEOUT = 2.0
"""The timeout of a collective, as a multiple of the stall limit: the watchdog reports first, because it names the rank
(`owl2.training.monitoring.watchdog`)."""


class Mesh(NamedTuple):
    """The place of this process among all.

    Attributes:
        device_mesh: Dimensions `replicate`, `shard` and `tensor`. Trained parameters are sharded over `shard`, their
            gradients summed over `replicate` too; the ranks of `tensor` share every layer and read the same samples.
        data_rank, data_size: Number of the share of a batch that this rank reads, and of shares.
        data_group: The ranks that read the other shares, at this place of `tensor`.
        host_group: All ranks, for tensors and objects on the host.
    """

    device: torch.device
    device_mesh: DeviceMesh
    rank: int
    size: int
    data_rank: int
    data_size: int
    data_group: dist.ProcessGroup
    host_group: dist.ProcessGroup

    @property
    def shards(self) -> int:
        return self.device_mesh["shard"].size()

    @property
    def tensor(self) -> int:
        return self.device_mesh["tensor"].size()

    def sum_over_data(self, values: torch.Tensor) -> torch.Tensor:
        """Sums counts of tokens or losses over the shares of the batch, in place."""
        dist.all_reduce(values, group=self.data_group)
        return values

    def any_of(self, is_so: bool) -> bool:
        """Whether a condition holds on any rank; the ranks wait for each other."""
        found = torch.tensor(int(is_so))
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self.host_group)
        return bool(found)

    def broadcast_from_rank0(self, find: Callable[[], Found]) -> Found:
        """The result of a function on the first rank, on every rank; the others wait and do not call it.

        Raises:
            ValueError: The function raised: the exception itself on the first rank, its message on the others.
        """
        found: list[Any] = [None, None]
        if self.rank == 0:
            try:
                found[0] = find()
            except Exception as error:
                words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                dist.broadcast_object_list([None, words], 0, group=self.host_group)
                raise
        dist.broadcast_object_list(found, 0, group=self.host_group)
        if found[1] is not None:
            raise ValueError(found[1])
        return found[0]


@contextmanager
def process_group(stall_timeout_s: float = 1800.0) -> Iterator[torch.device]:
    """The process group of torchrun's environment, or of this process alone; gloo on a CPU, NCCL on GPUs.

    Yields:
        The device of this rank.

    Raises:
        ValueError: There are fewer GPUs than ranks on this machine.
    """
    device = _device()
    backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
    timeout = _timeout(stall_timeout_s)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(backend, timeout=timeout, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield device
    finally:
        dist.destroy_process_group()
        _forget_meshes()


def _forget_meshes() -> None:
    """Lets a process train again: torch remembers the mesh of each operator's result and reuses it for every mesh of
    that shape, even if its groups have ended.
    """
    clear = getattr(debug, "_clear_sharding_prop_cache", None)
    if clear is not None:  # torch gives it no public name
        clear()


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {local_rank} needs a GPU of its own, but this machine has {torch.cuda.device_count()}: start "
            f"torchrun with --nproc-per-node {torch.cuda.device_count()}"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def build_mesh(
    device: torch.device,
    data_shards: int | Literal["auto"] = "auto",
    replicas: int | Literal["auto"] = "auto",
    tensor: int = 1,
    stall_timeout_s: float = 1800.0,
) -> Mesh:
    """The mesh of all ranks; see `mesh_shape` for the sizes.

    Neighbouring ranks, which share a machine, are those of `tensor`, then of `shard`.
    """
    shape = mesh_shape(dist.get_world_size(), machine_size(), data_shards, replicas, tensor)
    rank, timeout = dist.get_rank(), _timeout(stall_timeout_s)
    ranks = torch.arange(dist.get_world_size()).view(shape)  # [replicate, shard, tensor]
    groups = [_own_group(ranks.movedim(dimension, -1).flatten(0, 1), timeout) for dimension in range(ranks.ndim)]
    device_mesh = DeviceMesh.from_group(
        groups, device.type, mesh=ranks, mesh_dim_names=("replicate", "shard", "tensor")
    )
    return Mesh(
        device=device,
        device_mesh=device_mesh,
        rank=rank,
        size=dist.get_world_size(),
        data_rank=rank // tensor,
        data_size=ranks.numel() // tensor,
        data_group=_own_group(ranks.view(-1, tensor).T, timeout),
        host_group=dist.new_group(backend="gloo", timeout=timeout),
    )


def _own_group(groups: torch.Tensor, timeout: timedelta) -> dist.ProcessGroup:
    """Makes the groups of ranks [groups, size] and returns that of this rank.

    Torch's defaults, 10 minutes on GPUs and 30 on the host, do not follow the time limit of the process group.
    """
    made = [dist.new_group(group.tolist(), timeout=timeout) for group in groups]
    return next(each for group, each in zip(groups, made, strict=True) if dist.get_rank() in group.tolist())


def _timeout(stall_timeout_s: float) -> timedelta:
    return timedelta(seconds=COLLECTIVE_TIMEOUT * stall_timeout_s)


def machine_size() -> int:
    """The number of ranks on this machine; all of them if torchrun does not say."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))


def mesh_shape(
    size: int, on_machine: int, data_shards: int | Literal["auto"], replicas: int | Literal["auto"], tensor: int
) -> tuple[int, int, int]:
    """The numbers of replicas, shards and tensor ranks of `size` ranks.

    Args:
        on_machine: Number of ranks of one machine. With both "auto", the ranks of a machine share the parameters and
            every machine is a replica (hybrid sharding): only sums of gradients travel between machines.

    Raises:
        ValueError: The numbers do not multiply to `size`.
    """
    if isinstance(data_shards, int):
        shards = data_shards
    elif isinstance(replicas, int):
        shards = max(1, size // replicas // tensor)
    else:
        shards = max(1, (on_machine if size % on_machine == 0 else size) // tensor)
    copies = replicas if isinstance(replicas, int) else max(1, size // (shards * tensor))
    if copies * shards * tensor != size:
        raise ValueError(
            f"{size} ranks are not {copies} replicas x {shards} data shards x {tensor} tensor ranks: change the "
            "section parallel of the recipe or --nproc-per-node of torchrun"
        )
    return copies, shards, tensor
