"""The parts that a stage trains."""

import pytest
from helpers import tiny_config, tiny_model

from owl2.modeling.parts import PARTS, is_language_model, part_of
from owl2.training.stages import PRETRAINING_PARTS, select_trainable


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
