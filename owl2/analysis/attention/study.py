"""One question to a model, its answer, and where each token of the answer looked (paper, Figures 4 and 5).

Shapes: L decoder layers, R tokens of the answer, T tokens of prompt and answer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn

from owl2.processing import Owl2Processor

from .on_image import Through, on_patches, patches_read, visual_rows
from .recording import DecoderAttention, base_model, decoder_attention
from .shares import Shares, minus_average, modality_shares

_GRAY = (128, 128, 128)


class Study(NamedTuple):
    """An answer and its attention.

    Attributes:
        inputs: Inputs of the prompt and the answer, a batch of one.
        prompt_length: Tokens of the prompt.
        tokens: [R] texts of the tokens of the answer.
        attention: [L, 1, R, T]: row r is of the position that predicts token r of the answer. Mean over the heads.
        average: [L, 1, 1, T]: mean over the tokens of the prompt behind the first, for `minus_average`.
        shares: Mean over the answer.
    """

    inputs: dict[str, Any]
    prompt_length: int
    answer: str
    tokens: list[str]
    attention: DecoderAttention
    average: DecoderAttention
    shares: Shares

    @property
    def is_vision(self) -> torch.Tensor:
        """[T] bool."""
        return self.inputs["mm_token_type_ids"][0].bool().cpu()

    def labels(self, processor: Owl2Processor) -> list[str]:
        """[T] labels of the tokens."""
        tokenizer = processor.tokenizer
        return [
            "<image>" if vision else tokenizer.decode([token])
            for token, vision in zip(self.inputs["input_ids"][0].tolist(), self.is_vision.tolist(), strict=True)
        ]


@torch.no_grad()
def study_answer(
    model: nn.Module,
    processor: Owl2Processor,
    question: str,
    images: Sequence[Image.Image] = (),
    max_new_tokens: int = 32,
    heads: Sequence[int] | None = None,
) -> Study:
    """Asks greedily, then reads question and answer once more and records where the answer looked.

    Args:
        images: Images in front of the question.
        heads: Heads of the decoder; all by default.

    Raises:
        ValueError: The question is empty, or prompt and answer do not fit the context.
    """
    inputs = prompt_inputs(processor, question, images, base_model(model).device)
    length = inputs["input_ids"].shape[1]
    context = base_model(model).config.text_config.max_position_embeddings
    if length + max_new_tokens > context:
        raise ValueError(
            f"the prompt has {length} tokens, which with {max_new_tokens} of the answer is more than the context of "
            f"{context}"
        )
    output = base_model(model).generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    answer = output[0, length:]
    whole = {
        **inputs,
        "input_ids": output,
        "attention_mask": torch.ones_like(output),
        "mm_token_type_ids": nn.functional.pad(inputs["mm_token_type_ids"], (0, len(answer))),
    }
    positions = range(length - 1, length - 1 + len(answer))
    attention = decoder_attention(model, whole, positions, heads=heads)
    average = decoder_attention(model, whole, range(1, length), heads=heads, mean=True)
    tokenizer = processor.tokenizer
    return Study(
        whole,
        length,
        tokenizer.decode(answer, skip_special_tokens=True).strip(),
        [tokenizer.decode([token]) for token in answer.tolist()],
        attention,
        average,
        modality_shares(attention, whole["mm_token_type_ids"] != 0),
    )


def prompt_inputs(
    processor: Owl2Processor, question: str, images: Sequence[Image.Image], device: torch.device
) -> dict[str, Any]:
    """The published prompt of a question about images, which come first, as inputs of the model.

    Raises:
        ValueError: The question is empty.
    """
    if not question.strip():
        raise ValueError("the question is empty")
    content: list[dict[str, Any]] = [{"type": "image"} for _ in images] + [{"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    found = processor(text=text, images=list(images) or None, return_tensors="pt").to(device)
    if "mm_token_type_ids" not in found:
        found["mm_token_type_ids"] = torch.zeros_like(found["input_ids"])
    return dict(found)


def image_map(
    model: nn.Module,
    study: Study,
    token: int | None = None,
    image: int = 0,
    layers: Sequence[int] | None = None,
    through: Through = "last",
    subtract_average: bool = False,
) -> torch.Tensor:
    """The attention of a token of the answer to the patches of an image; [rows, columns], sums to 1.

    Args:
        token: Token of the answer; the mean of all by default.
        layers: Indices into the decoder's layers; all by default.
        subtract_average: Subtract what the prompt's tokens look at on average, sinks above all.

    Raises:
        ValueError: The prompt has no such image.
    """
    base = base_model(model)
    pixels = study.inputs.get("pixel_values")
    count = 0 if pixels is None else pixels.shape[0]
    if pixels is None or not 0 <= image < count:
        raise ValueError(f"asked for image {image}, but the prompt has {count}")
    chosen = slice(None) if layers is None else list(layers)
    rows = study.attention.weights[chosen, 0]  # [L, R, T]
    row = (rows.mean(1) if token is None else rows[:, token]).mean(0)
    if subtract_average:
        row = minus_average(row, study.average.weights[chosen, 0, 0].mean(0))
    read = patches_read(base, pixels[image : image + 1], through)[0]
    return on_patches(row[visual_rows(study.inputs, base.config)[0].cpu()], read, image, base.config)


def study_conditions(
    model: nn.Module,
    processor: Owl2Processor,
    question: str,
    image: Image.Image,
    unrelated: Image.Image,
    max_new_tokens: int = 32,
) -> dict[str, Study]:
    """The same question with the matching image, an unrelated one, a blank one and none (Figure 5).

    Raises:
        ValueError: As `study_answer`.
    """
    shown: dict[str, list[Image.Image]] = {
        "matching": [image],
        "unrelated": [unrelated],
        "blank": [Image.new("RGB", image.size, _GRAY)],
        "none": [],
    }
    return {
        condition: study_answer(model, processor, question, images, max_new_tokens)
        for condition, images in shown.items()
    }
