"""Image quality as a benchmark: the score of the scorer, correlated with the opinions."""

from pathlib import Path

import pytest
import torch
from helpers import GOLDENS
from quality_helpers import PICTURES, quality_tokenizer
from scipy.stats import pearsonr, spearmanr

from owl2.evaluation.inference.ranks import Ranks
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.runner import predict
from owl2.evaluation.tasks import task_named
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2ImageProcessorPil, Owl2Processor
from owl2.quality import QualityScorer

TASK = task_named("quality")


@torch.no_grad()
def test_scores_are_those_of_the_scorer_and_correlate_with_the_opinions(tmp_path: Path) -> None:
    model = Owl2ForConditionalGeneration.from_pretrained(GOLDENS / "published_settings").eval()
    image_processor = Owl2ImageProcessorPil(size={"height": 56, "width": 56})
    processor = Owl2Processor(image_processor, quality_tokenizer(), num_image_tokens=9)
    folder = tmp_path / "data" / "quality" / "koniq"
    folder.mkdir(parents=True)
    opinions = [3.1, 4.2, 1.5, 2.2, 4.9]
    lines = ["image_name,MOS,SD"]
    for index, image in enumerate(PICTURES):
        image.save(folder / f"{index}.png")
        lines.append(f"{index}.png,{opinions[index]},0.5")
    (folder.parent / "koniq.csv").write_text("\n".join(lines) + "\n")
    planned = plan_task(TASK, Settings(tmp_path / "data", tmp_path / "out"), {})
    done = predict(planned, model, processor, Ranks(), batch_size=3)
    assert done is not None
    scores = TASK.score(done[1], "levels")
    expected = QualityScorer(model, processor, protocol="evaluation")(PICTURES).tolist()
    assert scores.parsed == pytest.approx(expected, abs=1e-4)
    assert scores.summary["srcc"] == pytest.approx(spearmanr(expected, opinions).statistic, abs=1e-6)
    assert scores.summary["plcc"] == pytest.approx(pearsonr(expected, opinions).statistic, abs=1e-4)


def test_ava_is_asked_for_aesthetics() -> None:
    assert TASK.prompt_for("ava", None) == "aesthetics" and TASK.prompt_for("spaq", None) == "quality"
