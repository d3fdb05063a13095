"""Vision encoder and abstractor of one model for another."""

from pathlib import Path

import pytest
import torch
from training.tiny_recipes import recipe_of, run_recipe, write_training

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.training.model.build import build_model, meta_config

VISION = "model.initialize.vision=null"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def donor(data: Path) -> Path:
    run_recipe(data, "pretrain", data / "donor", "schedule.steps=1")
    return data / "donor" / "checkpoint"


def test_a_new_model_has_the_donors_vision_encoder_and_abstractor_before_another_language_model(
    data: Path, donor: Path
) -> None:
    wider = "model.initialize.language_model.hidden_size=48"
    recipe = recipe_of(data, "pretrain", data / "new", f"model.initialize.vision_encoder={donor}", VISION, wider)
    model, _ = build_model(recipe, ["a text"])
    source = Owl2ForConditionalGeneration.from_pretrained(donor)
    sizes = [meta_config(recipe).config, model.config, source.config]
    assert len({(each.vision_config.hidden_size, each.vision_config.position_grid_size) for each in sizes}) == 1
    assert model.config.text_config.hidden_size == 48 != source.config.text_config.hidden_size
    own, theirs = model.state_dict(), source.state_dict()
    visual = [name for name in own if name.startswith(("model.vision_tower.", "model.abstractor."))]
    assert len(visual) > 20
    for name in visual:
        if "abstractor.projection" in name or "end_of_image" in name:
            assert own[name].shape != theirs[name].shape or not torch.equal(own[name], theirs[name])
        else:
            assert torch.equal(own[name], theirs[name]), name


def test_an_abstractor_of_another_size_is_refused_with_both_sizes(data: Path, donor: Path) -> None:
    more = "model.initialize.abstractor.num_learnable_queries=5"
    recipe = recipe_of(data, "pretrain", data / "new", f"model.initialize.vision_encoder={donor}", VISION, more)
    with pytest.raises(ValueError, match=r"abstractor.learnable_queries is \(3, 32\) in .*donor.*, but \(5, 32\)"):
        build_model(recipe, ["a text"])
