"""Benchmarks while a model trains: the scores of `owl2 evaluate`, on any ranks, and a training that notices nothing."""

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pope_data import SUBSETS, question, write_pope
from training.ranks import run_ranks
from training.tiny_recipes import COLORS, curve, metrics, run_recipe, run_recipes, write_training

from owl2.evaluation.evaluate import evaluate
from owl2.evaluation.inference.predictor import Predictor
from owl2.evaluation.plan import Settings
from owl2.evaluation.prediction_files import read_predictions
from owl2.training.monitoring import benchmark_scores, validation_loss

TALKATIVE = (
    "model.initialize.language_model.initializer_range=0.5",
    "model.initialize.language_model.tie_word_embeddings=false",
    "optimizer.learning_rate=1e-3",
)
"""A model whose answers are not all empty."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the tiny recipes, and a POPE of 12 questions."""
    directory = tmp_path_factory.mktemp("data")
    write_training(directory)
    images = directory / "coco" / "val2014"
    images.mkdir(parents=True)
    for color in COLORS:
        Image.new("RGB", (16, 16), color).save(images / f"{color}.png")
    files = [f"{color}.png" for color in COLORS]
    rows = {each: [question(n, file, f"Is it {each}?") for n, file in enumerate(files)] for each in SUBSETS}
    return write_pope(directory, rows)


