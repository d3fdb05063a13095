"""Control tokens written out in the texts of a conversation, such as `</s>` or the HTML tag `<s>`.

A tokenizer reads them as the tokens themselves, wherever they stand: an answer would end in its middle. Only those
that a chat template writes are meant as such. In a text they are found here, refused, or tokenized as their letters.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

Message = dict[str, Any]
Encode = Callable[[str], tuple[list[int], list[tuple[int, int]]]]
ControlTokens = Literal["tokens", "text", "refuse"]

LLAMA_CONTROL_TOKENS = ("<s>", "</s>", "<unk>")

_FIRST_STAND_IN = 0xF0000  # of a private use plane, whose characters mean nothing
_STAND_IN = re.compile(f"[{chr(_FIRST_STAND_IN)}-{chr(_FIRST_STAND_IN + 0xFFFF)}]")


def control_tokens_in(messages: Iterable[Message], tokens: Sequence[str]) -> list[tuple[int, str]]:
    """Number of the turn, from 1, and each control token in its texts, once a turn."""
    pattern = _any_of(tokens)
    return [
        (number, token)
        for number, message in enumerate(messages, 1)
        for token in dict.fromkeys(match for text in _texts(message) for match in pattern.findall(text))
    ]


def protect(messages: Sequence[Message], tokens: Sequence[str]) -> list[Message]:
    """Replaces each control token in the texts of messages by a character.

    A chat template leaves these characters as they are, and the processor reads them as the letters of the token.
    """
    pattern, stand_ins = _any_of(tokens), {token: stand_in for stand_in, token in stand_ins_of(tokens).items()}

    def replaced(text: str) -> str:
        return pattern.sub(lambda match: stand_ins[match.group()], text)

    protected = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            content = replaced(content)
        else:
            content = [{**part, "text": replaced(part["text"])} if "text" in part else part for part in content]
        protected.append({**message, "content": content})
    return protected


def stand_ins_of(tokens: Sequence[str]) -> dict[str, str]:
    """The characters that stand for the tokens, as keys, in the order of the tokens."""
    return {chr(_FIRST_STAND_IN + index): token for index, token in enumerate(tokens)}


def holds_stand_ins(text: str) -> bool:
    """Whether some of its characters may stand for control tokens."""
    return not text.isascii() and _STAND_IN.search(text) is not None


def written_out(text: str, tokens: Sequence[str]) -> str:
    """A text with the letters of the control tokens that its characters stand for."""
    return _written_out(text, stand_ins_of(tokens))[0] if holds_stand_ins(text) else text


def encode_protected(
    text: str, stand_ins: dict[str, str], ids_of_tokens: dict[str, int], encode_letters: Encode
) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and offsets of a text in which characters stand for the letters of control tokens.

    Args:
        stand_ins: The characters of `stand_ins_of`.
        ids_of_tokens: The control tokens that the text may hold as such.
        encode_letters: Tokenizes a text without control tokens, in which their letters are letters.

    Returns:
        Ids, and the (first, last + 1) character of `text` that each stands for.
    """
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    position = 0
    for match in [*_any_of(list(ids_of_tokens)).finditer(text), None]:
        piece = text[position : match.start() if match else len(text)]
        letters, place = _written_out(piece, stand_ins)
        if letters:
            own_ids, own_offsets = encode_letters(letters)
            ids += own_ids
            offsets += [
                (position + place[first], position + place[max(first, last - 1)] + (last > first))
                for first, last in own_offsets
            ]
        if match:
            ids.append(ids_of_tokens[match.group()])
            offsets.append(match.span())
            position = match.end()
    return ids, offsets


def _written_out(text: str, stand_ins: dict[str, str]) -> tuple[str, list[int]]:
    """The text with every token in letters, and for each letter (and the end) its character of `text`."""
    letters, place = [], []
    for index, character in enumerate(text):
        written = stand_ins.get(character, character)
        letters.append(written)
        place += [index] * len(written)
    return "".join(letters), [*place, len(text)]


def _texts(message: Message) -> list[str]:
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]


def _any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    """A pattern for any of the tokens, the longest that fits; it matches nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")
