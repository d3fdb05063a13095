"""Compare2Score: preferences as restated, and scores that maximise what they should."""

import json
from pathlib import Path

import pytest
import torch
from quality_helpers import PICTURES, Quality

from owl2.quality import QualityScorer
from owl2.quality.comparison import maximum_a_posteriori
from owl2.quality.protocols import PUBLISHED_ANCHORS


@torch.no_grad()
def test_a_preference_is_its_plain_restatement(golden_quality: Quality) -> None:
    model, processor = golden_quality
    prompt = (
        "USER: <|image|> <|image|> Compared with the first image, what is your quality rating for second image? \n"
        "ASSISTANT: The quality of the second image is"
    )
    inputs = processor(text=prompt, images=PICTURES[:2], return_tensors="pt")
    logits = model(**inputs).logits[0, -1] / 100
    words = [
        processor.tokenizer(f" {word}")["input_ids"][1] for word in "inferior worse similar better superior".split()
    ]
    expected = logits[words].softmax(-1)
    found = QualityScorer(model, processor).compare([PICTURES[0], PICTURES[2]], [PICTURES[1], PICTURES[3]])
    torch.testing.assert_close(found.probabilities[0], expected, atol=1e-6, rtol=0)
    assert float(found.preferences[0]) == pytest.approx(
        float(expected @ torch.tensor([0, 0.25, 0.5, 0.75, 1])), abs=1e-6
    )


def test_maximum_a_posteriori_is_what_a_plain_optimizer_finds() -> None:
    matrix = torch.tensor(PUBLISHED_ANCHORS, dtype=torch.float64)
    scores = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.05)
    for _ in range(1500):
        optimizer.zero_grad()
        gains = (matrix * torch.nn.functional.logsigmoid(scores[:, None] - scores[None])).sum()
        ((scores**2).sum() / 2 - gains).backward()
        optimizer.step()
    torch.testing.assert_close(maximum_a_posteriori(matrix), scores.detach(), atol=1e-5, rtol=0)
    assert maximum_a_posteriori(matrix).argsort().tolist() == [0, 1, 2, 3, 4]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, image in zip("cab", PICTURES, strict=False):
        image.save(tmp_path / f"{name}.png")
    return tmp_path


class TestAnchors:
    def test_without_a_matrix_the_model_compares_them(self, golden_quality: Quality, folder: Path) -> None:
        scorer = QualityScorer(*golden_quality)
        anchors = scorer.anchors(folder)
        assert [file.name for file in anchors.files] == ["a.png", "b.png", "c.png"]
        expected = float(scorer.compare(folder / "a.png", folder / "c.png").preferences)
        assert float(anchors.matrix[2, 0]) == pytest.approx(expected, abs=1e-6)
        torch.testing.assert_close(anchors.matrix + anchors.matrix.T, torch.ones(3, 3, dtype=torch.float64))

    def test_a_score_lies_where_its_preferences_put_it(self, golden_quality: Quality, folder: Path) -> None:
        (folder / "matrix.json").write_text(json.dumps([[0.5, 0.1, 0.0], [0.9, 0.5, 0.1], [1.0, 0.9, 0.5]]))
        scorer = QualityScorer(*golden_quality)
        anchors = scorer.anchors(folder)
        found = scorer.score_against(PICTURES, anchors)
        for image, score in zip(PICTURES, found.tolist(), strict=True):
            preferences = scorer.compare(list(anchors.files), [image] * 3).preferences
            values = maximum_a_posteriori(anchors.joined(preferences))
            scaled = 100 * (values[3] - values.min()) / (values.max() - values.min())
            assert score == pytest.approx(float(scaled), abs=1e-3)

    @pytest.mark.parametrize("matrix", ["[[1]]", "not JSON", "[1, 2]"])
    def test_a_wrong_matrix_is_refused(self, golden_quality: Quality, folder: Path, matrix: str) -> None:
        (folder / "matrix.json").write_text(matrix)
        with pytest.raises(ValueError, match="matrix.json"):
            QualityScorer(*golden_quality).anchors(folder)

    def test_pairs_must_match(self, golden_quality: Quality) -> None:
        with pytest.raises(ValueError, match="2 first and 1 second"):
            QualityScorer(*golden_quality).compare(PICTURES[:2], PICTURES[:1])
