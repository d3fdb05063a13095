"""Modality-adaptive decoder (eq. 3-8): routing equals a plain masked restatement in every setting."""

import math

import pytest
import torch
from helpers import IMAGE, batch, largest_difference, randomize, sample, text_config, tiny_config, tiny_model
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from owl2.modeling import Owl2LanguageDecoder
from owl2.modeling.modality_adaptive import ModalityAdaptiveRMSNorm, build_routing, modality_adaptive_projections

SETTINGS = [
    (),
    ("q",),
    ("k",),
    ("v",),
    ("q", "v"),
    ("q", "k"),
    ("k", "v"),
    ("q", "k", "v"),
    ("norm", "k", "v"),
    ("norm",),
]
every_setting = pytest.mark.parametrize("separate", SETTINGS, ids=lambda parts: "+".join(parts) or "plain")


def rotate(x: torch.Tensor, position: int, theta: float = 10000.0) -> torch.Tensor:
    """Rotary embedding of one head at one position: channel i turns with channel i + d/2."""
    half = x.shape[-1] // 2
    angles = position * theta ** (-torch.arange(half) * 2 / x.shape[-1])
    first, second = x[..., :half], x[..., half:]
    turned = first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()
    return torch.cat(turned, -1)


def restated(model: Owl2LanguageDecoder, embeddings: torch.Tensor, is_vision: torch.Tensor) -> torch.Tensor:
    """The decoder of one sample, token by token and head by head, choosing each weight by the token's modality."""
    config, weights = model.config, dict(model.named_parameters())
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    hidden = embeddings

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x / (x.pow(2).mean() + config.rms_norm_eps).sqrt() * weight

    for index in range(config.num_hidden_layers):
        w = {
            name.removeprefix(f"layers.{index}."): t
            for name, t in weights.items()
            if name.startswith(f"layers.{index}.")
        }

        def norms(name: str, x: torch.Tensor, w: dict[str, torch.Tensor] = w) -> torch.Tensor:
            copy = f"{name}.vision_weight"
            chosen = [
                copy if vision and "norm" in config.modality_adaptive else f"{name}.weight" for vision in is_vision
            ]
            return torch.stack([norm(row, w[key]) for row, key in zip(x, chosen, strict=True)])

        def project(letter: str, x: torch.Tensor, w: dict[str, torch.Tensor] = w) -> torch.Tensor:
            rows = []
            for row, vision in zip(x, is_vision, strict=True):
                prefix = "vision_" if vision and letter in config.modality_adaptive else ""
                name = f"self_attn.{prefix}{letter}_proj"
                rows.append(w[f"{name}.weight"] @ row + (w[f"{name}.bias"] if f"{name}.bias" in w else 0))
            return torch.stack(rows)

        x = norms("input_layernorm", hidden)
        q, k, v = (project(letter, x) for letter in "qkv")
        attended = torch.zeros(len(x), heads * size)
        for head in range(heads):
            own, shared = slice(head * size, (head + 1) * size), head // (heads // kv_heads)
            group = slice(shared * size, (shared + 1) * size)
            for row in range(len(x)):
                query = rotate(q[row, own], row)
                keys = torch.stack([rotate(k[past, group], past) for past in range(row + 1)])
                attended[row, own] = torch.softmax(keys @ query / math.sqrt(size), 0) @ v[: row + 1, group]
        hidden = hidden + attended @ w["self_attn.o_proj.weight"].T
        x = norms("post_attention_layernorm", hidden)
        gated = F.silu(x @ w["mlp.gate_proj.weight"].T) * (x @ w["mlp.up_proj.weight"].T)
        hidden = hidden + gated @ w["mlp.down_proj.weight"].T
    return torch.stack([norm(row, weights["norm.weight"]) for row in hidden])


@every_setting
@pytest.mark.parametrize("kv_heads", [4, 2])
@torch.no_grad()
def test_routing_equals_choosing_weights_token_by_token(separate: tuple[str, ...], kv_heads: int) -> None:
    model = randomize(Owl2LanguageDecoder(text_config(modality_adaptive=separate, num_key_value_heads=kv_heads))).eval()
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(2, 9, 64, generator=generator)
    is_vision = torch.tensor([[0, 1, 1, 1, 0, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0, 0, 1]]).bool()
    ours = model(inputs_embeds=embeddings, is_vision=is_vision, num_vision=int(is_vision.sum())).last_hidden_state
    for row in range(2):
        assert largest_difference(ours[row], restated(model, embeddings[row], is_vision[row])) <= 2e-5


@every_setting
def test_exactly_the_chosen_parts_have_vision_weights(separate: tuple[str, ...]) -> None:
    model = Owl2LanguageDecoder(text_config(modality_adaptive=separate, attention_bias=True, num_hidden_layers=1))
    copies = {name.removeprefix("layers.0.") for name, _ in model.named_parameters() if "vision" in name}
    wanted = {f"self_attn.vision_{x}_proj.{kind}" for x in separate if x != "norm" for kind in ("weight", "bias")}
    if "norm" in separate:
        wanted |= {"input_layernorm.vision_weight", "post_attention_layernorm.vision_weight"}
    assert copies == wanted


def plain_llama(model: torch.nn.Module) -> LlamaForCausalLM:
    """transformers' own Llama with the text weights of a model."""
    text = model.config.text_config
    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
        "rms_norm_eps rope_parameters attention_bias mlp_bias tie_word_embeddings max_position_embeddings"
    ).split()
    llama = LlamaForCausalLM(LlamaConfig(**{name: getattr(text, name) for name in names})).eval()
    state = {
        name.replace("model.language_model.", "model."): tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(("model.language_model.", "lm_head.")) and "vision_" not in name
    }
    llama.load_state_dict(state)
    return llama


