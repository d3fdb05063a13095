"""The optimiser against torch's own, and the paper's schedules."""

import itertools
import math

import pytest
import torch
from helpers import tiny_config, tiny_model

from owl2.modeling.parts import PARTS, is_language_model, part_of
from owl2.training.optimizer import BETAS, EPSILON, MasterWeightAdamW, cosine_rate
from owl2.training.stages import PRETRAINING_PARTS, select_trainable


def gradients(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def test_a_float32_model_is_trained_as_by_torch() -> None:
    ours, theirs = tiny_model(), tiny_model()
    optimizer = MasterWeightAdamW(ours, weight_decay=0.0, max_norm=1.0)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=BETAS, eps=EPSILON, weight_decay=0.0)
    for step in range(3):
        gradients(ours, step)
        gradients(theirs, step)
        expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        assert optimizer.step(1e-2) == pytest.approx(float(expected), rel=1e-5)
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_updates_too_small_for_bfloat16_are_not_lost() -> None:
    model = torch.nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    torch.nn.init.ones_(model.weight)
    optimizer = MasterWeightAdamW(model, weight_decay=0.0)
    for _ in range(100):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step(1e-4)  # bfloat16 has no number between 0.996 and 1
    torch.testing.assert_close(model.weight.float(), torch.full((4, 4), 0.99), rtol=0, atol=0.004)


def test_only_matrices_decay_and_the_parts_have_their_rates() -> None:
    model = tiny_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = MasterWeightAdamW(model, weight_decay=0.5, vision_layer_decay=0.5, language_lr_scale=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.1)
    kept = {name: (parameter / before[name]).flatten()[0].item() for name, parameter in model.named_parameters()}
    assert kept["model.vision_tower.layers.1.mlp.fc1.weight"] == pytest.approx(0.95)
    assert kept["model.vision_tower.layers.0.mlp.fc1.weight"] == pytest.approx(0.975)
    assert kept["model.vision_tower.patch_embedding.weight"] == pytest.approx(0.9875)
    assert kept["model.abstractor.projection.weight"] == pytest.approx(0.95)
    assert kept["model.language_model.layers.0.self_attn.vision_k_proj.weight"] == pytest.approx(0.95)
    assert kept["model.language_model.layers.0.self_attn.k_proj.weight"] == pytest.approx(0.995)
    for name in ("norm.weight", "embed_tokens.weight", "layers.0.input_layernorm.weight"):
        assert kept[f"model.language_model.{name}"] == 1.0
    assert kept["model.abstractor.learnable_queries"] == 1.0 == kept["model.vision_tower.layers.0.mlp.fc1.bias"]


def test_a_frozen_part_is_neither_copied_nor_changed() -> None:
    model = tiny_model().to(torch.bfloat16)
    select_trainable(model, PRETRAINING_PARTS)
    optimizer = MasterWeightAdamW(model, weight_decay=0.1)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(master.numel() for master in optimizer.masters) == trained
    before = model.model.language_model.embed_tokens.weight.clone()
    gradients(model, 0)
    optimizer.step(0.1)
    assert torch.equal(model.model.language_model.embed_tokens.weight, before)


def test_stage_one_trains_vision_encoder_abstractor_and_the_vision_half_only() -> None:
    model = tiny_model(tiny_config())
    counts = select_trainable(model, PRETRAINING_PARTS)
    assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert counts["decoder_vision"] == counts["decoder_text"] > 0
    for name, parameter in model.named_parameters():
        visual = any(word in name for word in ("vision_tower", "abstractor", ".vision_"))
        assert parameter.requires_grad == visual == (not is_language_model(name))
        assert (part_of(name, ["norm", "k", "v"]) in PRETRAINING_PARTS) == visual


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(ValueError, match="decoder.*choose among"):
        select_trainable(tiny_model(), [*PARTS, "decoder"])


def test_the_rate_warms_up_linearly_and_falls_by_a_cosine_to_the_minimum() -> None:
    rates = [cosine_rate(step, 101, 10, 1.0, 0.1) for step in range(102)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0 and rates[101] == pytest.approx(0.1)
    middle = 10 + 91 / 2
    assert cosine_rate(round(middle), 101, 10, 1.0, 0.1) == pytest.approx(
        0.1 + 0.45 * (1 + math.cos(math.pi * (round(middle) - 10) / 91))
    )
    assert all(earlier >= later for earlier, later in itertools.pairwise(rates[10:]))
