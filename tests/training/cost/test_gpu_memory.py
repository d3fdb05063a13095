"""Estimated memory of a training step against the bytes of tensors that a step really holds: within 10 %."""

import gc
from typing import Any

import pytest
import torch
from helpers import IMAGE, batch, sample, tiny_config, tiny_model
from tensor_memory import TensorMemory

from owl2 import Owl2Config, Owl2ForConditionalGeneration
from owl2.checkpoints.inspect import count_parameters
from owl2.modeling.parts import PARTS
from owl2.training.adapters.lora import apply_lora
from owl2.training.cost.flops import Lora, Trained
from owl2.training.cost.gpu_memory import OTHER, estimate_memory
from owl2.training.cost.layer_memory import MicroBatch, Placement
from owl2.training.distributed.gradient_clipping import clip_gradients
from owl2.training.distributed.mesh import build_mesh, process_group
from owl2.training.distributed.parallelize import parallelize, synchronize_gradients
from owl2.training.optimizer import RecipeOptimizer
from owl2.training.recipe.optimization import OptimizerSettings
from owl2.training.stages import PRETRAINING_PARTS, select_trainable

TOLERANCE = 0.10

LANGUAGE = dict(hidden_size=128, intermediate_size=344, num_hidden_layers=2, vocab_size=997)

HEADS = dict(num_attention_heads=4, num_key_value_heads=4, head_dim=32)

VISION = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=2, image_size=56, patch_size=7)

ABSTRACTOR = dict(hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_learnable_queries=8)

TEXT = [20, IMAGE, 100]

IMAGES = [IMAGE, IMAGE, IMAGE, 20]

PROJECTIONS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})


def small(**text: Any) -> Owl2Config:
    return tiny_config(vision=VISION, abstractor=ABSTRACTOR, **{**LANGUAGE, **HEADS, **text})


def peak_of_a_step(
    model: Owl2ForConditionalGeneration, data: dict[str, Any], micro_batches: int, clip: Any = None
) -> int:
    """Most bytes of tensors in the second step, whose optimizer has its means already."""
    optimizer = RecipeOptimizer(model, OptimizerSettings(learning_rate=1e-4, vision_layer_decay=1.0))
    optimizer.set_learning_rate(1e-4)

    def step() -> None:
        for index in range(micro_batches):
            synchronize_gradients(model, index == micro_batches - 1, torch.device("cpu"))
            inputs = {name: None if value is None else value.clone() for name, value in data.items()}
            model(**inputs, loss_only=True, use_cache=False, num_items_in_batch=1).loss.backward()
        norm = (clip or torch.nn.utils.clip_grad_norm_)(list(optimizer.parameters.values()), 1.0)
        assert norm.isfinite()
        optimizer.step()
        optimizer.zero_grad()

    step()
    gc.collect()
    state = [value for name, value in optimizer.named_state().items() if not name.endswith(".master")]
    held = [*model.parameters(), *model.buffers(), *state]
    with TensorMemory(*(tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in held)) as memory:
        step()
    return memory.peak


def estimated(
    config: Owl2Config, data: dict[str, Any], parts: tuple[str, ...], shape: Placement, lora: Lora | None = None
) -> float:
    with torch.device("meta"):
        counts = count_parameters(Owl2ForConditionalGeneration(config))
    images = len(data["pixel_values"])
    supervised = int((data["labels"][:, 1:] != -100).sum()) - images * config.tokens_per_image
    micro_batch = MicroBatch(data["input_ids"].numel(), images, config.vision_config.image_size, supervised)
    kinds = estimate_memory(config, counts, micro_batch, Trained(frozenset(parts), lora), shape)
    return sum(kinds.values()) - OTHER