def measured(data: Path, *overrides: str, easy_vqa: bool = False) -> tuple[str, ...]:
    """POPE, and perhaps easy-VQA, after the second of two steps."""
    tasks: dict[str, Any] = {"pope": {"data": str(data), "batch_size": 3}}
    tasks |= {"easy_vqa": {"limit": 7}} if easy_vqa else {}
    return ("evaluate.every=2", f"evaluate.tasks={json.dumps(tasks)}", "schedule.steps=2", *TALKATIVE, *overrides)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose benchmarks are measured after its last step."""
    out = tmp_path_factory.mktemp("run") / "run"
    _, printed = run_recipe(data, "instruct", out, *measured(data, "logging.tensorboard=true", easy_vqa=True))
    assert "step 2: pope f1 " in printed and "easy_vqa accuracy" in printed
    return out


def answers(directory: Path, task: str) -> list[Any]:
    _, records = read_predictions(directory / task / "predictions.jsonl")
    return [(record.id, record.prompt, record.raw) for record in records]


@pytest.mark.parametrize("task", ["pope", "easy_vqa"])
def test_scores_are_those_of_owl2_evaluate_on_the_model_that_the_run_leaves(
    task: str, run: Path, data: Path, tmp_path: Path
) -> None:
    settings = Settings(data, tmp_path, limit=7 if task == "easy_vqa" else None)
    (wanted,) = evaluate(str(run / "checkpoint"), [task], settings, dtype="float32", device="cpu")
    found = run / "evaluations" / "step-00000002"
    assert answers(found, task) == answers(tmp_path, task)
    assert len({raw for *_, raw in answers(found, task)}) > 1  # the answers say something about the model
    ((protocol, entry),) = wanted["protocols"].items()
    assert json.loads((found / task / "scores.json").read_text())["protocols"][protocol] == entry
    line = json.loads((run / "evaluations.jsonl").read_text())
    assert line["step"] == 2 and line["tasks"][task]["summary"] == entry["summary"]
    measure = {"pope": "f1", "easy_vqa": "accuracy"}[task]
    assert metrics(run)[1][f"{task}_{measure}"] == entry["summary"][measure]
    assert f"{task}_{measure}" not in metrics(run)[0]


def test_scores_are_shown_in_tensorboard(run: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(run / "tensorboard")).Reload()
    ((step, value),) = [(event.step, event.value) for event in events.Scalars("pope_f1")]
    assert step == 2 and value == pytest.approx(metrics(run)[1]["pope_f1"])


@pytest.fixture(scope="module")
def on_two_ranks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("two")
    runs = [
        ("instruct", directory / "data", measured(data, easy_vqa=True)),
        ("instruct", directory / "tensor", measured(data, "parallel.tensor=2", easy_vqa=True)),
    ]
    run_ranks(2, run_recipes, data, runs)
    return {out.name: out for _, out, _ in runs}


@pytest.mark.parametrize("layout", ["data", "tensor"])
def test_two_ranks_have_the_scores_of_one(layout: str, on_two_ranks: dict[str, Path], run: Path) -> None:
    out = on_two_ranks[layout]
    for task in ("pope", "easy_vqa"):
        assert answers(out / "evaluations" / "step-00000002", task) == answers(
            run / "evaluations" / "step-00000002", task
        )
    scores = ("pope_f1", "easy_vqa_accuracy")
    assert [metrics(out)[1][name] for name in scores] == [metrics(run)[1][name] for name in scores]


@pytest.mark.slow
def test_two_by_two_ranks_in_bfloat16_answer_as_one(data: Path, tmp_path: Path) -> None:
    overrides = measured(
        data, "precision=bf16", "optimizer.learning_rate=1e-9", easy_vqa=True
    )  # sums of gradients round otherwise
    run_recipe(data, "instruct", tmp_path / "one", *overrides)
    run_ranks(4, run_recipes, data, [("instruct", tmp_path / "four", (*overrides, "parallel.tensor=2"))])
    for task in ("pope", "easy_vqa"):
        one, four = (answers(tmp_path / run / "evaluations" / "step-00000002", task) for run in ("one", "four"))
        assert one == four


LORA = "train={parts: [vision_encoder, abstractor, decoder_vision], lora: {rank: 4, alpha: 8, dropout: 0.5}}"


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param((), id="in full"),
        pytest.param((LORA, "precision=bf16"), id="lora with dropout"),
        pytest.param(
            ("parallel.activation_checkpointing=full", "precision=bf16"), id="computed twice", marks=pytest.mark.slow
        ),
        pytest.param(
            (
                LORA,
                "precision=bf16",
                "train.parts=[vision_encoder, abstractor]",
                "train.quantization=int4",
                "model.initialize.language_model.hidden_size=64",
                "model.initialize.language_model.intermediate_size=128",
            ),
            id="in 4 bits",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_training_goes_on_bit_for_bit_as_if_nothing_had_been_measured(
    settings: tuple[str, ...], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if LORA in settings:
        pytest.importorskip("peft")
    if "train.quantization=int4" in settings:
        pytest.importorskip("bitsandbytes")
    predict = benchmark_scores.predict

    def drawing(*arguments: Any, **options: Any) -> Any:
        torch.rand(3), random.random()  # as a benchmark that chooses at random would
        return predict(*arguments, **options)

    monkeypatch.setattr(benchmark_scores, "predict", drawing)
    held = f"evaluate.sources={{held: {{format: records, path: {data / 'records.jsonl'}}}}}"
    run_recipe(data, "instruct", tmp_path / "plain", *TALKATIVE, *settings)
    run_recipe(
        data,
        "instruct",
        tmp_path / "measured",
        *measured(data),
        held,
        "evaluate.every=1",
        "schedule.steps=3",
        *settings,
    )
    assert curve(tmp_path / "measured") == curve(tmp_path / "plain")
    one, other = (
        file.read_bytes()
        for out in ("plain", "measured")
        for file in (tmp_path / out / "checkpoint").glob("*model.safetensors")
    )
    assert one == other
    steps = [line["step"] for line in metrics(tmp_path / "measured") if "validation_loss" in line and "pope_f1" in line]
    assert steps == [1, 2, 3]


def test_a_run_that_is_stopped_while_it_is_measured_goes_on_with_the_rest_and_ends_as_if_it_had_not_been(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, asked = Predictor.predict, []

    def stopped_in_the_second_batch(self: Predictor, batch: Any) -> Any:
        asked.append([entry.sample.id for entry in batch])
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    monkeypatch.setattr(Predictor, "predict", stopped_in_the_second_batch)
    out, settings = tmp_path / "run", measured(data, "logging.tensorboard=true", easy_vqa=True)
    finished, printed = run_recipe(data, "instruct", out, *settings)
    assert not finished and "stopped after step 2" in printed
    assert [len(batch) for batch in asked] == [3, 3] and len(metrics(out)) == 1
    assert run_recipe(data, "instruct", out, *settings)[0]
    ids = [sample for batch in asked for sample in batch]
    assert len(ids) == len(set(ids)) == 12 + 7
    evaluations = [json.loads((each / "evaluations.jsonl").read_text()) for each in (out, run)]
    assert evaluations[0] == evaluations[1] and curve(out) == curve(run)
    assert metrics(out)[1]["pope_f1"] == metrics(run)[1]["pope_f1"]
    weights = [(each / "checkpoint" / "model.safetensors").read_bytes() for each in (out, run)]
    assert weights[0] == weights[1]


def test_a_stop_while_the_held_out_loss_is_measured_does_not_wait_for_its_end(data: Path, tmp_path: Path) -> None:
    held = f"evaluate.sources={{held: {{format: records, path: {data / 'records.jsonl'}}}}}"
    settings = (held, "evaluate.every=1", "batch.micro_batch_size=4")
    run_recipe(data, "instruct", tmp_path / "whole", *settings)
    calls, original = [], validation_loss.summed_loss

    def stopped_in_the_third_call(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation_loss, "summed_loss", stopped_in_the_third_call)
        assert not run_recipe(data, "instruct", tmp_path / "run", *settings)[0]
    assert len(calls) == 3
    assert run_recipe(data, "instruct", tmp_path / "run", *settings)[0]
    losses = [[line["validation_loss"] for line in metrics(tmp_path / name)] for name in ("run", "whole")]
    assert losses[0] == losses[1] and curve(tmp_path / "run") == curve(tmp_path / "whole")


def test_adapters_answer_as_they_do_when_they_are_loaded(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    run_recipe(data, "instruct", tmp_path / "run", *measured(data, LORA))
    from owl2.training.adapters.merge import merge_lora

    merge_lora(tmp_path / "run" / "checkpoint", tmp_path / "run" / "initial", tmp_path / "merged")
    evaluate(str(tmp_path / "merged"), ["pope"], Settings(data, tmp_path), dtype="float32", device="cpu")
    assert answers(tmp_path / "run" / "evaluations" / "step-00000002", "pope") == answers(tmp_path, "pope")


def test_predictions_of_a_step_that_was_undone_are_made_anew(run: Path, data: Path, tmp_path: Path) -> None:
    stale = tmp_path / "run" / "evaluations" / "step-00000002" / "pope"
    stale.mkdir(parents=True)
    (stale / "predictions.jsonl").write_text('{"header": {"task": "pope", "samples": 0}}\n')
    run_recipe(data, "instruct", tmp_path / "run", *measured(data))
    assert answers(stale.parent, "pope") == answers(run / "evaluations" / "step-00000002", "pope")


def test_benchmarks_whose_files_are_missing_stop_the_run_before_it_begins(data: Path, tmp_path: Path) -> None:
    tasks = f"evaluate.tasks={{pope: {{data: {tmp_path}}}}}"
    with pytest.raises(
        ValueError, match="evaluate.tasks.pope: POPE needs .*coco_pope_random.json, which was not found"
    ):
        run_recipe(data, "instruct", tmp_path / "run", tasks, "evaluate.every=1")
    assert not (tmp_path / "run" / "recipe.yaml").exists()
