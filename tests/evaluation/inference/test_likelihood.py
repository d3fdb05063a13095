"""Likelihoods of choices, compared with one plain forward a choice."""

import pytest
import torch

from owl2.evaluation.inference.likelihood import LikelihoodScorer, tokenize_choices
from owl2.evaluation.task import Ranking
from owl2.evaluation.tasks.shared.ranking import likeliest, likeliest_per_character, likeliest_sequence
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor

SHOTS = "The sky is blue and the grass is green. " * 4
PROMPTS = [
    (SHOTS + "What is the colour of the sea? It is", (" blue", " a very deep green", " x")),
    (SHOTS + "Is it so? It", (" is", " is not so at all")),
    (SHOTS + "Name one of them, please, in the shortest of words:", (" A", " B", " C")),
    ("Another beginning, short.", (" one two", " three")),
]


def plain(model: Owl2ForConditionalGeneration, processor: Owl2Processor, prompt: str, choice: str, pixels=None):
    """Log-probabilities of the tokens of a choice, and of those before it, from one forward of all of it."""
    ids = processor.encode_prompt(prompt + choice)["input_ids"]
    tokens = torch.tensor([ids])
    with torch.no_grad():
        logits = model(input_ids=tokens, pixel_values=pixels).logits
    found = torch.log_softmax(logits[0, :-1].float(), -1)
    own = [float(found[index, token]) if token < found.shape[1] else 0.0 for index, token in enumerate(ids[1:])]
    length = len(processor.encode_prompt(prompt)["input_ids"])
    return own, length


def scorer(model: Owl2ForConditionalGeneration, processor: Owl2Processor, **settings: bool) -> LikelihoodScorer:
    return LikelihoodScorer(model.eval(), processor.tokenizer.pad_token_id, **settings)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_choices_are_as_likely_as_in_a_forward_of_their_own(model, processor, batch_size, shares, whole):
    ranks = scorer(model, processor, shares_prefixes=shares)
    samples = [tokenize_choices(processor, prompt, choices) for prompt, choices in PROMPTS]
    found = [
        ranking
        for start in range(0, len(samples), batch_size)
        for ranking in ranks.rank(samples[start : start + batch_size], whole)
    ]
    for (prompt, choices), ranking, sample in zip(PROMPTS, found, samples, strict=True):
        for number, choice in enumerate(choices):
            own, _ = plain(model, processor, prompt, choice)
            split = len(sample.ids) - 1
            assert ranking.log_probabilities[number] == pytest.approx(sum(own[split:]), abs=1e-4)
            assert ranking.tokens[number] == len(own) - split
            if whole:
                assert ranking.context_log_probability == pytest.approx(sum(own[:split]), abs=1e-3)
                assert ranking.context_tokens == split


def test_an_image_counts_for_the_choices_behind_it_and_only_there(model, processor):
    torch.manual_seed(0)
    prompt = SHOTS + "<|image|>What is it?"
    images = [torch.randn(1, 3, 16, 16) for _ in range(2)]
    samples = [tokenize_choices(processor, prompt, (" a dog", " cat"), pixels) for pixels in images]
    found = scorer(model, processor).rank(samples)
    for pixels, ranking in zip(images, found, strict=True):
        for number, choice in enumerate((" a dog", " cat")):
            own, _ = plain(model, processor, prompt, choice, pixels)
            assert ranking.log_probabilities[number] == pytest.approx(
                sum(own[len(own) - ranking.tokens[number] :]), abs=1e-4
            )
    assert found[0].log_probabilities != found[1].log_probabilities


def test_what_the_contexts_of_several_batches_share_is_run_once(model, processor):
    ranks = scorer(model, processor)
    lengths: list[int] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    shared = len(processor.encode_prompt(SHOTS)["input_ids"])
    try:
        for prompt, _ in PROMPTS[:3]:
            ranks.rank([tokenize_choices(processor, prompt, (" A", " B"))])
    finally:
        hook.remove()
    assert sum(length >= shared - 1 for length in lengths) == 1


def test_a_letter_is_tokenized_behind_its_prompt(model, processor):
    choices = tokenize_choices(processor, "Answer:", (" A", " B"))
    whole = processor.encode_prompt("Answer: A")["input_ids"]
    assert [*choices.ids, *choices.continuations[0]] == whole
    assert len(choices.continuations[0]) >= 1


def test_an_empty_choice_is_refused(processor):
    with pytest.raises(ValueError, match="must not be empty"):
        tokenize_choices(processor, "Answer:", (" A", ""))


def test_the_three_ways_to_rank_are_those_of_their_programs():
    # By hand: sums -4, -3; characters 8, 2; whole sequences (-10-4)/(5+4)=-1.56, (-10-3)/(5+1)=-2.17.
    ranking = Ranking((" elephant", " ox"), (-4.0, -3.0), (4, 1), -10.0, 5)
    assert likeliest(ranking) == 1
    assert likeliest_per_character(ranking) == 0
    assert likeliest_sequence(ranking) == 0


def test_whole_sequences_of_unequal_length_need_the_likelihood_of_the_prompt():
    with pytest.raises(ValueError, match="likelihood of the prompt was kept"):
        likeliest_sequence(Ranking((" a b", " c"), (-1.0, -2.0), (2, 1), 0.0, 0))
