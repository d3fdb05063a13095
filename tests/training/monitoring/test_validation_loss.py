"""The loss of held-out samples is the model's, without dropout, and leaves the model in training mode."""

import pytest
import torch
from helpers import tiny_config, tiny_model

from owl2.training.adapters.lora import apply_lora
from owl2.training.data.loader import empty_micro_batch
from owl2.training.distributed.mesh import build_mesh, process_group
from owl2.training.monitoring.validation_loss import ValidationSet, validation_loss
from owl2.training.stages import select_trainable
from owl2.training.step import BatchPreparation


def test_no_dropout_is_in_it_and_training_goes_on_in_training_mode() -> None:
    pytest.importorskip("peft")
    config = tiny_config()
    config.text_config.attention_dropout = config.vision_config.attention_dropout = 0.5
    model = tiny_model(config)
    select_trainable(model, ("decoder_vision",))
    apply_lora(model, rank=4, alpha=8, dropout=0.5)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:  # at first they are 0, and dropout in front of them changes nothing
            parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    ids = torch.arange(5, 45).view(2, 20)
    batch = {"input_ids": ids, "labels": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        wanted = model.eval()(**batch).loss.item()
        model.train()
        assert model(**batch).loss.item() != pytest.approx(wanted, rel=1e-3)
    with process_group(60) as device:
        preparation = BatchPreparation(device, (0.5,) * 3, (0.5,) * 3, empty_micro_batch(0, few_shapes=False))
        found = validation_loss(model, ValidationSet([batch], 38, 2), preparation, build_mesh(device))
    assert found.loss == pytest.approx(wanted, rel=1e-5) and found[1:] == (38, 2)
    assert all(module.training for module in model.modules())
