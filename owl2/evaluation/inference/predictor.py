"""Predicts samples of a task: prompts, images, batches, greedy answers or likelihoods."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from owl2.data.records import turns
from owl2.evaluation.prediction_files import record_of
from owl2.evaluation.task import Clip, Decoding, Prediction, Sample, Task, Turn
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor, load_image, load_video

from .generation import greedy_texts
from .likelihood import Choices, LikelihoodScorer, tokenize_choices


@dataclass(frozen=True)
class Prepared:
    """A sample ready for the model.

    Attributes:
        text: The prompt as it is sent, chat template and placeholders included.
        tokens: Tokens of the prompt.
    """

    sample: Sample
    text: str
    tokens: dict[str, list[int]]
    pixel_values: torch.Tensor | None
    choices: Choices | None


class Predictor:
    """Prepares samples, which may run while the model works, and predicts batches of them.

    Args:
        suffix: The text after the chat template.
        shares_prefixes: See `LikelihoodScorer`.
    """

    def __init__(
        self,
        model: Owl2ForConditionalGeneration,
        processor: Owl2Processor,
        task: Task,
        decoding: Decoding,
        suffix: str,
        shares_prefixes: bool = True,
    ) -> None:
        self.model, self.processor, self.task = model.eval(), processor, task
        self.decoding, self.suffix = decoding, suffix
        self.context = model.config.text_config.max_position_embeddings
        self._scorer = LikelihoodScorer(model, processor.tokenizer.pad_token_id, shares_prefixes)

    def prepare(self, sample: Sample) -> Prepared:
        """Reads the images and tokenizes the prompt; shots are left out where it would not fit the context.

        Raises:
            ValueError: An image cannot be read, or the prompt does not fit even without shots (all numbers are given).
        """
        images: list[Any] = [load_image(image() if callable(image) else image) for image in sample.images]
        if sample.clip is not None:
            images += load_clip(sample.clip)
        pixels = None
        if images:
            aspect = {} if self.task.aspect is None else {"aspect": self.task.aspect}
            pixels = self.processor.image_processor(images, return_tensors="pt", **aspect)["pixel_values"]
        room = 0 if sample.choices else self.decoding.max_new_tokens
        for shots in range(len(sample.shots), -1, -1):
            text = self._text(sample, len(images), shots)
            choices = tokenize_choices(self.processor, text, sample.choices, pixels) if sample.choices else None
            tokens = self.processor.encode_prompt(text)
            length = len(tokens["input_ids"]) + (max(map(len, choices.continuations)) if choices else room)
            if length <= self.context:
                return Prepared(sample, text, tokens, pixels, choices)
        raise ValueError(
            f"sample {sample.id} of {self.task.name} takes {length} tokens with its answer, but the context of the "
            f"model holds {self.context}"
        )

    def predict(self, batch: Sequence[Prepared]) -> list[Prediction]:
        """Predicts a batch, whose samples are either all ranked or all answered."""
        ranked = [entry.choices for entry in batch if entry.choices is not None]
        if ranked:
            whole = any(entry.sample.whole_sequence for entry in batch)
            raws: Sequence[Any] = self._scorer.rank(ranked, whole)
        else:
            raws = self._generate(batch)
        return [record_of(entry.sample, entry.text, raw) for entry, raw in zip(batch, raws, strict=True)]

    def _text(self, sample: Sample, num_images: int, shots: int) -> str:
        """The prompt with the first `shots` of the shots; images come first, in the chat template in the first turn.

        A prompt outside the chat template may say where they stand instead, by `<|image|>`.
        """
        shown = sample.shots[:shots]
        if not sample.uses_chat_template:
            texts = [shot if isinstance(shot, str) else f"{shot.question}{shot.answer}\n" for shot in shown]
            text, images = sample.preamble + "".join(texts) + sample.prompt, self.processor.image_token * num_images
            return text.replace("<|image|>", images) if "<|image|>" in sample.prompt else images + text
        before = sample.preamble + "".join(shot for shot in shown if isinstance(shot, str))
        exchanges: list[tuple[str, str]] = [shot for shot in shown if isinstance(shot, Turn)]
        exchanges.append((sample.prompt, ""))
        exchanges[0] = (before + exchanges[0][0], exchanges[0][1])
        messages = turns(exchanges, num_images)[:-1]  # the last answer is the model's
        return self.processor.apply_chat_template(messages, add_generation_prompt=True) + self.suffix

    @torch.inference_mode()
    def _generate(self, batch: Sequence[Prepared]) -> list[str]:
        inputs = self.processor.pad([entry.tokens for entry in batch], padding_side="left")
        pixels = [entry.pixel_values for entry in batch if entry.pixel_values is not None]
        if pixels:
            inputs["pixel_values"] = torch.cat(pixels).to(self.model.dtype)
        texts = greedy_texts(
            self.model,
            self.processor,
            {name: values.to(self.model.device) for name, values in inputs.items()},
            self.decoding.max_new_tokens,
            self.decoding.stop,
            min_new_tokens=self.decoding.min_new_tokens,
        )
        return [text.strip() for text in texts]


@lru_cache(maxsize=8)
def load_clip(clip: Clip) -> tuple[Any, ...]:
    """Frames of a clip; see `load_video`. The last clips are kept: MSRVTT-QA asks 24 questions in a row about one."""
    return tuple(
        load_video(
            str(clip.path), clip.num_frames, start=clip.start, end=clip.end, unit=clip.unit, spacing=clip.spacing
        )
    )
