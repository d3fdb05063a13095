"""`owl2 inspect`: a figure and a table a measure, against the functions and plain restatements."""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from training.tiny_recipes import run_recipe, write_training
from typer.testing import CliRunner

from owl2.analysis.inspection.copies import drift_of_copies, text_copies_for_vision
from owl2.analysis.inspection.forgetting import text_ability
from owl2.analysis.inspection.inputs import encode_fact, encode_question, in_batches
from owl2.analysis.inspection.measures import MEASURES
from owl2.analysis.inspection.swap import causal_swap
from owl2.analysis.language import perplexity, predictions, text_loss
from owl2.analysis.material import material, spread
from owl2.checkpoints.loading import load_for_chat
from owl2.cli.main import app

STEPS = ("schedule.steps=2", "schedule.warmup_steps=1", "data.max_length=96")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model directories of a tiny training: its start, what stage 1 leaves, and a model without the module."""
    directory = tmp_path_factory.mktemp("runs")
    write_training(directory)
    run_recipe(directory, "pretrain", directory / "one", *STEPS)
    plain = ("model.modality_adaptive=[]", 'train.parts=["vision_encoder", "abstractor"]')
    run_recipe(directory, "pretrain", directory / "plain", *STEPS, *plain)
    return {
        "start": directory / "one" / "initial",
        "one": directory / "one" / "checkpoint",
        "plain": directory / "plain" / "checkpoint",
    }


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    return result.exit_code, result.output


def rows(file: Path) -> list[dict]:
    found = json.loads(file.read_text())
    assert found["caption"] and pq.read_table(file.with_suffix(".parquet")).to_pylist() == found["rows"]
    return found["rows"]


def test_every_measure_leaves_a_figure_and_a_table_that_agree_with_the_functions(runs, tmp_path):
    small = ("--limit", 8, "--data", "scenes_easy", "--batch-size", 4)
    code, output = run("-m", runs["one"], "--before", runs["start"], "--out", tmp_path, *small)
    assert code == 0, output
    for name in MEASURES:
        assert (tmp_path / f"{name}.png").stat().st_size > 5000 and (tmp_path / f"{name}.svg").is_file()
    model, processor = load_for_chat(runs["one"])
    swap = rows(tmp_path / "swap.json")
    assert [row["layer"] for row in swap] == [None, 0, 1]
    assert all(row["lost"] == pytest.approx(row["unswapped"] - row["accuracy"]) for row in swap)
    drift = rows(tmp_path / "drift.json")
    expected = drift_of_copies(model, load_for_chat(runs["start"])[0])
    assert [row["distance"] for row in drift] == [each.distance for each in expected] and drift[0]["distance"] > 0
    assert "against the copies of " in json.loads((tmp_path / "drift.json").read_text())["caption"]
    assert len(rows(tmp_path / "alignment.json")) == 3 and len(rows(tmp_path / "conflict.json")) == 2 * 5
    before, after = rows(tmp_path / "forgetting.json")
    corpus = material("scenes_easy", 8).corpus
    assert after["perplexity"] == pytest.approx(perplexity(model, processor, corpus), rel=1e-5)
    assert after["perplexity_low"] <= after["perplexity"] <= after["perplexity_high"]
    assert before["perplexity"] == pytest.approx(after["perplexity"], rel=1e-5)  # stage 1 leaves text alone


def test_the_swap_counts_answers_of_the_model_whose_visual_tokens_take_the_parameters_of_text(runs):
    model, processor = load_for_chat(runs["one"])
    found = material("scenes_easy", 6)
    # the right answers are those of the swapped model, so that the swap of all layers has accuracy 1
    with text_copies_for_vision(model):
        swapped = predictions(model, processor, found.task, found.about_pictures, 24)
    plain = predictions(model, processor, found.task, found.about_pictures, 24)
    with torch.no_grad():
        samples = [
            sample.__class__(sample.id, sample.prompt, each.answer, sample.images, details=sample.details)
            for sample, each in zip(found.about_pictures, swapped, strict=True)
        ]
    counted: list[int] = []
    accuracy, (everywhere, *by_layer) = causal_swap(model, processor, found.task, samples, 4, counted.append)
    same = sum(a.answer.lower() == b.answer.lower() for a, b in zip(swapped, plain, strict=True)) / 6
    assert (everywhere.accuracy, accuracy) == (1.0, pytest.approx(same))
    assert everywhere.lost == pytest.approx(same - 1) and [each.layer for each in by_layer] == [0, 1]
    assert sum(counted) == 4 * 6


def test_perplexity_weighs_tokens_and_comes_with_an_interval_over_texts(runs):
    model, processor = load_for_chat(runs["one"])
    corpus = ["a red circle", "two blue squares stand beside a small green triangle", "no"]
    found = text_ability(model, processor, corpus, material("easy_vqa", 4).without_pictures)
    losses = [text_loss(model, processor, [processor.encode_text(text)]) for text in corpus]
    ids = torch.tensor([processor.encode_text(corpus[0])["input_ids"]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1]
    assert losses[0][0] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")))
    total, tokens = (sum(values) for values in zip(*losses, strict=True))
    assert found.perplexity == pytest.approx(math.exp(total / tokens))
    alone = [math.exp(loss / count) for loss, count in losses]
    assert (
        min(alone) <= found.perplexity_interval.low <= found.perplexity <= found.perplexity_interval.high <= max(alone)
    )


def test_a_model_without_the_module_is_inspected_in_what_it_has(runs, tmp_path):
    code, output = run("-m", runs["plain"], "--out", tmp_path, "--limit", 4, "--data", "scenes_easy")
    assert code == 0, output
    assert {file.stem for file in tmp_path.glob("*.png")} == {"conflict", "alignment", "forgetting"}
    assert "swap and drift are left out" in " ".join(output.split())
    code, output = run("-m", runs["plain"], "--out", tmp_path, "--limit", 4, "--data", "scenes_easy", "--only", "swap")
    assert code == 2 and "made without the modality-adaptive module" in output


def test_questions_are_spread_over_the_whole_split():
    assert spread(range(10), 5) == [0, 2, 4, 6, 8] and spread(range(3), 9) == [0, 1, 2]
    templates = {sample.details["template"] for sample in material("scenes", 40).about_pictures}
    assert len(templates) > 5


def test_conversations_have_labels_at_their_answers_alone(runs):
    model, processor = load_for_chat(runs["one"])
    found = material("scenes_easy", 4)
    pictures = [encode_question(processor, each) for each in found.about_pictures]
    texts = [encode_fact(processor, each) for each in found.without_pictures]
    first, last = in_batches(model, processor, pictures, 3)
    assert first["pixel_values"].shape[0] == 3 and last["input_ids"].shape[0] == 1
    for encoded, answer in (
        (pictures[0], found.about_pictures[0].gold),
        (texts[0], found.without_pictures[0].statement),
    ):
        learnt = [token for token in encoded["labels"] if token != -100]
        assert processor.tokenizer.decode(learnt, skip_special_tokens=True).strip() == str(answer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "coco"), "a model is inspected on one of easy_vqa"),
        (("--only", "warp"), "--only takes swap, drift"),
        (("--before", "absent"), "the model directory absent does not exist"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_before_any_model_is_read(runs, tmp_path, arguments, message, monkeypatch):
    monkeypatch.setattr("owl2.checkpoints.loading.load_for_chat", lambda *_, **__: pytest.fail("it was read"))
    code, output = run("-m", runs["one"], *arguments, "--out", tmp_path / "out")
    assert code == 2 and message in output and len(output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
