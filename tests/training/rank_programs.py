"""What ranks do in the tests of parallel training; each function runs on every rank (see `ranks.py`)."""

import logging
import os
import pickle
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from helpers import IMAGE, batch, sample, tiny_config, tiny_model
from tensor_memory import TensorMemory
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from training.tiny_recipes import recipe_of, run_recipe

from owl2.modeling import Owl2Config
from owl2.training.checkpoint import safetensors_storage as checkpoint_storage
from owl2.training.checkpoint.manager import Checkpoints
from owl2.training.checkpoint.rng_state import rng_state, set_rng_state
from owl2.training.data.stage_data import open_stage_data
from owl2.training.distributed.broadcast_weights import broadcast_weights, empty_model, gather_tensor, weights_of
from owl2.training.distributed.gradient_clipping import clip_gradients
from owl2.training.distributed.mesh import Mesh, build_mesh, process_group
from owl2.training.distributed.parallelize import parallelize, synchronize_gradients
from owl2.training.model import initial
from owl2.training.model.build import build_model
from owl2.training.monitoring.watchdog import Watchdog
from owl2.training.optimizer import RecipeOptimizer
from owl2.training.recipe.optimization import OptimizerSettings
from owl2.training.run_directory import RunDirectory
from owl2.training.stages import INSTRUCTION_TUNING_PARTS, PRETRAINING_PARTS, select_trainable

CONFIG = {"vocab_size": 97}

STEPS: list[list[list[int | str]]] = [
    [[IMAGE, 5], [3, IMAGE, 4, IMAGE, 2], [7], [4]],  # of two ranks, the second has no image
    [[6], [2], [IMAGE], [IMAGE, IMAGE]],  # the first has no image, the second nothing but images
    [[IMAGE, 4], [5], [8], [2, IMAGE, 3]],
    [[5], [6], [3], [9]],  # nobody has an image
]
"""Samples of each step by their parts: what the ranks hold differs in every step."""


class Layout(NamedTuple):
    """A mesh and how the model runs on it."""

    shards: int = 1
    replicas: int = 1
    tensor: int = 1
    micro_batches: int = 1
    recompute: str = "none"
    compile: bool = False
    dtype: torch.dtype = torch.float32
    config: dict[str, Any] = {}


Curve = list[tuple[float, float]]


