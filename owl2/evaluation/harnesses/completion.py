"""The requests of the harnesses to a model: answers to prompts with images, and likelihoods of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from owl2.checkpoints.loading import load_for_chat
from owl2.evaluation.inference.generation import greedy_texts
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor


class Completion:
    """A model with its processor, from the directory that holds both; see `load_for_chat` for dtype and device."""

    def __init__(self, pretrained: str, dtype: str = "auto", device: str = "auto", batch_size: int = 8) -> None:
        self.model: Owl2ForConditionalGeneration
        self.processor: Owl2Processor
        self.model, self.processor = load_for_chat(pretrained, dtype, device)
        self.batch_size = batch_size

    @property
    def context(self) -> int:
        """The largest number of tokens of prompt and answer together."""
        return self.model.config.text_config.max_position_embeddings

    def chat_prompt(self, text: str, num_images: int = 0) -> str:
        """The model's chat template around what a user says, images first."""
        content = [*({"type": "image"} for _ in range(num_images)), {"type": "text", "text": text}]
        return str(
            self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        )

    def answer(
        self, prompts: Sequence[str], images: Sequence[Sequence[Any]], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """Greedy answers, each cut before the first of the `stop` texts.

        Raises:
            ValueError: See `Owl2Processor`.
        """
        flat = [list(own) for own in images]
        inputs = self.processor(
            text=list(prompts),
            images=flat if any(flat) else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.model.device, dtype=self.model.dtype)
        return greedy_texts(self.model, self.processor, inputs, max_new_tokens, stop)

    @torch.inference_mode()
    def log_likelihoods(self, rows: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        """Log-probability of the last `count` tokens of each row of text, and whether greedy decoding gives them.

        Args:
            rows: Tokens and `count`, which leaves at least one token before them.
        """
        longest = max(len(tokens) for tokens, _ in rows)
        pad = self.processor.tokenizer.pad_token_id
        ids = torch.tensor([tokens + [pad] * (longest - len(tokens)) for tokens, _ in rows])
        mask = torch.tensor([[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens, _ in rows])
        device = self.model.device
        hidden = self.model.model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        found = []
        for index, (tokens, count) in enumerate(rows):
            end = len(tokens) - 1
            scores = torch.log_softmax(self.model.lm_head(hidden[index, end - count : end]).float(), dim=-1)
            targets = torch.tensor(tokens[-count:], device=device)
            likelihood = scores.gather(1, targets[:, None]).sum()
            found.append((float(likelihood), bool((scores.argmax(dim=-1) == targets).all())))
        return found


def stop_texts(settings: Mapping[str, Any]) -> list[str]:
    """The texts that end an answer, from the settings of a request: `until` is one text or several."""
    until = settings.get("until") or []
    return [text for text in ([until] if isinstance(until, str) else until) if text]
