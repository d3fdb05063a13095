"""How tokens are drawn: the law, the restrictions, the penalties."""

import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from owl2.serving.engine.sampler import Sampling, gumbel_noise, penalized, restrict, sampled_scores, seed_of_choice

VOCABULARY = 50


@pytest.fixture
def scores() -> torch.Tensor:
    return 2 * torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(0))


def test_tokens_are_drawn_with_the_probabilities_of_the_softmax(scores):
    sampling, draws = Sampling(temperature=0.7), 4000
    tokens = torch.tensor([int(sampled_scores(scores, sampling, [], seed).argmax()) for seed in range(draws)])
    found = torch.bincount(tokens, minlength=VOCABULARY) / draws
    expected = (scores / 0.7).softmax(-1)
    assert (found - expected).abs().max() < 4 * (0.25 / draws) ** 0.5


def test_the_noise_depends_on_seed_and_position_alone():
    noise = gumbel_noise(5, 3, VOCABULARY)
    torch.rand(10)
    assert torch.equal(noise, gumbel_noise(5, 3, VOCABULARY))
    for other in (gumbel_noise(5, 4, VOCABULARY), gumbel_noise(6, 3, VOCABULARY)):
        assert (noise != other).all()


@pytest.mark.parametrize("top_k", [1, 5, 49, 50, 500])
def test_the_likeliest_k_are_those_of_transformers(scores, top_k):
    assert torch.equal(restrict(scores, top_k, 1.0), TopKLogitsWarper(top_k)(None, scores[None])[0])


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.9, 0.999])
def test_the_likeliest_of_a_probability_are_those_of_transformers(scores, top_p):
    assert torch.equal(restrict(scores, 0, top_p), TopPLogitsWarper(top_p)(None, scores[None])[0])


def test_penalties_have_the_meaning_of_openai(scores):
    sampling = Sampling(frequency_penalty=0.5, presence_penalty=0.25, logit_bias=((7, -3.0),))
    expected = scores.clone()
    expected[4] -= 3 * 0.5 + 0.25  # it came three times
    expected[9] -= 1 * 0.5 + 0.25
    expected[7] -= 3.0
    before = scores.clone()
    torch.testing.assert_close(penalized(scores, sampling, [4, 9, 4, 4]), expected)
    assert torch.equal(scores, before)


def test_greedy_ignores_the_seed_but_not_the_penalties(scores):
    best = int(scores.argmax())
    assert int(sampled_scores(scores, Sampling(temperature=0.0), [], 1).argmax()) == best
    penalty = Sampling(temperature=0.0, presence_penalty=2.0, frequency_penalty=2.0)
    assert int(sampled_scores(scores, penalty, [best] * 3, 1).argmax()) != best


def test_choices_of_a_request_have_seeds_of_their_own_and_the_first_the_requests():
    seeds = [seed_of_choice(11, index) for index in range(20)]
    assert seeds[0] == 11 and len(set(seeds)) == 20
    assert not set(seeds) & {seed_of_choice(12, index) for index in range(20)}
