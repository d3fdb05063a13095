"""What a trainer relies on: gradients for every part, losses that add up, stages that train what they say."""

import json
from typing import Any

import pytest
import torch
from helpers import GOLDENS, IMAGE, batch, largest_difference, sample, tiny_config, tiny_model

from owl2.modeling import Owl2Config, Owl2ForConditionalGeneration
from owl2.modeling.parts import PARTS, part_of
from owl2.training.stages import INSTRUCTION_TUNING_PARTS, PRETRAINING_PARTS, select_trainable

MIXED = [[9], [4, IMAGE, 5], [IMAGE, 2, IMAGE, IMAGE, 6]]
TEXT = [[9], [5]]
SETTINGS = [("norm", "k", "v"), ("q", "v"), ("norm", "q", "k", "v")]


def inputs_for(model: Owl2ForConditionalGeneration, mixture: list[list[int | str]]) -> dict[str, Any]:
    return batch([sample(model.config, parts, seed) for seed, parts in enumerate(mixture)])


def is_visual(name: str) -> bool:
    return "vision_tower" in name or "abstractor" in name or "vision_" in name


@pytest.mark.parametrize("separate", SETTINGS, ids="+".join)
def test_a_batch_of_text_gives_every_vision_parameter_a_zero_gradient(separate: tuple[str, ...]) -> None:
    model = tiny_model(tiny_config(modality_adaptive=separate)).train()
    model(**inputs_for(model, TEXT)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient: ranks would wait for one another"
        if is_visual(name):
            assert parameter.grad.abs().sum() == 0, name


@pytest.mark.parametrize("separate", SETTINGS, ids="+".join)
def test_a_batch_with_images_gives_every_parameter_a_gradient(separate: tuple[str, ...]) -> None:
    model = tiny_model(tiny_config(modality_adaptive=separate)).train()
    model(**inputs_for(model, MIXED)).loss.backward()
    # The bias of the keys of a softmax over keys has no influence: only rounding is left of its gradient.
    silent = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert silent == []


def test_training_changes_no_value() -> None:
    model = tiny_model()
    for mixture in (MIXED, TEXT):
        inputs = inputs_for(model, mixture)
        with torch.no_grad():
            evaluated, trained = model.eval()(**inputs), model.train()(**inputs)
        kept = inputs["attention_mask"].bool()
        assert largest_difference(evaluated.logits[kept], trained.logits[kept]) <= 1e-6


@pytest.mark.parametrize("mixture", [MIXED, TEXT], ids=["images", "text only"])
@pytest.mark.parametrize("num_items_in_batch", [None, 40])
def test_logits_of_supervised_tokens_alone_give_the_same_loss_and_gradients(
    mixture: list[list[int | str]], num_items_in_batch: int | None
) -> None:
    model, other = tiny_model().train(), tiny_model().train()
    inputs = inputs_for(model, mixture)
    inputs["labels"][:, 2:4] = -100
    whole = model(**inputs, num_items_in_batch=num_items_in_batch)
    few = other(**inputs, num_items_in_batch=num_items_in_batch, supervised_logits_only=True)
    assert few.logits.ndim == 2 and few.logits.shape[0] < whole.logits.flatten(0, 1).shape[0]
    assert few.loss.item() == pytest.approx(whole.loss.item(), abs=1e-6)
    whole.loss.backward()
    few.loss.backward()
    for (name, one), (_, same) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert largest_difference(one.grad, same.grad) <= 1e-6, name


def test_supervised_logits_without_labels_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="labels"):
        model(**sample(model.config, [5], 1), supervised_logits_only=True)


def test_losses_of_micro_batches_add_up_to_the_loss_of_the_batch() -> None:
    model = tiny_model()
    samples = [sample(model.config, parts, seed) for seed, parts in enumerate(MIXED)]
    together = batch(samples)
    is_text = together["input_ids"] < model.config.image_token_id
    count = int((is_text & (together["labels"] != -100))[:, 1:].sum())
    parts = [model(**batch([each]), num_items_in_batch=count).loss.item() for each in samples]
    assert sum(parts) == pytest.approx(model(**together).loss.item(), abs=1e-5)
    as_tensor = model(**together, num_items_in_batch=torch.tensor(count)).loss
    assert as_tensor.item() == pytest.approx(model(**together).loss.item(), abs=1e-6)


