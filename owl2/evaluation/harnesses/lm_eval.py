"""lm-evaluation-harness: mPLUG-Owl2 on text tasks (extra `lm-eval`).

    from lm_eval import simple_evaluate
    from owl2.evaluation.harnesses.lm_eval import Owl2LM

    simple_evaluate(model=Owl2LM("DIR"), tasks=["arc_easy"])

On the command line the model is known as `owl2` once this module is imported; `docs/evaluation/evaluate.md` shows how
to give the harness local files. Its protocols differ from the paper's (specification, 98): they are a cross-check,
not the record.
"""

from collections.abc import Sequence
from typing import Any

from owl2.evaluation.inference.likelihood import shared_length

from .completion import Completion, stop_texts

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError:
    LM = object

    def register_model(*names: str) -> Any:
        """Registers nothing: without the harness, this module can be imported but not used."""
        return lambda model: model


_LONGEST_ANSWER = 256  # tokens, the harness's own default


@register_model("owl2")
class Owl2LM(LM):  # type: ignore[misc]  # an object where the harness is not installed
    """The three methods that the harness asks for.

    Args:
        pretrained: Directory of the model.
        dtype, device: See `load_for_chat`.

    Raises:
        ImportError: lm-evaluation-harness is not installed.
    """

    def __init__(
        self, pretrained: str, dtype: str = "auto", device: str = "auto", batch_size: int | str = 8, **_: Any
    ) -> None:
        if LM is object:
            raise ImportError("the harness is not installed: pip install 'owl2[lm-eval]'")
        super().__init__()
        self._completion = Completion(pretrained, dtype, device or "auto", int(batch_size))

    @property
    def tokenizer_name(self) -> str:
        return str(self._completion.processor.tokenizer.name_or_path)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        processor = self._completion.processor
        return str(processor.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt))

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether greedy decoding gives it."""
        rows = [self._row(*request.args) for request in requests]
        found: list[tuple[float, bool]] = [(0.0, False)] * len(rows)
        for indices in _batches([len(tokens) for tokens, _ in rows], self._completion.batch_size):
            values = self._completion.log_likelihoods([rows[index] for index in indices])
            for index, value in zip(indices, values, strict=True):
                found[index] = value
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-probability of whole texts; each token counts once, after as many tokens as the context holds."""
        found = []
        for request in requests:
            (text,) = request.args
            tokens = self._completion.processor.encode_prompt(text)["input_ids"]
            tokens = tokens if self._opens(tokens) else [self._beginning(), *tokens]
            rows = list(_windows(tokens, self._completion.context))
            batches = _batches([len(row) for row, _ in rows], self._completion.batch_size)
            parts = [self._completion.log_likelihoods([rows[index] for index in indices]) for indices in batches]
            found.append(sum(value for part in parts for value, _ in part))
        return found

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Greedy answers up to the texts that end them."""
        answers = []
        for request in requests:
            context, settings = request.args
            if settings.get("do_sample") or settings.get("temperature"):
                raise ValueError(f"only greedy decoding is supported, the task asks for {settings}")
            longest = int(settings.get("max_gen_toks", _LONGEST_ANSWER))
            answers += self._completion.answer([context], [[]], longest, stop_texts(settings))
        return answers

    def _row(self, context: str, continuation: str) -> tuple[list[int], int]:
        """The tokens of both together, and how many belong to the continuation; the context is cut on its left."""
        encode = self._completion.processor.encode_prompt
        tokens, alone = encode(context + continuation)["input_ids"], encode(context)["input_ids"]
        shared = max(shared_length(tokens, alone), int(self._opens(tokens)))
        if shared == 0:  # something must stand before the first token that is scored
            tokens, shared = [self._beginning(), *tokens], 1
        count = max(1, len(tokens) - shared)
        longest = self._completion.context
        if count >= longest:
            raise ValueError(f"a continuation of {count} tokens does not fit the context of {longest}")
        return tokens[-longest:], count

    def _opens(self, tokens: list[int]) -> bool:
        return bool(tokens) and tokens[0] == self._completion.processor.tokenizer.bos_token_id

    def _beginning(self) -> int:
        tokenizer = self._completion.processor.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def _windows(tokens: list[int], longest: int) -> Any:
    """Rows of at most `longest` tokens, and how many of the last are scored: each token but the first once."""
    scored = 1
    while scored < len(tokens):
        end = min(len(tokens), longest if scored == 1 else scored + longest - 1)
        yield tokens[max(0, end - longest) : end], end - scored
        scored = end


def _batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of like length, the longest first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