@torch.no_grad()
def test_without_separate_parts_it_is_llama_even_over_visual_tokens() -> None:
    model = tiny_model(tiny_config(modality_adaptive=()))
    llama = plain_llama(model)
    inputs = batch([sample(model.config, [3, IMAGE, 4], 1), sample(model.config, [IMAGE, 2], 2)])
    seen = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    ours = model(**inputs).logits
    hook.remove()
    theirs = llama(inputs_embeds=seen["inputs_embeds"], attention_mask=inputs["attention_mask"]).logits
    kept = inputs["attention_mask"].bool()
    assert largest_difference(ours[kept], theirs[kept]) <= 1e-5


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("text", [{}, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}])
def test_text_alone_is_plain_llama(text: dict[str, bool], training: bool) -> None:
    model = tiny_model(tiny_config(**text)).train(training)
    llama = plain_llama(model)
    inputs = batch([sample(model.config, [9], 1), sample(model.config, [6], 2)])
    ours, theirs = model(**inputs), llama(**{k: v for k, v in inputs.items() if v is not None})
    kept = inputs["attention_mask"].bool()
    assert largest_difference(ours.logits[kept], theirs.logits[kept]) <= 1e-5
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), abs=1e-5)


def test_routing_puts_every_row_back() -> None:
    is_vision = torch.rand(3, 11, generator=torch.Generator().manual_seed(0)) < 0.4
    routing = build_routing(is_vision, int(is_vision.sum()))
    rows = torch.arange(33)
    ordered = rows[routing.permutation]
    assert is_vision.flatten()[ordered[: routing.num_vision]].all()
    assert not is_vision.flatten()[ordered[routing.num_vision :]].any()
    assert torch.equal(ordered[routing.inverse], rows)


@torch.no_grad()
def test_video_tokens_are_vision_too() -> None:
    model = tiny_model()
    inputs = sample(model.config, [2, IMAGE, IMAGE, 3], 4)
    kinds = (inputs["input_ids"] == model.config.image_token_id).long()
    image, video = model(**inputs, mm_token_type_ids=kinds), model(**inputs, mm_token_type_ids=2 * kinds)
    assert torch.equal(image.logits, video.logits)
    assert torch.equal(image.logits, model(**inputs).logits)


@pytest.mark.parametrize("separate", [True, False])
def test_the_norms_gradients_are_those_of_its_equation(separate: bool) -> None:
    norm = ModalityAdaptiveRMSNorm(8, eps=1e-5, separate=separate)
    randomize(norm)
    is_vision = torch.tensor([[True, True, False, False, True], [False] * 5])
    states = torch.randn(2, 5, 8, requires_grad=True)
    weights = torch.where(is_vision[..., None], norm.vision_weight if separate else norm.weight, norm.weight)
    expected = weights * states / (states.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()  # eq. 4
    pull = torch.randn(2, 5, 8)
    inputs = [states, *norm.parameters()]
    wanted = torch.autograd.grad((expected * pull).sum(), inputs)

    output = norm(states, build_routing(is_vision, 3))
    found = torch.autograd.grad((output * pull).sum(), inputs)

    torch.testing.assert_close(output, expected)
    for gradient, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_the_gradient_of_routed_projections_is_that_of_choosing_each_rows_projection() -> None:
    torch.manual_seed(0)
    shared, vision = torch.nn.Linear(8, 6), torch.nn.Linear(8, 6)
    is_vision = torch.tensor([[False, True, True, False], [True, False, False, False]])
    states = torch.randn(2, 4, 8, requires_grad=True)
    expected = torch.where(is_vision[..., None], vision(states), shared(states))
    inputs = [states, *shared.parameters(), *vision.parameters()]
    pull = torch.randn(2, 4, 6)

    (output,) = modality_adaptive_projections(states, [(shared, vision)], build_routing(is_vision, 3))

    torch.testing.assert_close(output, expected)
    found = torch.autograd.grad((output * pull).sum(), inputs)
    for gradient, reference in zip(found, torch.autograd.grad((expected * pull).sum(), inputs), strict=True):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_vision", [0, 5, 14])
def test_without_gradients_projections_are_what_they_are_with_them(bias: bool, num_vision: int) -> None:
    torch.manual_seed(0)
    text, vision = nn.Linear(12, 8, bias=bias), nn.Linear(12, 8, bias=bias)
    hidden_states = torch.randn(2, 7, 12)
    is_vision = (torch.randperm(14) < num_vision).view(2, 7)
    routing = build_routing(is_vision, num_vision)
    (expected,) = modality_adaptive_projections(hidden_states, [(text, vision)], routing)
    with torch.no_grad():
        (found,) = modality_adaptive_projections(hidden_states, [(text, vision)], routing)
    by_hand = torch.where(is_vision[..., None], vision(hidden_states), text(hidden_states))
    assert largest_difference(found, expected) < 1e-6 and largest_difference(found, by_hand) < 1e-6


def test_a_hook_on_a_projection_is_heard_without_gradients() -> None:
    text, vision = nn.Linear(4, 4), nn.Linear(4, 4)
    vision.register_forward_hook(lambda module, inputs, output: output + 100)
    with torch.no_grad():
        (found,) = modality_adaptive_projections(
            torch.zeros(1, 2, 4), [(text, vision)], build_routing(torch.tensor([[True, False]]), 1)
        )
    assert float(found[0, 0].min()) > 90 and float(found[0, 1].max()) < 10
