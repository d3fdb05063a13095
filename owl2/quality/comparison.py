"""Compare2Score: preferences between images, and the scores that explain them best. (B pairs, L levels, N images)

Zhu et al., "Adaptive Image Quality Assessment via Teaching Large Multimodal Model to Compare" (arXiv 2405.19298).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from owl2.files import parse_json

from .media_files import IMAGE_SUFFIXES

MATRIX_FILE = "matrix.json"


@dataclass(frozen=True)
class Comparison:
    """The comparison of the second images of pairs with the first.

    Attributes:
        probabilities: [B, 5] of inferior, worse, similar, better, superior.
        preferences: [B] in 0..1; 0.5 is a tie, 1 says that the second is superior.
    """

    probabilities: torch.Tensor
    preferences: torch.Tensor

    @classmethod
    def of(cls, probabilities: torch.Tensor, weights: Sequence[float]) -> "Comparison":
        """The comparison by probabilities [B, L] and the preference that each level stands for."""
        return cls(probabilities, probabilities @ probabilities.new_tensor(weights))


@dataclass(frozen=True)
class Anchors:
    """Images to compare other images with.

    Attributes:
        files: Files of the N images.
        matrix: [N, N] preferences of the row over the column, float64.
    """

    files: tuple[Path, ...]
    matrix: torch.Tensor

    def joined(self, preferences: torch.Tensor) -> torch.Tensor:
        """The matrix [N + 1, N + 1] with an image whose preferences over the anchors are [N]."""
        count = len(self.files)
        whole = torch.full((count + 1, count + 1), 0.5, dtype=torch.float64)
        whole[:count, :count] = self.matrix
        whole[count, :count] = preferences.double().cpu()
        whole[:count, count] = 1 - preferences.double().cpu()
        return whole


def maximum_a_posteriori(preferences: torch.Tensor, steps: int = 50) -> torch.Tensor:
    """Scores [N] that explain preferences [N, N] best, under a standard normal prior.

    They maximise `sum_ij C_ij log sigmoid(s_i - s_j) - sum_i s_i^2 / 2`, the objective of Compare2Score's repository,
    which takes 100 steps of Adam from a random beginning. It is concave, so Newton's method finds its one maximum.

    Raises:
        ValueError: The preferences are not a square matrix of numbers in 0..1.
    """
    matrix = preferences.double()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not ((matrix >= 0) & (matrix <= 1)).all():
        raise ValueError(f"preferences must be a square matrix of numbers in 0..1, got shape {list(matrix.shape)}")
    both = matrix + matrix.T
    scores = torch.zeros(len(matrix), dtype=torch.float64)
    for _ in range(steps):
        sigmoid = torch.sigmoid(scores[:, None] - scores[None])
        # d/ds_i: what i gains where it is preferred, less what it loses where the other is.
        gradient = (matrix * (1 - sigmoid)).sum(1) - (matrix.T * sigmoid).sum(1) - scores
        curvature = both * sigmoid * (1 - sigmoid)
        hessian = torch.diag(curvature.sum(1) + 1) - curvature
        step = torch.linalg.solve(hessian, gradient)
        scores = scores + step
        if float(step.abs().max()) < 1e-12:
            break
    return scores


def anchors_in(folder: str | Path) -> tuple[list[Path], torch.Tensor | None]:
    """Images of a folder in the order of their names, and the matrix of `matrix.json` if it is there.

    Raises:
        ValueError: No folder, fewer than two images, or a matrix of another size.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"the folder of anchors {folder} does not exist")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if len(files) < 2:
        raise ValueError(f"{folder} holds {len(files)} images: at least 2 anchors are needed")
    matrix_file = path / MATRIX_FILE
    if not matrix_file.is_file():
        return files, None
    try:
        matrix = torch.tensor(parse_json(matrix_file.read_text(encoding="utf-8")), dtype=torch.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{matrix_file} is not a matrix of numbers: {error}") from error
    if list(matrix.shape) != [len(files)] * 2:
        raise ValueError(f"{matrix_file} has the shape {list(matrix.shape)}, but there are {len(files)} anchors")
    return files, matrix
