"""A whole copy of the model in training computes what the model computes."""

import pytest
import torch


def test_the_whole_model_computes_what_the_model_in_training_computes_in_4_bits() -> None:
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("peft")
    from helpers import IMAGE, batch, sample, tiny_config, tiny_model

    from owl2.training.adapters.lora import apply_lora
    from owl2.training.adapters.quantize import quantize_frozen_projections
    from owl2.training.distributed.unsharded_model import UnshardedModel
    from owl2.training.stages import select_trainable

    model = tiny_model(tiny_config(intermediate_size=128))
    select_trainable(model, ("vision_encoder", "abstractor"))
    quantize_frozen_projections(model, torch.float32)
    apply_lora(model, rank=4, alpha=8)
    whole = UnshardedModel(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.01)
    inputs = batch([sample(model.config, [3, IMAGE, 5], 1)])
    model.train()
    with torch.no_grad(), whole.of(model, torch.float32) as second:
        found = second(**inputs).logits
        assert not second.training and all(module.training for module in model.modules())
        torch.testing.assert_close(found, model.eval()(**inputs).logits, rtol=0, atol=0)
    assert all(parameter.is_meta for parameter in second.parameters())
