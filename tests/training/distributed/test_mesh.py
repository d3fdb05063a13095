"""The mesh of one process and of several: sizes, and groups of its own."""

from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard

from owl2.training.distributed.mesh import build_mesh, mesh_shape, process_group


def test_a_process_may_train_again_with_groups_of_its_own() -> None:
    for others in (0, 3):
        with process_group(60) as device:
            for _ in range(others):  # so that the groups of the mesh get other names than before
                dist.new_group(backend="gloo")
            mesh = build_mesh(device)
            layer = fully_shard(torch.nn.Linear(4, 4), mesh=mesh.device_mesh["shard"])
            assert layer.weight.device_mesh.get_group().group_name == mesh.device_mesh["shard"].get_group().group_name


def test_automatic_sizes_shard_within_a_machine_and_replicate_across() -> None:
    assert mesh_shape(16, 8, "auto", "auto", 1) == (2, 8, 1)
    assert mesh_shape(16, 8, "auto", "auto", 2) == (2, 4, 2)
    assert mesh_shape(8, 8, 2, "auto", 2) == (2, 2, 2)
    assert mesh_shape(8, 8, "auto", 2, 1) == (2, 4, 1)
    assert mesh_shape(1, 1, "auto", "auto", 1) == (1, 1, 1)


@pytest.mark.parametrize("shape", [(8, 8, 3, "auto", 1), (1, 1, "auto", "auto", 2), (8, 8, 2, 2, 1)])
def test_sizes_that_do_not_multiply_to_the_ranks_are_refused(shape: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=f"{shape[0]} ranks are not .* --nproc-per-node"):
        mesh_shape(*shape)
