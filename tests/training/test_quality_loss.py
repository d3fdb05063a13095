"""Soft labels of image quality: the loss restated plainly, and runs of both recipes on a tiny model."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import tiny_config, tiny_model
from quality_helpers import picture, quality_tokenizer
from training.tiny_recipes import metrics, recipe_of, run_recipe

from owl2.processing import Owl2ImageProcessorPil, Owl2Processor
from owl2.quality import QualityScorer
from owl2.training.export import export
from owl2.training.quality_loss import QualityLoss, fidelity_loss, level_divergence
from owl2.training.recipe.quality import QualitySettings
from owl2.training.recipe.yaml_file import load_recipe

MANY = "batch.global_batch_size=300"  # samples, of which over 100 must be broken


@pytest.fixture(scope="module")
def processor() -> Owl2Processor:
    return Owl2Processor(
        Owl2ImageProcessorPil(size={"height": 16, "width": 16}), quality_tokenizer(), num_image_tokens=4
    )


def batch_of(processor: Owl2Processor, levels: list[str]) -> dict[str, Any]:
    samples = []
    for index, level in enumerate(levels):
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "How?\n"}, {"type": "image"}]},
            {"role": "assistant", "content": f"The quality of the image is {level}."},
        ]
        sample = processor.encode_conversation(messages, images=[picture(index)])
        samples.append({**sample, "pixel_values": sample["pixel_values"]})
    return processor.pad(samples)


def test_the_losses_are_their_plain_restatement(processor: Owl2Processor) -> None:
    model = tiny_model(tiny_config(vocab_size=320, eos_token_id=2))
    inputs = batch_of(processor, ["good", "excellent", "bad"])
    opinions = [
        [0.1, 0.6, 0.2, 0.1, 0.0, 3.7, 0.8, 0],
        [0.9, 0.1, 0.0, 0.0, 0.0, 4.9, 0.3, 0],
        [0.0, 0.0, 0.0, 0.2, 0.8, 1.2, 0.4, 1],
    ]
    settings = QualitySettings(level_weight=0.7, next_token_weight=0.05, fidelity_weight=0.9)
    loss = QualityLoss.of(settings, processor)
    found = loss.summed(model, {**inputs, "opinion": torch.tensor(opinions)})

    with torch.no_grad():
        logits = model(**inputs).logits
    expected, means = 0.0, []
    for row in range(3):
        others, labels = [], inputs["labels"][row].tolist()
        for place in range(1, len(labels)):
            token = labels[place]
            if token == -100:
                continue
            log_probabilities = torch.log_softmax(logits[row, place - 1], dim=0)
            if token in loss.level_ids:
                wanted = opinions[row][:5]
                terms = zip(wanted, loss.level_ids, strict=True)
                expected += 0.7 * sum(p * (math.log(p) - float(log_probabilities[level])) for p, level in terms if p)
                closed = torch.softmax(logits[row, place - 1][list(loss.level_ids)], dim=0)
                means.append(float(closed @ torch.tensor([5.0, 4, 3, 2, 1])))
            else:
                others.append(-float(log_probabilities[token]))
        expected += 0.05 * sum(others) / len(others)

    def normal(value: float) -> float:
        return 0.5 * (1 + math.erf(value / math.sqrt(2)))

    predicted = normal((means[0] - means[1]) / math.sqrt(2))  # only these two are of one source
    wanted = normal((3.7 - 4.9) / math.sqrt(0.8**2 + 0.3**2))
    fidelity = 1 - math.sqrt(predicted * wanted) - math.sqrt((1 - predicted) * (1 - wanted))
    assert found.item() == pytest.approx(expected + 3 * 0.9 * fidelity, rel=1e-4)


def test_a_perfect_prediction_has_no_divergence_and_no_loss_of_fidelity() -> None:
    ids = torch.tensor([3, 5, 7, 9, 11])
    probabilities = torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1]])
    logits = torch.full((1, 20), -1e4)
    logits[:, ids] = probabilities.log()
    assert level_divergence(logits, ids, probabilities).item() == pytest.approx(0, abs=1e-6)
    scores, deviation = torch.tensor([1.5, 3.0, 4.5]), torch.full((3,), math.sqrt(1.0))
    assert fidelity_loss(scores, scores, deviation, torch.zeros(3)).item() == pytest.approx(0, abs=1e-6)
    swapped = fidelity_loss(scores.flip(0), scores, deviation, torch.zeros(3)).item()
    assert swapped > 0.2
    assert fidelity_loss(scores, scores, deviation, torch.arange(3)).item() == 0  # of three sources


def test_an_answer_without_its_level_word_is_refused(processor: Owl2Processor) -> None:
    inputs = batch_of(processor, ["mediocre"])
    loss = QualityLoss.of(QualitySettings(), processor)
    with pytest.raises(ValueError, match="exactly one of the level words"):
        loss.summed(tiny_model(tiny_config(vocab_size=320)), {**inputs, "opinion": torch.zeros(1, 8)})


def test_padding_alone_gives_zero_gradients(processor: Owl2Processor) -> None:
    model = tiny_model(tiny_config(vocab_size=320)).train()
    inputs = {"input_ids": torch.zeros(1, 4, dtype=torch.long), "labels": torch.full((1, 4), -100)}
    loss = QualityLoss.of(QualitySettings(), processor).summed(model, inputs)
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


@pytest.fixture(scope="module")
def opinions(data: Path) -> Path:
    """Grey squares whose brightness is their quality, as a mixture, and a tokenizer with the level words."""
    lines = ["image,MOS,SD"]
    for index in range(24):
        picture(0).resize((16, 16)).point(lambda value, index=index: min(255, 10 * index + value // 99)).save(
            data / f"q{index}.png"
        )
        lines.append(f"q{index}.png,{index},3")
    (data / "opinions.csv").write_text("\n".join(lines) + "\n")
    source = {"format": "quality", "annotations": "opinions.csv", "images": "."}
    (data / "opinions.yaml").write_text(yaml.safe_dump({"cache": "cache", "sources": {"grey": source}}))
    return data


def overrides(data: Path) -> list[str]:
    source = f"data.sources={{grey: {{format: mixture, path: {data / 'opinions.yaml'}}}}}"
    return [source, "data.aspect=pad", "model.initialize.language_model.vocab_size=600"]


@pytest.mark.parametrize("quality", [[], ["quality={fidelity_weight: 0.5}"]], ids=["levels", "soft"])
def test_a_run_learns_and_leaves_a_model_that_scores(opinions: Path, tmp_path: Path, quality: list[str]) -> None:
    steps = ["schedule.steps=6", "batch.global_batch_size=24", "batch.micro_batch_size=12"]
    finished, printed = run_recipe(opinions, "instruct", tmp_path / "run", *overrides(opinions), *steps, *quality)
    assert finished, printed
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert losses[-1] < losses[0]
    scorer = QualityScorer.from_pretrained(tmp_path / "run" / "checkpoint", protocol="evaluation")
    assert scorer([opinions / "q0.png", opinions / "q23.png"]).shape == (2,)
    assert scorer.processor.image_processor.aspect == "pad"


@pytest.fixture(scope="module")
def small_vocabulary(opinions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of stage 1, whose tokenizer has seen captions alone and spells the levels in several tokens."""
    run = tmp_path_factory.mktemp("stage1") / "run"
    assert run_recipe(opinions, "pretrain", run, "schedule.steps=1")[0]
    return run / "checkpoint"