class Run:
    """A tiny model in training on a mesh."""

    def __init__(self, mesh: Mesh, layout: Layout, parts: Iterable[str]) -> None:
        self.mesh, self.layout = mesh, layout
        self.config: Owl2Config = tiny_config(**{**CONFIG, **layout.config})
        weights = weights_of(tiny_model(self.config)) if mesh.rank == 0 else None
        self.model = empty_model(self.config).train()
        self.model.set_attn_implementation("sdpa")
        select_trainable(self.model, parts)
        parallelize(self.model, mesh, layout.dtype, layout.recompute, layout.compile)
        broadcast_weights(self.model, weights, mesh)
        self.optimizer = RecipeOptimizer(
            self.model, OptimizerSettings(learning_rate=1e-2, weight_decay=0.05, vision_layer_decay=1.0)
        )

    def step(self, step: int) -> tuple[float, float]:
        """Loss and gradient norm of one optimizer step."""
        mesh = self.mesh
        samples = [sample(self.config, parts, 10 * step + index) for index, parts in enumerate(STEPS[step % 4])]
        share = len(samples) // mesh.data_size
        own = samples[mesh.data_rank * share : (mesh.data_rank + 1) * share]
        size = max(1, len(own) // self.layout.micro_batches)
        micro_batches = [batch(own[start : start + size]) for start in range(0, len(own), size)]
        tokens = mesh.sum_over_data(torch.tensor(sum(self._supervised(each) for each in micro_batches)))
        total = torch.zeros(())
        for index, inputs in enumerate(micro_batches):
            synchronize_gradients(self.model, index == len(micro_batches) - 1, mesh.device)
            loss = self.model(**inputs, num_items_in_batch=tokens, supervised_logits_only=True, use_cache=False).loss
            loss.backward()
            total += loss.detach()
        norm = clip_gradients(list(self.optimizer.parameters.values()), 1.0)
        self.optimizer.set_learning_rate(1e-2)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(mesh.sum_over_data(total)), float(norm)

    def _supervised(self, inputs: dict[str, Any]) -> int:
        labels = inputs["labels"].masked_fill(inputs["input_ids"] == self.config.image_token_id, -100)
        return int((labels[:, 1:] != -100).sum())


def curve(layout: Layout, parts: Iterable[str], steps: int = 4) -> Curve:
    """Loss and gradient norm of each step; the process group must be there."""
    run = Run(new_mesh(layout), layout, parts)
    return [run.step(step) for step in range(steps)]


def new_mesh(layout: Layout) -> Mesh:
    return build_mesh(torch.device("cpu"), layout.shards, layout.replicas, layout.tensor)


def train_with_checkpoints(directory: Path, layout: Layout, until: int, save_at: Iterable[int] = ()) -> Curve:
    """Goes on from the newest checkpoint. The random states are part of it: each step draws a number."""
    run = Run(new_mesh(layout), layout, INSTRUCTION_TUNING_PARTS)
    checkpoints = Checkpoints(directory)
    saved = checkpoints.load_latest(run.optimizer.named_state())
    first, done = 0, []
    torch.manual_seed(1)
    if saved is not None:
        first, done = saved.step, [tuple(each) for each in saved.shared["curve"]]
        if saved.rank is not None:
            set_rng_state(saved.rank)
    for step in range(first, until):
        loss, norm = run.step(step)
        done.append((loss, norm + torch.rand(()).item()))
        if step + 1 in save_at:
            checkpoints.save(step + 1, run.optimizer.named_state(), {"curve": done}, rng_state())
    checkpoints.wait()
    return done


def four_ranks(layouts: list[Layout], parts: Iterable[str], directory: Path) -> list[Curve]:
    """A curve of each layout; the first leaves a checkpoint after two steps."""
    with process_group(60):
        train_with_checkpoints(directory, layouts[0], 2, save_at=[2])
        return [curve(layout, parts) for layout in layouts]


def two_ranks(directory: Path) -> dict[str, Any]:
    """All that two ranks are to show, in one start of the processes."""
    sharded = Layout(shards=2)
    with process_group(60):
        return {
            "data": curve(sharded, INSTRUCTION_TUNING_PARTS),
            "data, stage 1": curve(sharded, PRETRAINING_PARTS),
            "data, 2 micro-batches": curve(Layout(shards=2, micro_batches=2), INSTRUCTION_TUNING_PARTS),
            "tensor": curve(Layout(tensor=2), INSTRUCTION_TUNING_PARTS),
            "tensor, stage 1": curve(Layout(tensor=2), PRETRAINING_PARTS),
            "tensor, qk norm": curve(Layout(tensor=2, config={"qk_norm": True}), INSTRUCTION_TUNING_PARTS),
            "replicas": curve(Layout(replicas=2), INSTRUCTION_TUNING_PARTS),
            "one to two": train_with_checkpoints(directory / "one", sharded, 4),
            "two": train_with_checkpoints(directory / "two", sharded, 4, save_at=[2]),
            "two to tensor": train_with_checkpoints(directory / "two", Layout(tensor=2), 4),
            "two again": train_with_checkpoints(directory / "two", sharded, 4),
        }


class HostMemory(TensorMemory):
    """Bytes of the tensors that have content."""

    def _follow(self, tensors: Any) -> None:
        super()._follow(tensor for tensor in tensors if not tensor.is_meta)


def in_turn(*calls: tuple[Any, ...]) -> list[Any]:
    """What functions return with their arguments; the ranks meet anew for each."""
    results = []
    for function, *arguments in calls:
        results.append(function(*arguments))
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
    return results


def begin_on_each_rank(data: Path, stage: str, out: Path, overrides: list[str]) -> dict[str, int]:
    """How often this rank reads a model as a recipe begins, and bytes: most at a time, of the whole model, of what it
    keeps, of the largest tensor, and of the message about the model."""
    recipe, directory = recipe_of(data, stage, out, *overrides), RunDirectory(out)
    read = []

    def counting(*arguments: Any) -> Any:
        read.append(arguments)
        return build_model(*arguments)

    initial.build_model = counting
    with process_group(60) as device:
        mesh = build_mesh(device)
        samples = open_stage_data(recipe, recipe.data.sources, out)
        with HostMemory() as memory:
            told, weights = initial.load_initial_state(recipe, directory, samples, torch.float32, False, mesh)
            model = told.model(recipe, torch.float32)
            sizes = [parameter.numel() * 4 for parameter in model.parameters()]
            parallelize(model, mesh)
            broadcast_weights(model, weights, mesh)
        kept = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
        return {
            "read": len(read),
            "peak": memory.peak,
            "whole": sum(sizes),
            "kept": sum(tensor.numel() * 4 for tensor in kept),
            "largest": max(sizes),
            "told": len(pickle.dumps(told)),
        }


def received_weights(layout: Layout) -> dict[str, Any]:
    """Names of the parameters that are not what the first rank had, and of what has no content."""
    with process_group(60):
        run = Run(new_mesh(layout), layout, INSTRUCTION_TUNING_PARTS)
        wanted = weights_of(tiny_model(run.config))
        warned: list[logging.LogRecord] = []
        logging.getLogger("torch.distributed.tensor._redistribute").addFilter(warned.append)
        found = {name: gather_tensor(parameter) for name, parameter in run.model.named_parameters()}
        assert found.keys() == wanted.keys()
        core = run.model.base_model.language_model
        return {
            "different": [name for name in wanted if not torch.equal(found[name], wanted[name])],
            "without content": [name for name, tensor in run.model.named_buffers() if tensor.is_meta],
            "tied": run.model.lm_head.weight is core.embed_tokens.weight,
            "warned": len(warned),
        }


def refusals(data: Path, out: Path, overrides: list[str]) -> str:
    """What this rank says when a run cannot begin."""
    try:
        run_recipe(data, "instruct", out, *overrides)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def assert_same_curve(found: Curve, wanted: Curve, tolerance: float) -> None:
    assert len(found) == len(wanted) and wanted[0][0] != wanted[-1][0]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=tolerance, atol=tolerance)


