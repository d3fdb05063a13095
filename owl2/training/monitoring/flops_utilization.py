"""Model FLOPs utilization (MFU): the share of the GPUs' peak that the model's own operations make up."""

import torch

from owl2.modeling import Owl2Config
from owl2.training.cost.estimate import trained_of
from owl2.training.cost.flops import SampleSize, sample_flops
from owl2.training.cost.gpu_specs import gpu_of_device
from owl2.training.data.loader import Counts
from owl2.training.distributed.mesh import Mesh
from owl2.training.recipe.schema import Recipe


class FlopsUtilization:
    """Utilization of all GPUs of a run.

    Args:
        config: Configuration of the model.
        recipe: The recipe, which says what trains.
        mesh: All ranks.
    """

    def __init__(self, config: Owl2Config, recipe: Recipe, mesh: Mesh) -> None:
        self.config, self.recipe = config, recipe
        name = torch.cuda.get_device_name(mesh.device) if mesh.device.type == "cuda" else None
        gpu = None if name is None else gpu_of_device(name)
        self._peak = None if gpu is None else gpu.flops * mesh.size  # bfloat16 operations a second

    def share(self, counts: Counts, seconds: float) -> float | None:
        """The share of the peak in a step with these counts; `None` on a CPU and on an unknown GPU."""
        return None if self._peak is None else self._step_flops(counts) / seconds / self._peak

    def _step_flops(self, counts: Counts) -> float:
        """The operations of a step over all ranks, as if all of its samples had the mean length."""
        count = max(1, counts.samples)
        text = counts.tokens - counts.images * self.config.tokens_per_image
        image_size = self.recipe.data.image_size
        sample = SampleSize(text / count, counts.images / count, image_size, counts.supervised / count)
        return count * sample_flops(self.config, sample, trained_of(self.recipe)).total
