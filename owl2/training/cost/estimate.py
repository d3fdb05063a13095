"""Estimates the cost of a recipe before anything starts: operations, memory of a GPU, hours.

Everything is computed from the sizes of the model, a mean sample, the batch, and the GPUs.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from owl2.checkpoints.inspect import count_parameters
from owl2.modeling import Owl2Config
from owl2.training.distributed.mesh import mesh_shape
from owl2.training.model.build import meta_config
from owl2.training.recipe.schema import Recipe

from .flops import Flops, Lora, SampleSize, Trained, sample_flops
from .gpu_memory import Parameters, count_trained, estimate_memory
from .gpu_specs import Gpu, gpu_named
from .layer_memory import MicroBatch, Placement

CAPTION_TOKENS = 48
"""The tokens of a mean caption of web pairs, beside the 65 rows of its image (Table 9 allows 256 in all)."""

MACHINE_SIZE = 8
"""The number of GPUs of one machine, over which parameters are sharded by default."""

DEFAULT_MFU = 0.45


class Cost(NamedTuple):
    """The cost of a recipe on some GPUs.

    Attributes:
        sample: A mean sample. micro_batch: what one GPU holds at a time, at the longest.
        flops: Operations of one sample.
        memory: Bytes of one GPU at the worst moment, by kind.
        micro_batches: Forward passes of a GPU in a step.
        hours: Hours of all steps on all GPUs, at `mfu`.
        assumed: Assumptions about what is not known.
        advice: Changes of the recipe, each with the bytes that a GPU then needs, where it does not fit.
    """

    gpu: Gpu
    gpus: int
    mfu: float
    parameters: Parameters
    sample: SampleSize
    micro_batch: MicroBatch
    flops: Flops
    memory: dict[str, float]
    micro_batches: int
    samples: int
    hours: float
    assumed: list[str]
    advice: dict[str, float]

    @property
    def memory_bytes(self) -> float:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.gpu.memory

    @property
    def total_flops(self) -> float:
        """The operations of the whole run."""
        return self.flops.total * self.samples

    def to_dict(self) -> dict[str, Any]:
        """The cost as plain values for JSON."""
        return {
            "gpus": self.gpus,
            "gpu_memory_bytes": self.gpu.memory,
            "gpu_flops_per_second": self.gpu.flops,
            "mfu": self.mfu,
            "parameters": self.parameters._asdict(),
            "sample": self.sample._asdict(),
            "micro_batch": self.micro_batch._asdict(),
            "micro_batches": self.micro_batches,
            "flops_per_sample": self.flops._asdict(),
            "training_flops_per_sample": self.flops.total,
            "samples": self.samples,
            "training_flops": self.total_flops,
            "memory_bytes_by_kind": self.memory,
            "memory_bytes": self.memory_bytes,
            "fits": self.fits,
            "hours": self.hours,
            "gpu_hours": self.hours * self.gpus,
            "assumed": self.assumed,
            "advice": self.advice,
        }


def recipe_cost(
    recipe: Recipe,
    gpus: int = 1,
    gpu: str = "h100",
    mfu: float = DEFAULT_MFU,
    text_tokens: float | None = None,
    images: float = 1.0,
) -> Cost:
    """The cost of a recipe.

    Args:
        mfu: Share of the GPUs' peak that the run reaches, without recomputation.
        text_tokens, images: Numbers of a mean sample. By default text fills `data.max_length` in stage instruct, and is
            a web caption in stage pretrain.

    Raises:
        ValueError: An unknown GPU, invalid numbers, or GPUs that the recipe's section `parallel` does not fit.
    """
    for is_valid, problem in (
        (gpus >= 1, f"{gpus} GPUs: at least one is needed"),
        (0 < mfu <= 1, f"an MFU of {mfu} is not above 0 and at most 1"),
        (text_tokens is None or 0 < text_tokens < math.inf, f"{text_tokens} tokens a sample: it must be above 0"),
        (0 <= images < math.inf, f"{images} images a sample: it must be 0 or more"),
    ):
        if not is_valid:
            raise ValueError(problem)
    found, kind = meta_config(recipe), gpu_named(gpu)
    config, assumed = found.config, list(found.assumed)
    room = recipe.data.max_length - images * config.tokens_per_image
    if room <= 0:
        raise ValueError(f"{images:g} images take more than data.max_length {recipe.data.max_length} tokens")
    if text_tokens is None:
        text_tokens = min(room, CAPTION_TOKENS) if recipe.stage == "pretrain" else room
        assumed.append(f"a mean sample has {text_tokens:g} tokens of text and {images:g} images")
    if recipe.precision == "fp32":
        assumed.append("the peak is that of bfloat16: in float32 a GPU is slower")
    sample = SampleSize(min(text_tokens, room), images, recipe.data.image_size)
    counts = count_parameters(found.model())
    trained = trained_of(recipe)
    flops = sample_flops(config, sample, trained)
    samples = recipe.schedule.steps * recipe.batch.global_batch_size
    batch = largest_micro_batch(recipe, config, sample)
    memory, micro_batches = _memory(recipe, config, counts, sample, gpus, kind)
    cost = Cost(
        gpu=kind,
        gpus=gpus,
        mfu=mfu,
        parameters=count_trained(config, counts, trained),
        sample=sample,
        micro_batch=batch,
        flops=flops,
        memory=memory,
        micro_batches=micro_batches,
        samples=samples,
        hours=flops.total * samples / (gpus * kind.flops * mfu) / 3600,
        assumed=assumed,
        advice={},
    )
    return cost if cost.fits else cost._replace(advice=_advice(recipe, config, counts, sample, gpus, kind))


def trained_of(recipe: Recipe) -> Trained:
    """The parts that a recipe trains."""
    lora = recipe.train.lora
    adapters = None if lora is None else Lora(lora.rank, frozenset(lora.targets), lora.dropout)
    return Trained(frozenset(recipe.train.parts), adapters)


def largest_micro_batch(recipe: Recipe, config: Owl2Config, sample: SampleSize) -> MicroBatch:
    """A micro-batch whose rows are full."""
    data, rows = recipe.data, recipe.batch.micro_batch_size
    length = sample.text_tokens + sample.images * config.tokens_per_image
    if data.packing.enabled:
        tokens = rows * (data.packing.length or data.max_length)
        images = sample.images * tokens / length
    else:
        tokens, images = rows * data.max_length, rows * sample.images
    return MicroBatch(tokens, images, sample.image_size, tokens - images * config.tokens_per_image)


def _memory(
    recipe: Recipe, config: Owl2Config, counts: dict[str, int], sample: SampleSize, gpus: int, gpu: Gpu
) -> tuple[dict[str, float], int]:
    """The bytes of one GPU by kind, and its micro-batches of a step."""
    parallel, batch = recipe.parallel, largest_micro_batch(recipe, config, sample)
    replicas, shards, tensor = mesh_shape(
        gpus, min(gpus, MACHINE_SIZE), parallel.data_shards, parallel.replicas, parallel.tensor
    )
    at_a_time: float = recipe.batch.micro_batch_size
    if recipe.data.packing.enabled:
        at_a_time = batch.tokens / (sample.text_tokens + sample.images * config.tokens_per_image)
    micro_batches = math.ceil(recipe.batch.global_batch_size / (replicas * shards) / at_a_time)
    shape = Placement(
        shards=shards,
        tensor=tensor,
        sharded=gpus > 1 or recipe.precision != "fp32",
        compute_bytes=4 if recipe.precision == "fp32" else 2,
        accumulates=micro_batches > 1,
        device_bytes=gpu.memory,
        checkpointing=parallel.activation_checkpointing,
        compile=parallel.compile,
        int4=recipe.train.quantization is not None,
    )
    return estimate_memory(config, counts, batch, trained_of(recipe), shape), micro_batches


def _advice(
    recipe: Recipe, config: Owl2Config, counts: dict[str, int], sample: SampleSize, gpus: int, gpu: Gpu
) -> dict[str, float]:
    """Changes that make the recipe fit, the cheapest first, with the memory they need; otherwise all that help."""
    needed = sum(_memory(recipe, config, counts, sample, gpus, gpu)[0].values())
    found = {}
    for overrides, count in _changes(recipe, gpus):
        after = sum(_memory(_changed(recipe, overrides), config, counts, sample, count, gpu)[0].values())
        if after < needed:
            words = [f"{key}={_as_yaml(value)}" for key, value in overrides.items()]
            found[" ".join(words + ([f"on {count} GPUs"] if count > gpus else []))] = after
    fitting = {change: after for change, after in found.items() if after <= gpu.memory}
    return fitting or found


def _changes(recipe: Recipe, gpus: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The changes that a user can make: keys of the recipe with their values, and the number of GPUs."""
    checkpointing = "parallel.activation_checkpointing"
    all_of_it: dict[str, Any] = {}
    if recipe.batch.micro_batch_size > 1:
        yield {"batch.micro_batch_size": recipe.batch.micro_batch_size // 2}, gpus
        all_of_it["batch.micro_batch_size"] = 1
    if recipe.parallel.activation_checkpointing == "none":
        yield {checkpointing: "selective"}, gpus
    if recipe.parallel.activation_checkpointing != "full":
        yield {checkpointing: "full"}, gpus
        all_of_it[checkpointing] = "full"
    if len(all_of_it) > 1:
        yield all_of_it, gpus
    parts, whole = recipe.train.parts, {"decoder_text", "decoder_shared", "embeddings"}
    if recipe.train.lora is None and whole & set(parts):
        adapters = {"train.lora": {}, "train.parts": [part for part in parts if part not in whole]}
        yield {**all_of_it, **adapters}, gpus
        yield {**all_of_it, **adapters, "train.quantization": "int4"}, gpus
    elif recipe.train.lora is not None:
        if recipe.train.quantization is None:
            yield {**all_of_it, "train.quantization": "int4"}, gpus
        if "decoder_vision" in parts:  # 1.07 B parameters of the 7B model
            copies = [name for name in ("vision_k_proj", "vision_v_proj") if name not in recipe.train.lora.targets]
            targets = {"train.lora.targets": [*recipe.train.lora.targets, *copies]}
            fewer = {"train.parts": [part for part in parts if part != "decoder_vision"], **targets}
            yield {**all_of_it, **fewer, "train.quantization": "int4"}, gpus
    if recipe.parallel.data_shards == recipe.parallel.replicas == "auto":
        yield from ((all_of_it, more) for more in (2, 4, 8) if more > gpus)


def _changed(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    tree = recipe.to_dict()
    for key, value in overrides.items():
        *sections, name = key.split(".")
        inside = tree
        for section in sections:
            inside = inside[section]
        inside[name] = value
    return Recipe.model_validate(tree)


def _as_yaml(value: Any) -> str:
    return f"'[{','.join(value)}]'" if isinstance(value, list) else str(value)
