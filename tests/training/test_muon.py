"""Muon for the vision matrices beside AdamW for the rest."""

import copy

import pytest
import torch
from helpers import tiny_config, tiny_model

from owl2.training.muon import MasterWeightAdamW, MuonAdamW, is_vision_matrix


def give_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def model():
    return tiny_model(tiny_config()).train()


def test_vision_matrices_take_muon_steps_and_everything_else_adamw_steps(model):
    plain, by_muon = copy.deepcopy(model), {}
    for name, parameter in model.named_parameters():
        if is_vision_matrix(name, parameter.ndim):
            by_muon[name] = parameter.detach().clone().requires_grad_()
    assert {name.split(".")[1] for name in by_muon} == {"vision_tower", "abstractor"}
    assert not any("position" in name or "queries" in name for name in by_muon)
    ours = MuonAdamW(model, 0.05, muon_share=4.0, max_norm=1e9)
    adamw = MasterWeightAdamW(plain, 0.05, max_norm=1e9)
    muon = torch.optim.Muon(by_muon.values(), lr=4e-3, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(2):
        for each in (model, plain):
            give_gradients(each, step)
        for name, parameter in model.named_parameters():
            if name in by_muon:
                by_muon[name].grad = parameter.grad.clone()
        ours.step(1e-3)
        adamw.step(1e-3)
        muon.step()
    expected = dict(plain.named_parameters()) | by_muon
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], atol=1e-6, rtol=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_saved_state_goes_on_as_if_never_stopped(model):
    other = copy.deepcopy(model)
    first, second = MuonAdamW(model, 0.05, 4.0), MuonAdamW(other, 0.05, 4.0)
    give_gradients(model, 0)
    first.step(1e-3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    other.load_state_dict(model.state_dict())
    for each, optimizer in ((model, first), (other, second)):
        give_gradients(each, 1)
        optimizer.step(1e-3)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
