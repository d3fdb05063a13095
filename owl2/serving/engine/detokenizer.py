"""Tokens to text as they come: whole characters only, up to the first of the stop texts, which may span tokens."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\ufffd"  # what a tokenizer writes for the first bytes of a character
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_LONGEST_BYTE_RUN = 12
"""The longest run of valid byte tokens that is held back until another token follows. SentencePiece decodes
neighbouring byte tokens together: if they are not valid UTF-8, none of them is shown."""


class Detokenizer:
    """The text of one answer.

    Its pieces together are `tokenizer.decode` of all tokens, cut before the first stop text. Only a window of
    tokens is decoded again at each step: from the last place where text was complete.

    Args:
        stop: Texts that end the answer and are not part of it.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.stopped = False
        self._unseen = {
            token for token in tokenizer.added_tokens_decoder if not tokenizer.decode([token], skip_special_tokens=True)
        }
        self._tokens: list[int] = []
        self._window = 0  # decoding starts here
        self._read = 0  # the text of the tokens before is known
        self._held = ""  # text that may be the beginning of a stop text

    def add(self, tokens: Sequence[int], is_last: bool = False) -> str:
        """The text that further tokens complete.

        Args:
            is_last: No token follows, so nothing is held back.
        """
        if self.stopped:
            return ""
        self._tokens += [token for token in tokens if token not in self._unseen]
        return self._until_stop(self._held + self._new_text(is_last), is_last)

    def _new_text(self, is_last: bool) -> str:
        before = self._decode(self._tokens[self._window : self._read])
        text = self._decode(self._tokens[self._window :])
        if not is_last and (text.endswith(_UNFINISHED) or 0 < self._byte_run() < _LONGEST_BYTE_RUN):
            return ""
        # A tokenizer may drop the space at the beginning of what it decodes: the next window begins with visible text.
        if self._decode(self._tokens[self._read :]).strip():
            self._window = self._read
        self._read = len(self._tokens)
        return text[len(before) :]

    def _until_stop(self, text: str, is_last: bool) -> str:
        found = [place for place in (text.find(stop) for stop in self.stop) if place >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        held = 0 if is_last else max((_overlap(text, stop) for stop in self.stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _byte_run(self) -> int:
        """The number of new tokens at the end that stand for single bytes."""
        pieces = self.tokenizer.convert_ids_to_tokens(self._tokens[self._read :])
        ends = itertools.takewhile(lambda piece: piece is not None and _BYTE.fullmatch(piece), reversed(pieces))
        return len(list(ends))

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True) if tokens else ""


def _overlap(text: str, stop: str) -> int:
    """The number of characters at the end of a text that are the beginning of a stop text."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)


def token_text(tokenizer: Any, token: int) -> str:
    """The text of a single token as it stands inside a text, special tokens by their names."""
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
    return tokenizer.decode([*anchor, token])[len(tokenizer.decode(anchor)) :]
