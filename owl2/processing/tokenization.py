"""Turns text with image and video placeholders into token ids whose positions are final.

Each placeholder becomes as many copies of the image token as an image has rows. The text around the
placeholders is tokenized piece by piece, as the official code does: with a SentencePiece tokenizer every piece opens
with the word-start mark, and the beginning-of-sequence token opens the first piece that is not empty.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import AddedToken, LlamaTokenizer, PreTrainedTokenizerBase, TokenizersBackend

from .control_tokens import encode_protected, holds_stand_ins, stand_ins_of

TEXT, IMAGE, VIDEO = 0, 1, 2  # `mm_token_type_ids`, the modality indicator M of section 3.2

_SENTENCEPIECE_SPACE = "▁"


@dataclass
class TokenSequence:
    """One tokenized text.

    Attributes:
        input_ids: Token ids, the image token's at visual rows.
        mm_token_type_ids: 0 text, 1 image, 2 video, one for each id.
        offsets: (first, last + 1) character of the text that each id stands for; (0, 0) for an inserted token.
    """

    input_ids: list[int] = field(default_factory=list)
    mm_token_type_ids: list[int] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.input_ids)

    def append(self, ids: Iterable[int], modality: int, offsets: Iterable[tuple[int, int]]) -> None:
        """Adds tokens of one modality with their character offsets."""
        before = len(self.input_ids)
        self.input_ids.extend(ids)
        self.mm_token_type_ids.extend([modality] * (len(self.input_ids) - before))
        self.offsets.extend(offsets)

    def truncate(self, max_length: int | None, truncation: bool, name: str) -> None:
        """Limits the sequence to `max_length` tokens; text is cut from the end only with `truncation`.

        Raises:
            ValueError: Too long and not to be cut, or visual rows would be lost; gives the length and the limit.
        """
        if max_length is None or len(self) <= max_length:
            return
        if not truncation:
            raise ValueError(
                f"{name} has {len(self)} tokens, over max_length={max_length}: shorten it, raise max_length, "
                "or pass truncation=True to cut text from its end"
            )
        lost = sum(modality != TEXT for modality in self.mm_token_type_ids[max_length:])
        if lost:
            raise ValueError(
                f"{name} has {len(self)} tokens, over max_length={max_length}, and cutting it would lose {lost} rows "
                "of images: only text is ever cut. Raise max_length or pass fewer images or frames"
            )
        del self.input_ids[max_length:], self.mm_token_type_ids[max_length:], self.offsets[max_length:]


class PlaceholderTokenizer:
    """Tokenizes text around placeholders with any fast tokenizer.

    Args:
        tokenizer: A tokenizer that gives character offsets.
        placeholders: Modality (`IMAGE`, `VIDEO`) of each placeholder string.
        image_token_id: The id that stands for every visual row.
        beginning: The id that opens a text (`beginning_of_sequence`), or None.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        placeholders: Mapping[str, int],
        image_token_id: int,
        beginning: int | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.placeholders = placeholders
        self.image_token_id = image_token_id
        self.beginning = beginning
        self.control_tokens = control_tokens_of(tokenizer, placeholders)
        self._stand_ins = stand_ins_of([*self.control_tokens, *placeholders])
        self._pattern = re.compile("|".join(re.escape(placeholder) for placeholder in placeholders))

    def find(self, text: str) -> list[int]:
        """The modality of each placeholder in a text, in order."""
        return [self.placeholders[match.group()] for match in self._pattern.finditer(text)]

    def encode(self, text: str, rows: list[int], add_beginning: bool = True) -> TokenSequence:
        """Tokenizes `text` and gives its i-th placeholder `rows[i]` visual rows.

        Args:
            text: May hold placeholders, special tokens, and what `control_tokens.protect` puts in their place.
            rows: Number of rows for each placeholder, as `find` lists them.
            add_beginning: Open with the beginning-of-sequence token, if the tokenizer does so.
        """
        sequence, position = TokenSequence(), 0
        beginning = self.beginning if add_beginning else None
        for index, match in enumerate([*self._pattern.finditer(text), None]):
            end = match.start() if match else len(text)
            ids, offsets = self._piece(text[position:end])
            if ids and beginning is not None:
                if ids[0] != beginning:
                    sequence.append([beginning], TEXT, [(position, position)])
                beginning = None
            sequence.append(ids, TEXT, ((first + position, last + position) for first, last in offsets))
            if match:
                modality = self.placeholders[match.group()]
                sequence.append([self.image_token_id] * rows[index], modality, [match.span()] * rows[index])
                position = match.end()
        return sequence

    def _piece(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if not text:
            return [], []
        if holds_stand_ins(text):
            ids = {token: self.tokenizer.convert_tokens_to_ids(token) for token in self.control_tokens}
            return encode_protected(text, self._stand_ins, ids, partial(self._encode, letters=True))
        return self._encode(text)

    def _encode(self, text: str, letters: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and offsets of a text; with `letters`, control tokens in it are text."""
        encoding = self.tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
            split_special_tokens=letters,
        )
        return encoding["input_ids"], encoding["offset_mapping"]


def control_tokens_of(tokenizer: PreTrainedTokenizerBase, placeholders: Iterable[str] = ()) -> list[str]:
    """The tokenizer's special tokens without the placeholders, in the order of their ids."""
    named = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special]
    return [token for token in named if token not in placeholders]


def beginning_of_sequence(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that this tokenizer puts in front of a text by itself, or None if it puts none."""
    opened, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    if opened and opened[0] == tokenizer.bos_token_id and plain[:1] != opened[:1]:
        return opened[0]
    return None


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, image_token: str) -> PreTrainedTokenizerBase:
    """A tokenizer fit for the processor: SentencePiece exact, with the image token and a padding token.

    The image token gets the first free id. It lies outside the language model's embedding (32,000 for LLaMA-2), which
    the model never looks up at visual rows.

    Raises:
        ValueError: The tokenizer gives no character offsets.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} gives no character offsets: a fast tokenizer is needed")
    tokenizer = match_sentencepiece(tokenizer)
    if image_token not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(image_token, normalized=False, special=True)], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def match_sentencepiece(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Corrects transformers' LLaMA tokenizer so that its ids are SentencePiece's.

    transformers 5 leaves out the word-start mark before text that begins with a space (" x" becomes "▁x" instead of
    "▁▁x"). The returned tokenizer puts it in front of every stretch of text, also after special tokens, as the
    tokenizer of the published model does. Other tokenizers are returned as they are.
    """
    if not isinstance(tokenizer, LlamaTokenizer):
        return tokenizer
    split = tokenizer.backend_tokenizer.pre_tokenizer
    if not isinstance(split, pre_tokenizers.Metaspace) or split.prepend_scheme == "never":
        return tokenizer
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SENTENCEPIECE_SPACE), normalizers.Replace(" ", _SENTENCEPIECE_SPACE)]
    )
    return with_backend(tokenizer, backend)


def with_backend(tokenizer: PreTrainedTokenizerBase, backend: Tokenizer) -> PreTrainedTokenizerBase:
    """A tokenizer with the settings of another and a backend of its own."""
    return TokenizersBackend(
        tokenizer_object=backend,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        unk_token=tokenizer.unk_token,
        pad_token=tokenizer.pad_token,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_max_length=tokenizer.model_max_length,
        chat_template=tokenizer.chat_template,
        clean_up_tokenization_spaces=False,
    )
