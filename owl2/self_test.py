"""`owl2 doctor`: does this combination of versions compute what it should? A tiny random model, end to end.

Every release of transformers or torch may change what a model outside its tree relies on, and some changes raise no
error: a cache that is dropped makes answers slow or wrong without a word. Each check compares two ways to one result.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from owl2.labels import IGNORE_INDEX

TOLERANCE = 1e-4
"""Largest difference of logits, which are about 1, between two ways of computing them in float32."""

IMAGE_SIZE = 28
QUERIES = 4


@dataclass(frozen=True)
class Check:
    """A check and why it failed, if it did."""

    name: str
    failure: str | None

    @property
    def passed(self) -> bool:
        return self.failure is None


def self_test() -> list[Check]:
    """Runs every check on the CPU, in a few seconds; a check that raises anything has failed."""
    model = _TinyModel()
    checks: dict[str, Callable[[_TinyModel], None]] = {
        "model and processor are built": _builds,
        "image tokens take the weights for vision, text the weights for text": _separates_modalities,
        "logits with a cache as without, for text": lambda model: _same_with_cache(model, model.text),
        "logits with a cache as without, with an image": lambda model: _same_with_cache(model, model.picture),
        "a batch as its samples, padded on the left": lambda model: _same_in_batch(model, "left"),
        "a batch as its samples, padded on the right": lambda model: _same_in_batch(model, "right"),
        "generate() with an image as the largest logits, a token a step": _generates,
        "loss and gradients": _learns,
        "saved and loaded by the Auto classes": _survives_saving,
    }
    return [_run(name, check, model) for name, check in checks.items()]


def _run(name: str, check: "Callable[[_TinyModel], None]", model: "_TinyModel") -> Check:
    try:
        check(model)
    except Exception as error:  # whatever another version of anything may raise is the finding
        return Check(name, f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
    return Check(name, None)


class _TinyModel:
    """The model, its processor and inputs, made when they are first asked for: the first check reports failures."""

    @cached_property
    def processor(self) -> Any:
        from owl2.checkpoints.small_language_model import SMALLEST_VOCABULARY, train_tokenizer
        from owl2.processing import Owl2ImageProcessor, Owl2Processor

        size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        tokenizer = train_tokenizer([], SMALLEST_VOCABULARY)
        return Owl2Processor(Owl2ImageProcessor(size=size), tokenizer, num_image_tokens=QUERIES + 1)

    @cached_property
    def model(self) -> Any:
        import torch

        from owl2.modeling import Owl2Config, Owl2ForConditionalGeneration

        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = Owl2Config(
            vision_config={**sizes, "image_size": IMAGE_SIZE, "patch_size": 7},
            abstractor_config={**sizes, "num_learnable_queries": QUERIES},
            text_config={**sizes, "num_key_value_heads": 2, "vocab_size": len(self.processor.tokenizer)},
            image_token_id=self.processor.image_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Owl2ForConditionalGeneration(config)
            for name, parameter in model.named_parameters():
                is_norm = "norm" in name and "weight" in name
                torch.nn.init.normal_(parameter, mean=float(is_norm), std=0.3)
        model.generation_config.eos_token_id = None
        return model.float().eval()

    @cached_property
    def text(self) -> Any:
        return self.processor(text="USER: hello ASSISTANT:", return_tensors="pt")

    @cached_property
    def picture(self) -> Any:
        from PIL import Image

        image = Image.linear_gradient("L").convert("RGB")
        text = f"USER: {self.processor.image_token}what is it? ASSISTANT:"
        return self.processor(text=text, images=image, return_tensors="pt")

    def logits(self, **inputs: Any) -> Any:
        """[B, S, V], without a cache unless the inputs have one."""
        import torch

        with torch.no_grad():
            return self.model(**{"use_cache": False, **inputs}).logits


def _same(one: Any, other: Any) -> None:
    if one.shape != other.shape:
        raise ValueError(f"shapes {tuple(one.shape)} and {tuple(other.shape)}")
    difference = (one - other).abs().max().item()
    if not difference <= TOLERANCE:  # NaN too
        raise ValueError(f"logits differ by {difference:.2g}")


def _differ(one: Any, other: Any, what: str) -> None:
    if not (one - other).abs().max().item() > TOLERANCE:
        raise ValueError(f"logits do not depend on {what}")


def _builds(model: _TinyModel) -> None:
    length = model.picture["input_ids"].shape[1]
    shape = tuple(model.logits(**model.picture).shape)
    if shape != (1, length, len(model.processor.tokenizer)):
        raise ValueError(f"logits of {length} tokens have the shape {shape}")


def _separates_modalities(model: _TinyModel) -> None:
    import torch

    text, picture = model.logits(**model.text), model.logits(**model.picture)
    inverted = {**model.picture, "pixel_values": -model.picture["pixel_values"]}
    _differ(model.logits(**inverted), picture, "the image")
    copies = [parameter for name, parameter in model.model.named_parameters() if ".vision_" in name]
    kept = [copy.detach().clone() for copy in copies]
    try:
        with torch.no_grad():
            for copy in copies:
                copy.mul_(2)
        _same(model.logits(**model.text), text)
        _differ(model.logits(**model.picture), picture, "the weights for vision")
    finally:
        with torch.no_grad():
            for copy, value in zip(copies, kept, strict=True):
                copy.copy_(value)


def _same_with_cache(model: _TinyModel, inputs: Any) -> None:
    """Compares logits with those of a cache: all tokens but the last three at once, and then one at a time."""
    import torch
    from transformers import DynamicCache

    from owl2.modeling.compatibility import CACHE

    whole = model.logits(**inputs)
    ids, start = inputs["input_ids"], inputs["input_ids"].shape[1] - 3
    cache = DynamicCache(config=model.model.config.get_text_config())
    beginning = {name: value if name == "pixel_values" else value[:, :start] for name, value in inputs.items()}
    pieces = [model.logits(**beginning, use_cache=True, **{CACHE: cache})]
    for position in range(start, ids.shape[1]):
        step = {"input_ids": ids[:, position : position + 1], "attention_mask": torch.ones(1, position + 1).long()}
        pieces.append(model.logits(**step, use_cache=True, **{CACHE: cache}))
    if cache.get_seq_length() != ids.shape[1]:
        raise ValueError(f"the cache holds {cache.get_seq_length()} of {ids.shape[1]} tokens")
    _same(torch.cat(pieces, dim=1), whole)


def _same_in_batch(model: _TinyModel, side: str) -> None:
    image = model.processor.image_token
    texts = [f"USER: {image}what is it? ASSISTANT:", "USER: hello ASSISTANT:", f"{image} and {image} and more"]
    from PIL import Image

    images = [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (9, 9), 99)]
    images = [image.convert("RGB") for image in images]
    options = {"return_tensors": "pt", "padding_side": side}
    batch = model.processor(text=texts, images=images, padding=True, **options)
    logits = model.logits(**batch)
    for row, (text, own) in enumerate(zip(texts, (images[:1], None, images[1:]), strict=True)):
        alone = model.logits(**model.processor(text=text, images=own, **options))
        _same(logits[row][batch["attention_mask"][row].bool()], alone[0])


def _generates(model: _TinyModel) -> None:
    import torch

    lengths: list[int] = []
    decoder = model.model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        found = model.model.generate(**model.picture, max_new_tokens=4, do_sample=False)
    finally:
        hook.remove()
    ids = model.picture["input_ids"]
    expected = {name: value for name, value in model.picture.items() if name == "pixel_values"}
    for _ in range(4):
        following = model.logits(input_ids=ids, **expected)[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], dim=1)
    if found[0, -4:].tolist() != ids[0, -4:].tolist():
        raise ValueError(f"generated {found[0, -4:].tolist()}, but the largest logits are {ids[0, -4:].tolist()}")
    if lengths != [model.picture["input_ids"].shape[1], 1, 1, 1]:
        raise ValueError(f"the cache is not used: the decoder read {lengths} tokens")


def _learns(model: _TinyModel) -> None:
    import torch

    labels = model.picture["input_ids"].clone()
    labels[labels == model.processor.image_token_id] = IGNORE_INDEX
    try:
        loss = model.model(**model.picture, labels=labels).loss
        loss.backward()
        lacking = [name for name, parameter in model.model.named_parameters() if parameter.grad is None]
    finally:
        model.model.zero_grad(set_to_none=True)
    logits = model.logits(**model.picture)[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, labels[0, 1:])
    if not (loss - expected).abs().item() <= TOLERANCE:
        raise ValueError(f"the loss is {loss.item():.4f}, not {expected.item():.4f}")
    if lacking:
        raise ValueError(f"{len(lacking)} weights have no gradient, such as {lacking[0]}")


def _survives_saving(model: _TinyModel) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    with tempfile.TemporaryDirectory(prefix="owl2-doctor-") as directory:
        model.model.save_pretrained(directory)
        model.processor.save_pretrained(directory)
        loaded, processor = _TinyModel(), AutoProcessor.from_pretrained(directory)
        loaded.model = AutoModelForImageTextToText.from_pretrained(directory).eval()
    loaded.processor = processor
    for name, value in loaded.picture.items():
        if not value.equal(model.picture[name]):
            raise ValueError(f"the processor makes other {name}")
    _same(loaded.logits(**loaded.picture), model.logits(**model.picture))