CASES = {
    "stage 1": dict(parts=PRETRAINING_PARTS),
    "stage 2": dict(parts=PARTS),
    "stage 1, one sample": dict(parts=PRETRAINING_PARTS, samples=1),
    "many images": dict(parts=PRETRAINING_PARTS, pieces=IMAGES),
    "long text": dict(parts=PARTS, pieces=[300, IMAGE, 300], samples=2),
    "abstractor": dict(parts=("abstractor",)),
    "grouped heads": dict(parts=PARTS, text=dict(num_key_value_heads=2)),
    "no MAM": dict(parts=PARTS, text=dict(modality_adaptive=())),
    "selective checkpointing": dict(parts=PARTS, checkpointing="selective"),
    "full checkpointing": dict(parts=PRETRAINING_PARTS, checkpointing="full"),
    "accumulation": dict(parts=PARTS, micro_batches=3),
    "adapters": dict(parts=PRETRAINING_PARTS, lora=Lora(8, PROJECTIONS)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_step_in_float32_holds_what_was_estimated(case: dict[str, Any]) -> None:
    config, parts, lora = small(**case.get("text", {})), case["parts"], case.get("lora")
    how, micro_batches = case.get("checkpointing", "none"), case.get("micro_batches", 1)
    data = batch([sample(config, case.get("pieces", TEXT), seed) for seed in range(case.get("samples", 6))])
    model = tiny_model(config).train()
    select_trainable(model, parts)
    if lora is not None:
        pytest.importorskip("peft")
        apply_lora(model, lora.rank, 8, targets=lora.targets)
    with process_group() as device:
        parallelize(model, build_mesh(device), torch.float32, how)
        measured = peak_of_a_step(model, data, micro_batches)
    shape = Placement(sharded=False, compute_bytes=4, checkpointing=how, accumulates=micro_batches > 1)
    assert estimated(config, data, parts, shape, lora) == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("parts", [PRETRAINING_PARTS, PARTS], ids=["stage 1", "stage 2"])
@pytest.mark.parametrize(
    ("how", "micro_batches"),
    [("none", 1), pytest.param("none", 3, marks=pytest.mark.slow), pytest.param("full", 1, marks=pytest.mark.slow)],
)
def test_a_step_in_bfloat16_of_float32_weights_holds_what_was_estimated(
    parts: tuple[str, ...], how: Any, micro_batches: int
) -> None:
    config = small()
    data = batch([sample(config, TEXT, seed) for seed in range(8)])
    del data["attention_mask"]
    model = tiny_model(config).train()
    select_trainable(model, parts)
    with process_group() as device:
        parallelize(model, build_mesh(device), torch.bfloat16, how)
        measured = peak_of_a_step(model, data, micro_batches, clip_gradients)
    shape = Placement(checkpointing=how, accumulates=micro_batches > 1)
    assert estimated(config, data, parts, shape) == pytest.approx(measured, rel=TOLERANCE)


def test_sharding_takes_its_share_and_frozen_weights_stay_whole() -> None:
    config = Owl2Config()
    with torch.device("meta"):
        counts = count_parameters(Owl2ForConditionalGeneration(config))
    one_row = MicroBatch(tokens=2048, images=1, image_size=448, supervised=1983)
    trained = Trained(frozenset(PRETRAINING_PARTS))
    one, eight = (estimate_memory(config, counts, one_row, trained, Placement(shards=shards)) for shards in (1, 8))
    learnt = sum(counts[part] for part in PRETRAINING_PARTS)
    frozen = sum(counts.values()) - learnt
    assert one["frozen weights"] == eight["frozen weights"] == 2 * frozen
    assert one["trained weights and optimizer"] == 12 * learnt == 8 * eight["trained weights and optimizer"]
    two_ranks = estimate_memory(config, counts, one_row, trained, Placement(tensor=2))
    assert two_ranks["frozen weights"] < 0.53 * one["frozen weights"]


def test_four_bits_take_a_bit_more_than_half_a_byte_a_weight() -> None:
    config = Owl2Config()
    with torch.device("meta"):
        counts = count_parameters(Owl2ForConditionalGeneration(config))
    one_row = MicroBatch(tokens=2048, images=1, image_size=448, supervised=1983)
    trained = Trained(frozenset({"vision_encoder", "abstractor", "decoder_vision"}), Lora(16, PROJECTIONS))
    full, packed = (estimate_memory(config, counts, one_row, trained, Placement(int4=int4)) for int4 in (False, True))
    projections = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    saved = full["frozen weights"] - packed["frozen weights"]
    assert saved == pytest.approx(projections * (2 - 0.516), rel=0.001)
