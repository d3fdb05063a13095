"""Every attention implementation, compiled or not, with any cache, computes the same model."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import IMAGE, batch, largest_difference, sample, tiny_config, tiny_model
from transformers import CompileConfig

from owl2.modeling import Owl2ForConditionalGeneration

MIXED = [[9], [4, IMAGE, 5], [IMAGE, 2, IMAGE, IMAGE, 6]]
TEXT = [[9], [5]]


def inputs_for(
    model: Owl2ForConditionalGeneration, mixture: list[list[int | str]], side: str = "right"
) -> dict[str, Any]:
    return batch([sample(model.config, parts, seed) for seed, parts in enumerate(mixture)], side)


@pytest.fixture
def uncompiled_flex() -> Iterator[None]:
    """Flex attention without the minute that compiling its kernels takes."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.slow
@torch.no_grad()
def test_compiled_flex_attention_gives_the_same_logits() -> None:
    model, other = tiny_model(), tiny_model(attention="flex_attention")
    inputs = inputs_for(model, MIXED, "left")
    kept = inputs["attention_mask"].bool()
    assert largest_difference(model(**inputs).logits[kept], other(**inputs).logits[kept]) <= 1e-5


@pytest.mark.usefixtures("uncompiled_flex")
@pytest.mark.parametrize("attention", ["eager", "flex_attention"])
@pytest.mark.parametrize("text", [{}, {"sliding_window": 6}], ids=["full", "sliding window"])
@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_every_attention_gives_the_same_logits(side: str, text: dict[str, Any], attention: str) -> None:
    model, other = tiny_model(tiny_config(**text)), tiny_model(tiny_config(**text), attention=attention)
    for part in (other.model.vision_tower, other.model.abstractor, other.model.language_model):
        assert part.config._attn_implementation == attention
    inputs = inputs_for(model, MIXED, side)
    kept = inputs["attention_mask"].bool()
    assert largest_difference(model(**inputs).logits[kept], other(**inputs).logits[kept]) <= 1e-5


@torch.no_grad()
def test_attention_maps_of_all_three_parts() -> None:
    model = tiny_model(attention="eager")
    inputs = inputs_for(model, MIXED, "left")
    output = model(**inputs, output_attentions=True)
    images, length, queries, tokens = 4, inputs["input_ids"].shape[1], 3, 17
    assert [tuple(map.shape) for map in output.vision_attentions] == [(images, 2, tokens, tokens)] * 2
    assert [tuple(map.shape) for map in output.abstractor_attentions] == [(images, 2, queries, queries + tokens)] * 2
    assert [tuple(map.shape) for map in output.attentions] == [(3, 4, length, length)] * 2
    for maps in (output.vision_attentions, output.abstractor_attentions):
        for map in maps:
            assert torch.allclose(map.sum(-1), torch.ones(map.shape[:-1]))
    kept = inputs["attention_mask"].bool()
    for map in output.attentions:
        rows = map.transpose(1, 2)[kept]  # [rows, heads, S]
        assert torch.allclose(rows.sum(-1), torch.ones(rows.shape[:-1]))
        for row, real in zip(map, kept, strict=True):
            assert row[:, real][:, :, real].triu(1).abs().max() == 0, "no token sees the future"
            assert row[:, real][:, :, ~real].abs().sum() == 0, "no token sees padding"


@torch.no_grad()
def test_attention_maps_do_not_change_the_logits() -> None:
    model = tiny_model(attention="eager")
    inputs = inputs_for(model, MIXED)
    assert torch.equal(model(**inputs, output_attentions=True).logits, model(**inputs).logits)
    assert model(**inputs).attentions is None and model(**inputs).vision_attentions is None


@torch.no_grad()
def test_attention_maps_of_a_generation() -> None:
    model = tiny_model(attention="eager")
    inputs = sample(model.config, [2, IMAGE, 3], 1)
    output = model.generate(
        **inputs,
        attention_mask=torch.ones_like(inputs["input_ids"]),
        max_new_tokens=3,
        do_sample=False,
        eos_token_id=-1,
        output_attentions=True,
        return_dict_in_generate=True,
    )
    length = inputs["input_ids"].shape[1]
    assert [step[0].shape[2:] for step in output.attentions] == [(length, length), (1, length + 1), (1, length + 2)]


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_attention_maps_without_eager_attention_are_refused_with_the_remedy(attention: str) -> None:
    model = tiny_model(attention=attention)
    inputs = sample(model.config, [2, IMAGE, 3], 1)
    with pytest.raises(ValueError, match=rf"{attention}.*set_attn_implementation\('eager'\)"):
        model(**inputs, output_attentions=True)
    model.set_attn_implementation("eager")
    assert model(**inputs, output_attentions=True).attentions is not None


@torch.no_grad()
def test_hidden_states_of_every_layer() -> None:
    model = tiny_model()
    output = model(**inputs_for(model, MIXED), output_hidden_states=True)
    assert len(output.hidden_states) == 3
    assert largest_difference(model.lm_head(output.hidden_states[-1]), output.logits) <= 1e-6