def compiled(layout: Layout, parts: Iterable[str]) -> Curve:
    """A curve; compiling takes its time."""
    with process_group(300):
        return curve(layout, parts, steps=3)


def killed_while_saving(directory: Path, save_at: list[int]) -> None:
    """Saves, and is killed when the last of its checkpoints is half written."""
    written = []
    describe = checkpoint_storage._describe

    def die_at_the_last(files: list[Path]) -> dict[str, Any]:
        written.append(files)
        if len(written) == 3 * len(save_at):  # of each checkpoint: the rank's files, the index, the manifest
            os.kill(os.getpid(), signal.SIGKILL)
        return describe(files)

    checkpoint_storage._describe = die_at_the_last
    with process_group(60):
        train_with_checkpoints(directory, Layout(), until=max(save_at) + 1, save_at=save_at)


def stall(rank_that_stops: int, how: str, errors: Path) -> None:
    """A rank that sleeps before its data come, or is stopped by a signal; the others wait for it.

    Args:
        errors: File for what the ranks write to stderr, which is otherwise that of the server they are forked from.
    """
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    with process_group(600):
        mesh = new_mesh(Layout(shards=2))
        with Watchdog(limit_s=4.0) as watch:
            for step in range(3):
                watch.progress(step, "data")
                if step == 2 and mesh.rank == rank_that_stops:
                    if how == "stop":
                        os.kill(os.getpid(), signal.SIGSTOP)
                    time.sleep(600)
                watch.progress(step, "compute")
                mesh.sum_over_data(torch.ones(()))


def waits_in_each_group(limit_s: float) -> list[str]:
    """The first rank waits in every group for the other, which never comes; what it is told in each."""
    with process_group(limit_s) as device:
        mesh = build_mesh(device, 2, 1, 1, limit_s)
        if mesh.rank == 1:
            time.sleep(600)
        told = []
        for group in (mesh.device_mesh["shard"].get_group(), mesh.data_group, mesh.host_group):
            try:
                dist.all_reduce(torch.ones(()), group=group)
            except RuntimeError as error:
                told.append(str(error))
        return told
