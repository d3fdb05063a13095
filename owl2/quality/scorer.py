"""`QualityScorer`: the probabilities of five level words after one prompt, in one forward pass.

Shapes: B images, S tokens, D hidden, Q queries, L levels. The prompt is the same for all images, so nothing is padded
and images have the same scores in a batch as alone. Only the last position and the rows of the head that belong to the
level words are computed, and softmax and weighting are in float32 (float64 for a float64 model).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor

from .comparison import Anchors, Comparison, anchors_in, maximum_a_posteriori
from .images import QualityImages, as_list, is_single, prepare, video_frames
from .protocols import COMPARISON, COMPARISON_TEMPERATURE, LEVEL_VALUES, Protocol, protocol_named


@dataclass(frozen=True)
class Ratings:
    """Scores of B images for one aspect.

    Attributes:
        probabilities: [B, L] of the levels among themselves, best level first, float32.
        scores: [B] scores in the scale of the protocol.
        means, deviations: [B] of the levels counted 5 (best) to 1, as DeQA-Score states them.
    """

    probabilities: torch.Tensor
    scores: torch.Tensor
    means: torch.Tensor
    deviations: torch.Tensor

    @classmethod
    def of(cls, probabilities: torch.Tensor, weights: Sequence[float]) -> "Ratings":
        """The ratings by probabilities [B, L] and the score of each level."""
        values = probabilities.new_tensor(LEVEL_VALUES)
        means = probabilities @ values
        variances = (probabilities * (values - means.unsqueeze(-1)) ** 2).sum(-1)
        return cls(probabilities, probabilities @ probabilities.new_tensor(weights), means, variances.sqrt())


class QualityScorer:
    """Scores images with any model of the family.

    Args:
        model: The model, which is put into evaluation mode.
        protocol: A name of `owl2.quality.protocols.PROTOCOLS`, or one of your own.
        aspect: The aspect to ask for by default: "quality", "aesthetics", or any other word.
        batch_size: Images at a time; it does not change scores.

    Raises:
        ValueError: An unknown protocol; a level word is not one token after the prompt, or is that of another level.
    """

    def __init__(
        self,
        model: Owl2ForConditionalGeneration,
        processor: Owl2Processor,
        protocol: str | Protocol = "q_align",
        aspect: str = "quality",
        batch_size: int = 8,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        self.model, self.processor = model.eval(), processor
        self.protocol = protocol_named(protocol) if isinstance(protocol, str) else protocol
        self.aspect, self.batch_size = aspect, batch_size
        self._prompts: dict[tuple[str, str, str, int], _Prompt] = {}
        self._prompt(self.protocol, aspect)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        dtype: str = "auto",
        device: str = "auto",
        base: str | Path | None = None,
        bits: int | None = None,
        **settings: Any,
    ) -> "QualityScorer":
        """The scorer of a model directory in our or the official layout; `settings` as for the class.

        Args:
            dtype, device, base, bits: As in `owl2.checkpoints.loading.load_for_chat`.

        Raises:
            ValueError: As `owl2.checkpoints.loading.load_for_chat`, and as the class.
        """
        from owl2.checkpoints.loading import load_for_chat

        model, processor = load_for_chat(directory, dtype, device, base, bits)
        return cls(model.requires_grad_(False), processor, **settings)

    def __call__(self, images: QualityImages, aspect: str | None = None) -> torch.Tensor:
        """Scores [B] of images in the scale of the protocol, higher is better; of a single image, a scalar tensor.

        Args:
            images: An image or a list, each whatever `load_image` reads; or a tensor [B, 3, H, W] or [3, H, W] in
                0..1 (RGB). The scores of a tensor that requires a gradient have one.
            aspect: An aspect other than the scorer's.

        Raises:
            ValueError: An image cannot be read, or a tensor has another shape or range.
        """
        scores = self._ratings_of(images, aspect).scores
        return scores[0] if is_single(images) else scores

    def probabilities(self, images: QualityImages, aspect: str | None = None) -> torch.Tensor:
        """Probabilities [B, 5] of the levels, best first, or [5] of a single image; otherwise as a call."""
        found = self._ratings_of(images, aspect).probabilities
        return found[0] if is_single(images) else found

    def ratings(self, images: QualityImages, aspects: Sequence[str]) -> dict[str, Ratings]:
        """Several aspects of each image, which is encoded once.

        The visual tokens are shared; the decoder reads the prompt of each aspect, since its word stands before them.

        Raises:
            ValueError: As a call; no aspect.
        """
        sources, parts = as_list(images), []
        with self._graph_of(sources):
            for start in range(0, len(sources), self.batch_size):
                parts.append(self.rate_pixels(self.prepare(sources[start : start + self.batch_size]), aspects))
            return {aspect: _joined([part[aspect] for part in parts]) for aspect in parts[0]}

    def prepare(self, images: Sequence[Any] | torch.Tensor) -> torch.Tensor:
        """`pixel_values` [B, 3, H, W] of a list of images or a tensor, padded as the protocol wants.

        Raises:
            ValueError: An image cannot be read.
        """
        return prepare(images, self.processor.image_processor, self.protocol.aspect_ratio)

    def rate_pixels(self, pixel_values: torch.Tensor, aspects: Sequence[str]) -> dict[str, Ratings]:
        """Rates one batch that `prepare` made, as `ratings` does.

        Raises:
            ValueError: No aspect.
        """
        if not aspects:
            raise ValueError("name at least one aspect, such as quality")
        prompts = {aspect: self._prompt(self.protocol, aspect) for aspect in aspects}
        visual = self._encode(pixel_values)
        return {
            aspect: Ratings.of(self._probabilities(visual, prompt), self.protocol.weights)
            for aspect, prompt in prompts.items()
        }

    def rate_video(self, video: Any, aspects: Sequence[str] | None = None) -> tuple[dict[str, Ratings], int]:
        """Rates aspects of one video from one frame a second, with all frames in one prompt.

        Args:
            video: A file, or a list of frames, which are taken as they are.

        Returns:
            The ratings (B = 1) and the number of frames; if a video has more seconds than the context has room for
            frames, as many frames as fit are spread evenly.

        Raises:
            ValueError: The video cannot be read.
        """
        wanted = [self.aspect] if aspects is None else list(aspects)
        frames = video_frames(video, self._most_frames(wanted))
        prompts = {aspect: self._prompt(self.protocol, aspect, "video", len(frames)) for aspect in wanted}
        with self._graph_of(frames):
            pixels = self.prepare(frames).split(self.batch_size)
            visual = (
                torch.cat([self._encode(part) for part in pixels]).flatten(0, 1).unsqueeze(0)
            )  # [1, T * (Q + 1), D]
            found = {aspect: self._probabilities(visual, prompt) for aspect, prompt in prompts.items()}
        return {aspect: Ratings.of(each, self.protocol.weights) for aspect, each in found.items()}, len(frames)

    def compare(self, first: QualityImages, second: QualityImages) -> Comparison:
        """Compares the second image of each pair with the first, in the way of Compare2Score.

        Args:
            first, second: Lists or tensors of the same number of images, or single images.

        Raises:
            ValueError: The numbers differ, or as a call.
        """
        ones, others = as_list(first), as_list(second)
        if len(ones) != len(others):
            raise ValueError(f"compare takes pairs, but there are {len(ones)} first and {len(others)} second images")
        prompt, found = self._prompt(COMPARISON, self.aspect), []
        with self._graph_of(ones, others):
            for start in range(0, len(ones), self.batch_size):
                part = slice(start, start + self.batch_size)
                visual = torch.cat([self._encode(self.prepare(images[part])) for images in (ones, others)], dim=1)
                found.append(self._probabilities(visual, prompt, COMPARISON_TEMPERATURE))
            return Comparison.of(torch.cat(found), COMPARISON.weights)

    def anchors(self, folder: str | Path) -> Anchors:
        """The images of a folder as anchors of Compare2Score, in the order of their names.

        A file `matrix.json` in it gives the preferences among them ([i][j]: for i over j), as for the published
        anchors (`protocols.PUBLISHED_ANCHORS`); without it the model compares each two once.

        Raises:
            ValueError: Fewer than two images, one that cannot be read, or a matrix that does not fit.
        """
        files, matrix = anchors_in(folder)
        if matrix is None:
            count = len(files)
            pairs = [(row, column) for row in range(count) for column in range(row)]
            # The preference for the second image: that of the row, compared with the column.
            found = self.compare([files[column] for _, column in pairs], [files[row] for row, _ in pairs]).preferences
            matrix = torch.full((count, count), 0.5, dtype=torch.float64)
            for (row, column), preference in zip(pairs, found.tolist(), strict=True):
                matrix[row, column], matrix[column, row] = preference, 1 - preference
        return Anchors(tuple(files), matrix)

    def score_against(self, images: QualityImages, anchors: Anchors) -> torch.Tensor:
        """Scores [B] by comparisons with anchors, from 0, the worst among them and the image, to 100, the best.

        Each image joins the matrix of preferences, whose maximum a posteriori scores are scaled.

        Raises:
            ValueError: As a call.
        """
        prompt, sources, scores = self._prompt(COMPARISON, self.aspect), as_list(images), []
        with torch.no_grad():
            first = self._encode(self.prepare(list(anchors.files)))  # [N, Q + 1, D]
            for index in range(len(sources)):
                second = self._encode(self.prepare(sources[index : index + 1])).expand(len(first), -1, -1)
                found = [
                    self._probabilities(torch.cat(pair, dim=1), prompt, COMPARISON_TEMPERATURE)
                    for pair in zip(first.split(self.batch_size), second.split(self.batch_size), strict=True)
                ]
                preferences = Comparison.of(torch.cat(found), COMPARISON.weights).preferences
                values = maximum_a_posteriori(anchors.joined(preferences))
                low, high = values.min(), values.max()
                scores.append(float(100 * (values[-1] - low) / (high - low)))
        return torch.tensor(scores)

    @property
    def level_ids(self) -> list[int]:
        """The token of each level word after the prompt, best first."""
        return self._prompt(self.protocol, self.aspect).levels.tolist()

    def _ratings_of(self, images: QualityImages, aspect: str | None) -> Ratings:
        wanted = self.aspect if aspect is None else aspect
        return self.ratings(images, [wanted])[wanted]

    def _graph_of(self, *sources: Sequence[Any] | torch.Tensor) -> AbstractContextManager[Any]:
        """Enables gradients only if a tensor of images requires them."""
        wanted = any(isinstance(images, torch.Tensor) and images.requires_grad for images in sources)
        return torch.set_grad_enabled(wanted and torch.is_grad_enabled())

    def _encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Visual tokens [B, Q + 1, D]."""
        pixels = pixel_values.to(self.model.device, self.model.dtype)
        visual = self.model.model.encode_images(pixels).image_hidden_states
        assert visual is not None
        return visual

    def _probabilities(self, visual: torch.Tensor, prompt: "_Prompt", temperature: float = 1.0) -> torch.Tensor:
        """[B, L] after a prompt whose images have these visual tokens, [B, rows, D]."""
        device, count = self.model.device, len(visual)
        ids, types = (torch.tensor([row], device=device) for row in (prompt.ids, prompt.types))
        is_vision = types != 0
        text = self.model.get_input_embeddings()(ids.masked_fill(is_vision, 0))
        embeddings = text.repeat(count, 1, 1).masked_scatter(
            is_vision.expand(count, -1).unsqueeze(-1), visual.to(text.dtype)
        )  # [B, S, D]
        hidden = self.model.model(
            inputs_embeds=embeddings, mm_token_type_ids=types.expand(count, -1), use_cache=False
        ).last_hidden_state[:, -1]  # [B, D]
        rows = self.model.get_output_embeddings().weight[prompt.levels.to(device)]  # [L, D]
        logits = F.linear(hidden, rows)
        return torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature, dim=-1)

    def _most_frames(self, aspects: Sequence[str]) -> int:
        """The number of frames that fit into the context with the longest of the prompts."""
        lengths = [len(self._prompt(self.protocol, aspect, "video").ids) for aspect in aspects]
        rows, context = self.processor.num_image_tokens, self.model.config.text_config.max_position_embeddings
        return max(1, (context - max(lengths)) // rows + 1)

    def _prompt(self, protocol: Protocol, aspect: str, medium: str = "image", frames: int = 1) -> "_Prompt":
        key = (protocol.name, aspect, medium, frames)
        if key not in self._prompts:
            text = protocol.text(aspect, medium)
            image = self.processor.image_token
            text = text.replace("<|image|>", image * frames)
            self._prompts[key] = _tokenize(self.processor, text, protocol)
        return self._prompts[key]


def _joined(parts: Sequence[Ratings]) -> Ratings:
    """The ratings of batches, one after the other."""
    return Ratings(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Ratings)))


