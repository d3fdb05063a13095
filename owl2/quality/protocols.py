"""The protocols of quality models as data: one for each published way to ask them.

The same weights give other scores under another prompt, begin token or weighting, and the family has several of each.
Read in the repositories Q-Future/Q-Align (14dfdff), zhiyuanyou/DeQA-Score (8e4abc8), Q-Future/Compare2Score (de9218a)
and chaofengc/IQA-PyTorch (01ae427).
"""

from dataclasses import dataclass

from owl2.data.opinions import LEVEL_VALUES, LEVELS

ASPECTS = ("quality", "aesthetics")
"""The aspects that the published models were trained on. Any other word goes into the prompt as it is."""


@dataclass(frozen=True)
class Protocol:
    """One way to ask for a score.

    Attributes:
        prompt: Text with `{aspect}` (quality, aesthetics), `{medium}` (image, video) and the image placeholder. The
            level word is its continuation.
        weights: Score of each level, in the order of `levels`.
        levels: Words whose probabilities are compared.
        begin_token: Whether the beginning-of-sequence token opens the prompt.
        aspect_ratio: What happens to an image that is not square: see `Owl2ImageProcessorPil`.
        source: The place where it was read.
    """

    name: str
    prompt: str
    weights: tuple[float, ...]
    source: str
    levels: tuple[str, ...] = LEVELS
    begin_token: bool = True
    aspect_ratio: str = "pad"

    def text(self, aspect: str, medium: str = "image") -> str:
        """The prompt for an aspect of an image or a video.

        Raises:
            ValueError: The aspect is empty or holds a placeholder.
        """
        if not aspect.strip() or "<|" in aspect:
            raise ValueError(f"the aspect {aspect!r} must be a word or two, such as {' or '.join(ASPECTS)}")
        return self.prompt.format(aspect=aspect, medium=medium)


_ASKED = "USER: How would you rate the {aspect} of this {medium}?\n<|image|>\nASSISTANT: "
_PROMPT = _ASKED + "The {aspect} of the {medium} is"

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("q_align", _PROMPT, LEVEL_VALUES, "IQA-PyTorch, the model's own score() with its prompt put right"),
        Protocol(
            "q_align_scorer",
            _PROMPT,
            (1.0, 0.75, 0.5, 0.25, 0.0),
            "Q-Align, QAlignScorer and its video and aesthetic kin",
        ),
        Protocol(
            "q_align_repository",
            _ASKED + "The {medium} of the {aspect} is",
            LEVEL_VALUES,
            "Q-Align, the model's own score(), whose prompt exchanges the two words",
        ),
        Protocol(
            "evaluation",
            "USER: How would you rate the {aspect} of this {medium}?\n<|image|> ASSISTANT: "
            "The {aspect} of the {medium} is",
            LEVEL_VALUES,
            "Q-Align and DeQA-Score, iqa_eval.py: the frame in which both are trained, and in which we train",
        ),
        Protocol("deqa", _PROMPT, LEVEL_VALUES, "DeQA-Score, Scorer"),
        Protocol(
            "pyiqa_0_1_16",
            _PROMPT,
            LEVEL_VALUES,
            "IQA-PyTorch 0.1.16 on transformers 5, which adds no begin token without add_bos_token",
            begin_token=False,
        ),
    )
}


def protocol_named(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        ValueError: There is none; the message lists them.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"there is no quality protocol {name!r}: choose among {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


COMPARISON = Protocol(
    "compare2score",
    "USER: <|image|> <|image|> Compared with the first image, what is your {aspect} rating for second image? \n"
    "ASSISTANT: The {aspect} of the second image is",
    (0.0, 0.25, 0.5, 0.75, 1.0),
    "Compare2Score, Compare2Scorer",
    levels=("inferior", "worse", "similar", "better", "superior"),
)
"""The comparison of two images; the weighted sum is the preference for the second."""

COMPARISON_TEMPERATURE = 100.0
"""Compare2Score divides its logits by this before the softmax."""

PUBLISHED_ANCHORS = (
    (0.5, 2.5912809e-01, 3.3130276e-04, 1.6087297e-06, 1.1803027e-09),
    (7.4087191e-01, 0.5, 2.4985345e-01, 9.9954158e-02, 1.8675303e-08),
    (9.9966872e-01, 7.5014657e-01, 0.5, 4.9968880e-01, 2.4852838e-01),
    (9.9999839e-01, 9.0004587e-01, 5.0031120e-01, 0.5, 2.5400183e-01),
    (1.0, 1.0, 7.5147164e-01, 7.4599814e-01, 0.5),
)
"""Preference for the row over the column among the five published anchors (data set VQA-CityU/Anchor_images)."""