@pytest.mark.parametrize("mixture", [MIXED, TEXT], ids=["images", "text only"])
def test_gradient_checkpointing_gives_the_same_gradients(mixture: list[list[int | str]]) -> None:
    model, other = tiny_model().train(), tiny_model().train()
    other.gradient_checkpointing_enable()
    layers = [
        m for m in other.modules() if type(m).__name__ in ("Owl2VisionLayer", "Owl2AbstractorLayer", "Owl2DecoderLayer")
    ]
    assert len(layers) == 6 and all(layer.gradient_checkpointing for layer in layers)
    inputs = inputs_for(model, mixture)
    losses = [each(**inputs).loss for each in (model, other)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for (name, one), (_, same) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert largest_difference(one.grad, same.grad) <= 1e-6, name


def test_gradient_checkpointing_really_recomputes() -> None:
    model = tiny_model().train()
    model.gradient_checkpointing_enable()
    calls = []
    model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    model(**inputs_for(model, MIXED)).loss.backward()
    assert len(calls) == 2


def compiled_equals_eager(model: Owl2ForConditionalGeneration, backend: str, mixtures: list[Any]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for mixture in mixtures:
        inputs = inputs_for(model, mixture)
        kept = inputs["attention_mask"].bool()
        with torch.no_grad():
            wanted, output = model(**inputs), compiled(**inputs)
        assert largest_difference(output.logits[kept], wanted.logits[kept]) <= 1e-5
        assert output.loss.item() == pytest.approx(wanted.loss.item(), abs=1e-5)


@pytest.mark.parametrize("mixture", [MIXED, TEXT], ids=["images", "text only"])
def test_the_forward_compiles_to_one_graph(mixture: list[list[int | str]]) -> None:
    compiled_equals_eager(tiny_model(), "eager", [mixture])


def test_other_numbers_of_images_do_not_need_a_graph_each() -> None:
    model = tiny_model()
    torch._dynamo.reset()
    graphs = []

    def count(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=count)
    for images in (2, 3, 5):
        with torch.no_grad():
            inputs = sample(model.config, [3, *([IMAGE] * images), 4], images)
            assert largest_difference(compiled(**inputs).logits, model(**inputs).logits) <= 1e-5
    assert len(graphs) <= 2, "one for the first shape, one for all others"


def test_training_compiles_with_the_same_gradients() -> None:
    torch._dynamo.reset()
    model, other = tiny_model().train(), tiny_model().train()
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    inputs = inputs_for(model, MIXED)
    model(**inputs).loss.backward()
    compiled(**inputs).loss.backward()
    for (name, one), (_, same) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert largest_difference(one.grad, same.grad) <= 1e-5, name


@pytest.mark.slow
def test_the_forward_compiles_with_inductor() -> None:
    compiled_equals_eager(tiny_model(), "inductor", [MIXED, TEXT])


@pytest.mark.parametrize("text", [{}, {"sliding_window": 6}], ids=["full", "sliding window"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_static_cache_generates_what_a_dynamic_one_does(attention: str, text: dict[str, Any]) -> None:
    model = tiny_model(tiny_config(**text), attention=attention)
    inputs = inputs_for(model, MIXED, "left")
    del inputs["labels"]
    settings = dict(max_new_tokens=8, do_sample=False, eos_token_id=-1)
    dynamic = model.generate(**inputs, **settings)
    assert torch.equal(model.generate(**inputs, **settings, cache_implementation="static"), dynamic)


@pytest.mark.slow
def test_a_compiled_static_cache_generates_what_a_dynamic_one_does() -> None:
    torch._dynamo.reset()
    model = tiny_model()
    inputs = inputs_for(model, MIXED, "left")
    del inputs["labels"]
    settings = dict(max_new_tokens=8, do_sample=False, eos_token_id=-1)
    dynamic = model.generate(**inputs, **settings)
    compile_config = CompileConfig(fullgraph=True, backend="aot_eager", mode=None)
    compile_config._compile_all_devices = True
    static = model.generate(**inputs, **settings, cache_implementation="static", compile_config=compile_config)
    assert torch.equal(static, dynamic)


@pytest.mark.usefixtures("uncompiled_flex")
@pytest.mark.parametrize("use_cache", [None, False], ids=["default", "no cache"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex_attention"])
@torch.no_grad()
def test_packed_samples_are_what_they_are_apart(attention: str, training: bool, use_cache: bool | None) -> None:
    model = tiny_model(attention=attention).train(training)
    samples = [sample(model.config, parts, seed) for seed, parts in enumerate(MIXED)]
    lengths = [each["input_ids"].shape[1] for each in samples]
    packed = model(
        input_ids=torch.cat([each["input_ids"] for each in samples], dim=1),
        pixel_values=torch.cat([each["pixel_values"] for each in samples if each["pixel_values"] is not None]),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        use_cache=use_cache,
    )
    for logits, alone in zip(packed.logits.split(lengths, dim=1), samples, strict=True):
        assert largest_difference(logits, model(**alone).logits) <= 1e-5
