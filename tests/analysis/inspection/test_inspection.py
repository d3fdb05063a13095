"""Measures of what the module does inside, against plain restatements and models whose answer is known."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import IMAGE, batch, sample, tiny_config, tiny_model

from owl2.analysis.inspection.alignment import alignment_by_layer, debiased_cka
from owl2.analysis.inspection.copies import drift_of_copies, text_copies_for_vision, vision_copies
from owl2.analysis.inspection.gradients import gradient_conflict


def without_module():
    return tiny_model(tiny_config(modality_adaptive=[]))


def test_every_copy_stands_beside_the_parameter_of_text_of_its_name():
    model = tiny_model()
    layer = model.model.language_model.layers[1]
    found = {(each.layer, each.name): each for each in vision_copies(model)}
    key = found[1, "self_attn.k_proj.weight"]
    assert torch.equal(key.vision, layer.self_attn.vision_k_proj.weight)
    assert torch.equal(key.text, layer.self_attn.k_proj.weight)
    norm = found[1, "input_layernorm.weight"]
    assert torch.equal(norm.vision, layer.input_layernorm.vision_weight)
    assert len(found) == 2 * (2 + 2)  # layers x (keys and values + two norms)


def test_drift_is_relative_and_an_angle():
    model, start = tiny_model(), tiny_model()
    with torch.no_grad():
        model.model.language_model.layers[0].self_attn.vision_k_proj.weight.mul_(1.5)
        start.model.language_model.layers[1].self_attn.vision_v_proj.weight.mul_(-1)
    found = {(each.layer, each.name): each for each in drift_of_copies(model, start)}
    scaled, turned = found[0, "self_attn.k_proj.weight"], found[1, "self_attn.v_proj.weight"]
    assert (scaled.distance, scaled.angle) == (pytest.approx(0.5), pytest.approx(0, abs=1e-4))
    assert (turned.distance, turned.angle) == (pytest.approx(2), pytest.approx(180))
    assert found[1, "input_layernorm.weight"].distance == 0
    own = drift_of_copies(model)[0]
    pair = vision_copies(model)[0]
    assert own.distance == pytest.approx(float((pair.vision - pair.text).norm() / pair.text.norm()), rel=1e-5)


def test_the_swap_makes_the_model_one_without_the_module_and_is_undone():
    model = tiny_model()
    inputs = sample(model.config, [3, IMAGE, 4], seed=0)
    plain = without_module()
    plain.load_state_dict({name: model.state_dict()[name] for name in plain.state_dict()})
    with torch.no_grad():
        before = model(**inputs).logits
        with text_copies_for_vision(model):
            torch.testing.assert_close(model(**inputs).logits, plain(**inputs).logits)
        with text_copies_for_vision(model, [1]):
            one = model(**inputs).logits
        torch.testing.assert_close(model(**inputs).logits, before)
    assert (one - before).abs().max() > 1e-4


def test_debiased_cka_is_its_published_formula_and_0_for_independent_data():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(12, 5)), generator.normal(size=(12, 3))

    def hsic(one, other):  # Song et al. (2012), equation 5, summed as written
        n = len(one)
        ones = np.ones(n)
        total = np.trace(one @ other) + (ones @ one @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
        return (total - 2 / (n - 2) * (ones @ one @ other @ ones)) / (n * (n - 3))

    def gram(values):
        values = values - values.mean(0)
        found = values @ values.T
        np.fill_diagonal(found, 0)
        return found

    first, second = gram(x), gram(y)
    expected = hsic(first, second) / math.sqrt(hsic(first, first) * hsic(second, second))
    assert debiased_cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected)
    assert debiased_cka(
        torch.tensor(x), torch.tensor(x @ np.linalg.qr(generator.normal(size=(5, 5)))[0])
    ) == pytest.approx(1)
    wide = [
        debiased_cka(torch.tensor(generator.normal(size=(20, 400))), torch.tensor(generator.normal(size=(20, 400))))
        for _ in range(20)
    ]
    assert abs(np.mean(wide)) < 0.05  # the biased one is near 0.95 here


def test_alignment_has_a_value_for_every_layer_and_shuffled_pairs_beside():
    model = tiny_model()
    samples = [sample(model.config, [2, IMAGE, 3 + seed % 3], seed) for seed in range(6)]
    found = alignment_by_layer(model, samples)
    layers = model.config.text_config.num_hidden_layers + 1
    assert len(found.cka) == len(found.shuffled) == len(found.shuffled_deviation) == layers and found.samples == 6
    with pytest.raises(ValueError, match="needs a picture and a text"):
        alignment_by_layer(model, [sample(model.config, [4], 0)])
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        alignment_by_layer(model, samples[:3])


def test_the_same_batches_for_both_modalities_do_not_conflict_and_opposite_ones_do():
    model = tiny_model()
    batches = [batch([sample(model.config, [3, IMAGE, 4], seed)]) for seed in range(4)]
    for found in gradient_conflict(model, batches, batches):
        assert found.between == pytest.approx(1) and found.within_text == pytest.approx(found.within_vision)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_cosines_are_those_of_the_summed_gradients():
    model = tiny_model()
    text = [batch([sample(model.config, [6], seed)]) for seed in range(2)]
    vision = [batch([sample(model.config, [3, IMAGE, 4], seed)]) for seed in range(2)]
    name = "model.language_model.layers.1.self_attn.o_proj.weight"

    def gradient(batches):
        twin = copy.deepcopy(model)
        for each in batches:
            twin(**each).loss.backward()
        return twin.get_parameter(name).grad.flatten()

    def cosine(one, other):
        return float(one @ other / (one.norm() * other.norm()))

    found = next(each for each in gradient_conflict(model, text, vision) if each.name == name)
    assert found.between == pytest.approx(cosine(gradient(text), gradient(vision)), abs=1e-5)
    assert found.within_text == pytest.approx(cosine(gradient(text[:1]), gradient(text[1:])), abs=1e-5)
    names = {each.name.split(".")[-2] for each in gradient_conflict(model, text, vision)}
    assert names == {"q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}  # keys and values are apart
    with pytest.raises(ValueError, match="at least two batches of each modality, got 1"):
        gradient_conflict(model, text[:1], vision)


def test_a_model_without_copies_is_refused():
    with pytest.raises(ValueError, match="made without the modality-adaptive module"):
        drift_of_copies(without_module())
    with pytest.raises(ValueError, match="there is no layer 7"), text_copies_for_vision(tiny_model(), [7]):
        pass
