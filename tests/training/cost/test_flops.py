"""Operations of a sample, against torch's counter and the published totals."""

import pytest
import torch
from helpers import tiny_config
from torch.utils.flop_counter import FlopCounterMode

from owl2 import Owl2Config, Owl2ForConditionalGeneration
from owl2.modeling.parts import PARTS
from owl2.training.adapters.lora import apply_lora
from owl2.training.cost.flops import Lora, SampleSize, Trained, sample_flops
from owl2.training.stages import PRETRAINING_PARTS, select_trainable

STAGE_1 = SampleSize(text_tokens=48, images=1, image_size=224)
STAGE_2 = SampleSize(text_tokens=2048 - 65, images=1, image_size=448)


def counted(config: Owl2Config, sample: SampleSize, trained: Trained) -> int:
    """Forward and backward pass of one sample under torch's counter, on the meta device: no number is computed."""
    with torch.device("meta"):
        model = Owl2ForConditionalGeneration(config).train()
        images, text = int(sample.images), int(sample.text_tokens)
        pixels = torch.empty(images, 3, sample.image_size, sample.image_size)
        ids, rows = torch.empty(1, text, dtype=torch.long), images * config.tokens_per_image
        is_vision = torch.empty(1, rows + text, dtype=torch.bool)
    select_trainable(model, trained.parts)
    if trained.lora is not None:
        apply_lora(model, trained.lora.rank, 8, targets=trained.lora.targets)
    with FlopCounterMode(display=False) as counter:
        visual = model.model.encode_images(pixels).image_hidden_states.flatten(0, 1)[None]
        embedded = torch.cat([visual, model.get_input_embeddings()(ids)], dim=1)
        hidden = model.model.language_model(
            inputs_embeds=embedded, is_vision=is_vision, num_vision=rows, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[:, -text:])
        if logits.requires_grad:
            logits.sum().backward()
    return counter.get_total_flops()


def expected(config: Owl2Config, sample: SampleSize, trained: Trained) -> float:
    """Ours; the counter knows no causal mask and counts all of the decoder's attention."""
    flops = sample_flops(config, sample, trained)
    return flops.total + flops.training["decoder_attention"]


PARTS_THAT_TRAIN = {
    "stage 1": PRETRAINING_PARTS,
    "stage 2": PARTS,
    "abstractor": ("abstractor",),
    "vision half": ("decoder_vision",),
    "language model": ("decoder_text", "decoder_shared"),
    "embeddings": ("embeddings",),
    "nothing": (),
}
SMALL = dict(hidden_size=256, intermediate_size=640, num_hidden_layers=3, num_attention_heads=8, vocab_size=499)
WIDE = {**SMALL, "num_key_value_heads": 2, "head_dim": 48}


@pytest.mark.parametrize("parts", PARTS_THAT_TRAIN.values(), ids=PARTS_THAT_TRAIN)
def test_operations_are_those_that_torch_counts_whatever_trains(parts: tuple[str, ...]) -> None:
    config, trained = tiny_config(**WIDE), Trained(frozenset(parts))
    sample = SampleSize(text_tokens=50, images=3, image_size=16)
    assert expected(config, sample, trained) == pytest.approx(counted(config, sample, trained), rel=0.02)


@pytest.mark.parametrize("separate", [(), ("q",), ("k", "v"), ("norm", "q", "k", "v")], ids=str)
def test_they_are_for_every_choice_of_what_is_modality_adaptive(separate: tuple[str, ...]) -> None:
    config = tiny_config(**SMALL, modality_adaptive=separate)
    sample = SampleSize(text_tokens=60, images=4, image_size=16)
    for parts in (("decoder_vision", "abstractor"), PARTS):
        trained = Trained(frozenset(parts))
        assert expected(config, sample, trained) == pytest.approx(counted(config, sample, trained), rel=0.02)


@pytest.mark.parametrize(
    "parts", [(), ("vision_encoder", "abstractor", "decoder_vision")], ids=["alone", "with vision"]
)
def test_they_are_with_adapters(parts: tuple[str, ...]) -> None:
    pytest.importorskip("peft")
    trained = Trained(frozenset(parts), Lora(16, frozenset({"q_proj", "v_proj", "down_proj", "vision_v_proj"})))
    config, sample = tiny_config(**SMALL), SampleSize(text_tokens=60, images=2, image_size=16)
    assert expected(config, sample, trained) == pytest.approx(counted(config, sample, trained), rel=0.02)


@pytest.mark.slow
def test_the_7b_model_costs_what_torch_counts() -> None:
    for sample, parts in ((STAGE_1, PRETRAINING_PARTS), (STAGE_2, PARTS)):
        trained = Trained(frozenset(parts))
        total = counted(Owl2Config(), sample, trained)
        assert expected(Owl2Config(), sample, trained) == pytest.approx(total, rel=0.002)


def test_the_papers_stages_cost_3_64_and_86_7_tflop_a_sample() -> None:
    """Stage 1: 224 px, 65 + 48 tokens; stage 2: 448 px, 2,048 tokens (derived by hand from section 4.1, Table 9)."""
    one = sample_flops(Owl2Config(), STAGE_1, Trained(frozenset(PRETRAINING_PARTS)))
    two = sample_flops(Owl2Config(), STAGE_2, Trained(frozenset(PARTS)))
    assert round(one.total / 1e12, 2) == 3.64 and round(one.if_all_trained / 1e12, 2) == 4.98
    assert round(two.total / 1e12, 1) == 86.7


@pytest.mark.parametrize(("image_size", "ratio"), [(224, 1.0), (336, 1.19), (448, 1.48), (672, 2.49), (896, 4.35)])
def test_resolution_costs_as_published(image_size: int, ratio: float) -> None:
    trained = Trained(frozenset(PRETRAINING_PARTS))
    base = sample_flops(Owl2Config(), STAGE_1, trained).total
    sample = STAGE_1._replace(image_size=image_size)
    assert sample_flops(Owl2Config(), sample, trained).total / base == pytest.approx(ratio, abs=0.006)


@pytest.mark.parametrize(("queries", "teraflops"), [(32, 4.5), (64, 5.4), (128, 7.2)])
def test_learnable_queries_cost_as_published(queries: int, teraflops: float) -> None:
    config = Owl2Config(abstractor_config={"num_learnable_queries": queries})
    sample = STAGE_1._replace(image_size=448)
    total = sample_flops(config, sample, Trained(frozenset(PRETRAINING_PARTS))).total
    assert total / 1e12 == pytest.approx(teraflops, abs=0.06)