@dataclass(frozen=True)
class _Prompt:
    """A prompt in tokens: ids [S], modalities [S], and the ids of the level words [L]."""

    ids: list[int]
    types: list[int]
    levels: torch.Tensor


def _tokenize(processor: Owl2Processor, text: str, protocol: Protocol) -> _Prompt:
    """Tokenizes a prompt and its level words; raises `ValueError` unless each word is one token of its own."""
    sequence = processor.encode_prompt(text, add_special_tokens=protocol.begin_token)
    levels = [level_token(processor, text, word) for word in protocol.levels]
    if len(set(levels)) < len(levels):
        raise ValueError(f"the levels {', '.join(protocol.levels)} share tokens of this tokenizer: {levels}")
    return _Prompt(sequence["input_ids"], sequence["mm_token_type_ids"], torch.tensor(levels))


def level_token(processor: Owl2Processor, prompt: str, word: str) -> int:
    """The one token that a word adds to a prompt as its continuation, with the space before it.

    Raises:
        ValueError: The word is several tokens, or changes those of the prompt.
    """
    before = processor.encode_prompt(prompt)["input_ids"]
    after = processor.encode_prompt(f"{prompt} {word}")["input_ids"]
    if after[: len(before)] != before or len(after) != len(before) + 1:
        pieces = processor.tokenizer.convert_ids_to_tokens(after[len(before) :])
        raise ValueError(
            f"the level word {word!r} must be one token after {prompt!r}, but this tokenizer makes it "
            f"{pieces}: its probability cannot be read off one position"
        )
    return after[-1]
