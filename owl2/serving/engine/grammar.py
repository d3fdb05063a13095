"""Answers of a given form (`response_format`): llguidance (the extra `structured`) says which tokens may come next.

A grammar is read once; each answer has a guide of its own, which depends on nothing but the answer's tokens. V is the
size of the vocabulary.
"""

import json
from collections.abc import Sequence
from copy import copy
from typing import Any

import torch

from .errors import InvalidRequest

PARAM = "response_format"

_ON_ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as `json.dumps` writes it: a model that may choose white space may never end it."""


class Grammars:
    """Reads grammars over one tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        vocab_size: V.
        end_tokens: Tokens that end an answer when the form is complete.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, end_tokens: Sequence[int]) -> None:
        self.vocab_size = vocab_size
        self._tokenizer = tokenizer
        self._end_tokens = list(end_tokens)
        self._own: Any = None  # llguidance's tokenizer, which takes a second to make

    def of_choices(self, choices: Sequence[str]) -> "Grammar":
        """A grammar of one of the texts.

        Raises:
            InvalidRequest: As `of_schema`.
        """
        return self._read("answer: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices))

    def of_schema(self, schema: dict[str, Any]) -> "Grammar":
        """A grammar of JSON on one line that a JSON schema describes.

        Raises:
            InvalidRequest: The extra is not installed, or the schema is wrong or beyond what llguidance can enforce.
        """
        return self._read("answer: %json " + json.dumps({**schema, "x-guidance": _ON_ONE_LINE}))

    def _read(self, rule: str) -> "Grammar":
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise InvalidRequest(
                f"{PARAM}: this server has no llguidance: pip install 'owl2[structured]'", PARAM
            ) from error
        # Many tokenizers drop the space at the beginning of what they decode, and models begin answers with one.
        space = '" "? ' if self._drops_space() else ""
        text = LLMatcher.grammar_from_lark(f"start: {space}answer\n{rule}")
        matcher = LLMatcher(self._llguidance_tokenizer(), text, log_level=0)
        if matcher.is_error():
            reason = " ".join(matcher.get_error().split())
            raise InvalidRequest(f"{PARAM}: the form cannot be enforced: {reason:.500}", PARAM)
        return Grammar(matcher, self.vocab_size)

    def _llguidance_tokenizer(self) -> Any:
        if self._own is None:
            from llguidance import LLTokenizer

            backend = copy(self._tokenizer.backend_tokenizer)
            backend.no_padding()
            backend.no_truncation()
            size = max(self.vocab_size, len(self._tokenizer))
            self._own = LLTokenizer(backend.to_str(), n_vocab=size, eos_token=self._end_tokens)
        return self._own

    def _drops_space(self) -> bool:
        ids = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        begins_with_space = self._tokenizer.convert_ids_to_tokens(ids[0]).startswith("▁")
        return begins_with_space and self._tokenizer.decode(ids) == "a"


class Grammar:
    """A form of answers."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self.vocab_size = vocab_size

    def guide(self) -> "Guide":
        return Guide(self._matcher.deep_copy(), self.vocab_size)


class Guide:
    """Leads one answer through its form.

    Attributes:
        error: The reason why it cannot continue, if there is one.
    """

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._read = 0
        self.error: str | None = None

    def allowed(self, tokens: Sequence[int]) -> torch.Tensor:
        """A mask of the tokens that may follow the answer so far, [V] bool; all of them after an error."""
        self._matcher.consume_tokens(list(tokens[self._read :]))
        self._read = len(tokens)
        if not self._matcher.is_error():
            mask = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) != 0
            if not self._matcher.is_error():
                return mask[: self._vocab_size]
        self.error = " ".join(self._matcher.get_error().split())
        return torch.ones(self._vocab_size, dtype=torch.bool)
