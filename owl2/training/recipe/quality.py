"""The section `quality` of a recipe: soft labels of image quality instead of one level."""

from typing import Annotated

from pydantic import Field

from .base import Section

Weight = Annotated[float, Field(ge=0)]


class QualitySettings(Section):
    """Weights of the three losses of DeQA-Score (You et al., arXiv 2501.11561, section 3.3).

    Attributes:
        level_weight: Divergence of the level token's distribution from that of the opinions.
        next_token_weight: Cross-entropy of the other tokens of the answer.
        fidelity_weight: Fidelity of which of two images of a source is better, over the pairs of a micro-batch.
    """

    level_weight: Weight = 1.0
    next_token_weight: Weight = 0.05
    fidelity_weight: Weight = 1.0
