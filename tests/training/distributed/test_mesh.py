"""Process groups and meshes of one process; those of several are in test_parallel."""

import torch
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard

from owl2.training.distributed.mesh import build_mesh, process_group


def test_a_process_may_train_again_with_groups_of_its_own() -> None:
    for others in (0, 3):
        with process_group(60) as device:
            for _ in range(others):  # so that the groups of the mesh get other names than before
                dist.new_group(backend="gloo")
            mesh = build_mesh(device)
            layer = fully_shard(torch.nn.Linear(4, 4), mesh=mesh.device_mesh["shard"])
            assert layer.weight.device_mesh.get_group().group_name == mesh.device_mesh["shard"].get_group().group_name
