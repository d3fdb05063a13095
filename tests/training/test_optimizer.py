"""The optimizer beside torch's own, and the paper's schedule."""

import itertools
import math
from typing import Any

import pytest
import torch
from helpers import tiny_model

from owl2.training.optimizer import RecipeOptimizer, scheduled_learning_rate, uses_muon
from owl2.training.recipe.optimization import OptimizerSettings, ScheduleSettings
from owl2.training.stages import PRETRAINING_PARTS, select_trainable


def settings(**changes: Any) -> OptimizerSettings:
    return OptimizerSettings(**{"learning_rate": 1e-2, "vision_layer_decay": 1.0, **changes})


def give_gradients(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def take_steps(model: torch.nn.Module, optimizer: RecipeOptimizer, count: int, first: int = 0) -> None:
    for step in range(first, first + count):
        give_gradients(model, step)
        optimizer.step()
        optimizer.zero_grad()


def test_a_model_is_trained_as_by_torch_with_the_settings_of_table_9() -> None:
    ours, theirs = tiny_model(), tiny_model()
    optimizer = RecipeOptimizer(ours, settings())
    optimizer.set_learning_rate(1e-2)
    take_steps(ours, optimizer, 3)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0)
    for step in range(3):
        give_gradients(theirs, step)
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_only_matrices_decay_and_the_parts_have_their_learning_rates() -> None:
    model = tiny_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = RecipeOptimizer(model, settings(weight_decay=0.5, vision_layer_decay=0.5, language_lr_scale=0.1))
    optimizer.set_learning_rate(0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
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


def test_a_frozen_part_is_not_changed_and_has_no_state() -> None:
    model = tiny_model()
    select_trainable(model, PRETRAINING_PARTS)
    optimizer = RecipeOptimizer(model, settings(weight_decay=0.1))
    optimizer.set_learning_rate(0.1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(optimizer.parameters) == {name.rpartition(".")[0] for name in optimizer.named_state()} == trained
    before = model.model.language_model.embed_tokens.weight.clone()
    take_steps(model, optimizer, 1)
    assert torch.equal(model.model.language_model.embed_tokens.weight, before)


MUON = {"vision_optimizer": "muon", "muon_lr_scale": 4.0, "weight_decay": 0.05}


def test_muon_updates_the_vision_matrices_as_torchs_own_and_adamw_everything_else() -> None:
    model, plain, by_muon = tiny_model(), tiny_model(), {}
    for name, parameter in model.named_parameters():
        if uses_muon(name, parameter.ndim, settings(**MUON)):
            by_muon[name] = parameter.detach().clone().requires_grad_()
    assert {name.split(".")[1] for name in by_muon} == {"vision_tower", "abstractor"}
    assert not any("position" in name or "queries" in name for name in by_muon)
    ours, adamw = RecipeOptimizer(model, settings(**MUON)), RecipeOptimizer(plain, settings(weight_decay=0.05))
    muon = torch.optim.Muon(by_muon.values(), lr=4e-3, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for optimizer, trained in ((ours, model), (adamw, plain)):
        optimizer.set_learning_rate(1e-3)
        take_steps(trained, optimizer, 2)
    for step in range(2):
        give_gradients(plain, step)
        for name, parameter in plain.named_parameters():
            if name in by_muon:
                by_muon[name].grad = parameter.grad.clone()
        muon.step()
    expected = dict(plain.named_parameters()) | by_muon
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], atol=1e-6, rtol=1e-5)
        assert not parameter.grad.any()


@pytest.mark.parametrize("changes", [{}, MUON], ids=["adamw", "muon"])
def test_a_state_written_into_another_optimizer_resumes_bit_for_bit(changes: dict[str, Any]) -> None:
    one, other = tiny_model(), tiny_model()
    first, second = RecipeOptimizer(one, settings(**changes)), RecipeOptimizer(other, settings(**changes))
    for optimizer in (first, second):
        optimizer.set_learning_rate(1e-3)
    take_steps(one, first, 2)
    saved = {name: tensor.clone() for name, tensor in first.named_state().items()}
    for name, tensor in second.named_state().items():
        tensor.copy_(saved[name])
    for model, optimizer in ((one, first), (other, second)):
        take_steps(model, optimizer, 2, first=2)
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not any(torch.equal(tensor, saved[name]) for name, tensor in first.named_state().items())


def test_the_learning_rate_warms_up_linearly_and_falls_by_a_cosine_to_the_minimum() -> None:
    optimizer = settings(learning_rate=1.0, min_learning_rate=0.1)
    schedule = ScheduleSettings(steps=101, warmup_steps=10)
    rates = [scheduled_learning_rate(step, optimizer, schedule) for step in range(102)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0 and rates[101] == pytest.approx(0.1)
    middle = round(10 + 91 / 2)
    assert rates[middle] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * (middle - 10) / 91)))
    assert all(earlier >= later for earlier, later in itertools.pairwise(rates[10:]))
