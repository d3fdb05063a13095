"""Estimated memory of layers in the paper's width against the bytes of tensors that they hold: within 10 %."""

import pytest
import torch
from tensor_memory import TensorMemory
from torch._subclasses.fake_tensor import FakeTensorMode

from owl2 import Owl2Config, Owl2ForConditionalGeneration
from owl2.checkpoints.inspect import count_parameters
from owl2.modeling.chunked_loss import summed_next_token_loss
from owl2.training.cost.flops import Trained
from owl2.training.cost.gpu_memory import estimate_memory
from owl2.training.cost.layer_memory import MicroBatch, Placement
from owl2.training.stages import PRETRAINING_PARTS, select_trainable

TOLERANCE = 0.10


def test_layers_of_the_7b_model_hold_what_was_estimated() -> None:
    """Two layers of each kind in the paper's width and bfloat16, on tensors that have sizes and no content."""
    tokens, images, two = 8192, 70, {"num_hidden_layers": 2}
    config = Owl2Config(text_config=two, vision_config={**two, "image_size": 224}, abstractor_config=two)
    rows = images * config.tokens_per_image
    with FakeTensorMode():
        model = Owl2ForConditionalGeneration._from_config(config, dtype=torch.bfloat16).train()
        select_trainable(model, PRETRAINING_PARTS)
        with TensorMemory(*model.parameters(), *model.buffers()) as memory:
            weights = memory.current
            visual = model.model.encode_images(torch.empty(images, 3, 224, 224)).image_hidden_states
            embedded = model.get_input_embeddings()(torch.empty(1, tokens - rows, dtype=torch.long))
            hidden = model.model.language_model(
                inputs_embeds=torch.cat([visual.flatten(0, 1)[None], embedded], dim=1),
                is_vision=torch.empty(1, tokens, dtype=torch.bool),
                num_vision=rows,
                use_cache=False,
            ).last_hidden_state
            targets = torch.empty(tokens - rows, dtype=torch.long)
            summed_next_token_loss(model.lm_head, hidden[0, rows:], targets, 32000).backward()
    counts = count_parameters(model)
    micro_batch = MicroBatch(tokens, images, 224, tokens - rows)
    shape = Placement(sharded=False, compute_bytes=2)
    kinds = estimate_memory(config, counts, micro_batch, Trained(frozenset(PRETRAINING_PARTS)), shape)
    comes_and_goes = kinds["activations"] + kinds["images"] + kinds["logits"] + kinds["gradients"] / 2
    assert comes_and_goes == pytest.approx(memory.peak - weights, rel=TOLERANCE)