@pytest.mark.parametrize("supervised_logits_only", [False, True])
@pytest.mark.parametrize("num_items_in_batch", [None, 0])
@pytest.mark.parametrize("mixture", [MIXED, TEXT], ids=["images", "text only"])
def test_nothing_to_learn_is_a_loss_of_zero(
    mixture: list[list[int | str]], num_items_in_batch: int | None, supervised_logits_only: bool
) -> None:
    model = tiny_model().train()
    inputs = inputs_for(model, mixture)
    inputs["labels"].fill_(-100)
    output = model(**inputs, num_items_in_batch=num_items_in_batch, supervised_logits_only=supervised_logits_only)
    output.loss.backward()
    assert output.loss.item() == 0.0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() == 0, name


@torch.no_grad()
def test_the_loss_of_a_half_precision_model_is_computed_in_full_precision() -> None:
    model = tiny_model().bfloat16()
    inputs = inputs_for(model, MIXED)
    output = model(**inputs)
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32


@torch.no_grad()
def test_only_the_last_logits_on_request() -> None:
    model = tiny_model()
    inputs = inputs_for(model, MIXED)
    labels = inputs.pop("labels")
    whole = model(**inputs).logits
    assert largest_difference(model(**inputs, logits_to_keep=2).logits, whole[:, -2:]) <= 1e-6
    kept = torch.tensor([1, 4])
    few = model(**inputs, logits_to_keep=kept, labels=labels)
    assert largest_difference(few.logits, whole[:, kept]) <= 1e-6


def trained_parts(model: Owl2ForConditionalGeneration) -> dict[str, set[bool]]:
    separate = model.config.text_config.modality_adaptive
    found: dict[str, set[bool]] = {part: set() for part in PARTS}
    for name, parameter in model.named_parameters():
        found[part_of(name, separate)].add(parameter.requires_grad)
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("stage", [PRETRAINING_PARTS, INSTRUCTION_TUNING_PARTS, ("abstractor",), ()])
def test_a_stage_trains_exactly_its_parts(stage: tuple[str, ...], tied: bool) -> None:
    model = tiny_model(tiny_config(tie_word_embeddings=tied)).train()
    counts = select_trainable(model, stage)
    assert trained_parts(model) == {part: {part in stage} for part in PARTS}
    assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable == sum(counts[part] for part in stage)


def test_pretraining_leaves_the_language_model_alone() -> None:
    model = tiny_model().train()
    select_trainable(model, PRETRAINING_PARTS)
    model(**inputs_for(model, MIXED)).loss.backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if is_visual(name)}


def test_a_batch_of_text_trains_in_the_first_stage_too() -> None:
    model = tiny_model().train()
    select_trainable(model, PRETRAINING_PARTS)
    model(**inputs_for(model, TEXT)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_parts_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="visual_encoder.*vision_encoder"):
        select_trainable(tiny_model(), ["visual_encoder"])


def test_part_counts_of_the_published_model_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = Owl2ForConditionalGeneration(Owl2Config())
    counts = select_trainable(model, PARTS)
    published = json.loads((GOLDENS / "official_7b_parameters.json").read_text())["parameters_by_module"]
    assert counts["vision_encoder"] == published["vision_model"]
    assert counts["abstractor"] == published["visual_abstractor"]
    assert counts["decoder_vision"] == published["language_vision_specific(multiway.1)"]
    assert counts["decoder_text"] == published["language_text_specific(multiway.0)"]
    assert counts["embeddings"] == published["embed_tokens"] + published["lm_head"]
    assert counts["decoder_shared"] == published["language_shared"] - counts["embeddings"]
