"""Everything that the official code computed for the golden models, we compute too.

`OWL2_REFERENCE` names another folder of golden models.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import PLACEHOLDER, GoldenModel, expanded_case, golden, golden_directories, largest_difference
from transformers import AutoModelForImageTextToText

import owl2  # noqa: F401  (registers the Auto classes)
from owl2.checkpoints import owl2_to_official
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.modeling.compatibility import CACHE
from owl2.modeling.positions import interpolate_positions

LOGITS = 2e-4
INTERMEDIATE = 5e-5

DIRECTORIES = golden_directories()
every_model = pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda directory: directory.name)


def cases_with(*suffixes: str) -> Any:
    """All (golden model, case) pairs that recorded one of the tensors, except the official padding mistake."""
    pairs = [
        pytest.param(directory, case, id=f"{directory.name}-{case}")
        for directory in DIRECTORIES
        for case in golden(directory).cases
        if case != "left_pad_refbug" and any(f"{case}/{suffix}" in golden(directory).tensors for suffix in suffixes)
    ]
    return pytest.mark.parametrize(("directory", "case"), pairs)


@cache
def load(directory: Path, attention: str = "sdpa") -> Owl2ForConditionalGeneration:
    return AutoModelForImageTextToText.from_pretrained(directory, attn_implementation=attention).eval()


@contextmanager
def recorded(modules: dict[str, torch.nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """Outputs of the modules, by hooks: independent of what the model chooses to return."""
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.__setitem__(
                name, output if isinstance(output, torch.Tensor) else output[0]
            )
        )
        for name, module in modules.items()
    ]
    yield outputs
    for handle in handles:
        handle.remove()


def test_there_are_golden_models() -> None:
    assert DIRECTORIES, "no golden model: the tests of this file would pass without comparing anything"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@cases_with("logits")
@torch.no_grad()
def test_logits_and_loss_are_the_official_ones(directory: Path, case: str, attention: str) -> None:
    reference, model = golden(directory), load(directory, attention)
    inputs = expanded_case(reference, case, model.config)
    output = model(**inputs)
    kept = inputs["attention_mask"].bool()
    assert largest_difference(output.logits[kept], reference.tensors[f"{case}/logits"][kept]) <= LOGITS
    if reference.cases[case]["loss"] is not None:
        assert output.loss.item() == pytest.approx(reference.cases[case]["loss"], abs=LOGITS)


@cases_with("inputs_embeds")
@torch.no_grad()
def test_text_and_images_are_put_together_as_in_the_official_code(directory: Path, case: str) -> None:
    reference, model = golden(directory), load(directory)
    inputs = expanded_case(reference, case, model.config)
    seen: dict[str, Any] = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    model(**inputs)
    hook.remove()
    kept = inputs["attention_mask"].bool()
    difference = largest_difference(seen["inputs_embeds"][kept], reference.tensors[f"{case}/inputs_embeds"][kept])
    assert difference <= INTERMEDIATE
    assert seen["is_vision"][kept].tolist() == reference.tensors[f"{case}/modality_indicators"].bool()[kept].tolist()
    if f"{case}/expanded_labels" in reference.tensors:
        assert inputs["labels"].tolist() == reference.tensors[f"{case}/expanded_labels"].tolist()


@every_model
@torch.no_grad()
def test_every_intermediate_value_is_the_official_one(directory: Path) -> None:
    reference, model = golden(directory), load(directory, "eager")
    inputs = expanded_case(reference, reference.cases["intermediate"]["same_inputs_as"], model.config)
    core = model.model
    modules: dict[str, torch.nn.Module] = {
        "vision_last_hidden_state": core.vision_tower.post_layernorm,
        "vit_embeddings": core.vision_tower.pre_layernorm,
        "final_norm": core.language_model.norm,
        "abstractor_last_hidden_state": core.abstractor,
    }
    for name, part in (
        ("vit_layer", core.vision_tower),
        ("abstractor_layer", core.abstractor),
        ("decoder_layer", core.language_model),
    ):
        modules |= {f"{name}_{index}": layer for index, layer in enumerate(part.layers)}
    with recorded(modules) as values:
        output = model(**inputs, use_cache=True, output_attentions=True)
    values["abstractor_last_hidden_state"] = output.image_hidden_states
    for index, probabilities in enumerate(output.attentions):
        values[f"attn_probs_{index}"] = probabilities
        values[f"cache_k_{index}"] = output[CACHE].layers[index].keys
        values[f"cache_v_{index}"] = output[CACHE].layers[index].values
    wanted = {
        name.removeprefix("intermediate/"): tensor
        for name, tensor in reference.tensors.items()
        # The pooled output is normalised twice in the official code, and nothing uses it.
        if name.startswith("intermediate/") and not name.endswith("pooler_output")
    }
    assert set(wanted) == set(values)
    differences = {name: largest_difference(values[name], tensor) for name, tensor in wanted.items()}
    assert {name: value for name, value in differences.items() if not value <= INTERMEDIATE} == {}


@every_model
def test_every_gradient_is_the_official_one(directory: Path) -> None:
    reference, model = golden(directory), load(directory)
    model.zero_grad()
    model(**expanded_case(reference, reference.grads["case"], model.config)).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    assert None not in gradients.values()
    official = owl2_to_official(gradients, model.config)
    norms = {name: official[name].norm().item() for name in reference.grads["grad_norm"]}
    # Relative: float32 against float32 in another order of summation; norms range over five powers of ten.
    assert norms == pytest.approx(reference.grads["grad_norm"], rel=1e-3, abs=1e-5)
    assert len(norms) == reference.grads["num_params"]
    stored = {name.removeprefix("grads/"): t for name, t in reference.tensors.items() if name.startswith("grads/")}
    differences = {name: largest_difference(official[name], tensor) for name, tensor in stored.items()}
    assert {name: value for name, value in differences.items() if not value <= INTERMEDIATE} == {}


@pytest.mark.parametrize("cache_implementation", ["dynamic", "static"])
@cases_with("new_tokens")
def test_greedy_generation_is_the_official_one(directory: Path, case: str, cache_implementation: str) -> None:
    reference, model = golden(directory), load(directory)
    inputs = expanded_case(reference, case, model.config)
    del inputs["labels"]
    wanted = reference.tensors[f"{case}/new_tokens"]
    output = model.generate(
        **inputs,
        max_new_tokens=wanted.shape[1],
        do_sample=False,
        eos_token_id=-1,  # the golden generations run on
        cache_implementation=None if cache_implementation == "dynamic" else cache_implementation,
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert output.sequences[:, inputs["input_ids"].shape[1] :].tolist() == wanted.tolist()
    step_logits = torch.stack(output.logits, dim=1)
    assert largest_difference(step_logits, reference.tensors[f"{case}/step_logits"]) <= LOGITS


def interpolated_models() -> list[Path]:
    return [d for d in DIRECTORIES if any(name.startswith("abs_pos/") for name in golden(d).tensors)]


@pytest.mark.parametrize("directory", interpolated_models(), ids=lambda directory: directory.name)
@torch.no_grad()
def test_positions_are_interpolated_as_in_the_official_code(directory: Path) -> None:
    reference, table = golden(directory), load(directory).model.vision_tower.position_embedding
    stored = {int(name.split("/")[1]): t for name, t in reference.tensors.items() if name.startswith("abs_pos/")}
    for patches, wanted in stored.items():
        side = round(patches**0.5)
        ours = interpolate_positions(table, (side, side), 0)
        assert largest_difference(ours[:: patches // len(wanted)], wanted) <= INTERMEDIATE


def left_padded_case(
    reference: GoldenModel, model: Owl2ForConditionalGeneration
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The left-padded golden batch and its samples alone, without their padding."""
    ids, mask = reference.tensors["left_pad_refbug/input_ids"], reference.tensors["left_pad_refbug/attention_mask"]
    together = expanded_case(reference, "left_pad_refbug", model.config)
    alone, first = [], 0
    for row in range(len(ids)):
        kept = together["attention_mask"][row].bool()
        images = int((ids[row] == PLACEHOLDER).sum())
        assert bool(mask[row, -1]), "padded on the left"
        pixel_values = together["pixel_values"][first : first + images]
        alone.append({"input_ids": together["input_ids"][row][kept][None], "pixel_values": pixel_values})
        first += images
    return together, alone


@every_model
@torch.no_grad()
def test_left_padding_is_right_where_the_official_code_is_wrong(directory: Path) -> None:
    reference, model = golden(directory), load(directory)
    if "left_pad_refbug" not in reference.cases:
        pytest.skip("this golden model has no left-padded case")
    together, alone = left_padded_case(reference, model)
    assert bool((together["attention_mask"][:, 0] == 0).any())
    logits = model(**together).logits
    for row, inputs in enumerate(alone):
        kept = together["attention_mask"][row].bool()
        assert largest_difference(logits[row][kept], model(**inputs).logits[0]) <= 1e-5