def test_a_checkpoint_that_spells_the_levels_learns_them_as_new_words_exports_and_resumes(
    opinions: Path, small_vocabulary: Path, tmp_path: Path
) -> None:
    start = [*overrides(opinions)[:2], f"model.checkpoint={small_vocabulary}", "quality={}"]
    steps = ["schedule.steps=4", "batch.global_batch_size=24", "batch.micro_batch_size=12", "checkpoint.every=2"]
    with pytest.raises(ValueError, match=r"model\.new_words=\[excellent,good,fair,poor,bad\]"):
        run_recipe(opinions, "instruct", tmp_path / "run", *start, *steps)
    words = "model.new_words=[excellent,good,fair,poor,bad]"
    assert run_recipe(opinions, "instruct", tmp_path / "whole", *start, *steps, words)[0]
    scorer = QualityScorer.from_pretrained(tmp_path / "whole" / "checkpoint", protocol="evaluation")
    whole = scorer([opinions / "q0.png", opinions / "q23.png"])
    export(tmp_path / "whole", tmp_path / "exported", dtype=torch.float32)
    exported = QualityScorer.from_pretrained(tmp_path / "exported", protocol="evaluation")
    torch.testing.assert_close(exported([opinions / "q0.png", opinions / "q23.png"]), whole)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    _, printed = run_recipe(opinions, "instruct", tmp_path / "cut", *start, *steps, words)
    assert "resumes after step 2 of 4" in printed
    resumed = QualityScorer.from_pretrained(tmp_path / "cut" / "checkpoint", protocol="evaluation")
    torch.testing.assert_close(resumed([opinions / "q0.png", opinions / "q23.png"]), whole)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["model.checkpoint=DIR", "train.parts=[abstractor]"], "embeddings in train.parts"),
        (["model.checkpoint=DIR", "train.parts=[embeddings]", "train.lora={rank: 2}"], "no train.lora"),
        ([], "for a checkpoint"),
    ],
)
def test_new_words_that_cannot_learn_are_refused(
    opinions: Path, tmp_path: Path, changes: list[str], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        recipe_of(opinions, "instruct", tmp_path, *changes, "model.new_words=[good]")


def test_records_without_opinions_are_refused(opinions: Path, tmp_path: Path) -> None:
    grey = f"{{format: mixture, path: {opinions / 'opinions.yaml'}}}"
    records = f"{{format: records, path: {opinions / 'records.jsonl'}}}"
    sources = f"data.sources={{grey: {grey}, records: {records}}}"
    with pytest.raises(ValueError, match="has no opinion scores"):
        run_recipe(opinions, "instruct", tmp_path / "run", *overrides(opinions), sources, "quality={}", MANY)


def test_packing_is_refused(opinions: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no data\.packing"):
        recipe_of(opinions, "instruct", tmp_path, "quality={}", "data.packing.enabled=true")


@pytest.mark.parametrize("name", ["quality/quality_levels", "quality/quality_soft"])
def test_the_recipes_of_the_package_are_valid(name: str) -> None:
    recipe = load_recipe(name, [])
    assert recipe.data.aspect == "pad" and not recipe.data.packing.enabled
    assert (recipe.quality is None) == name.endswith("levels")
