"""Predicting a task: batches, ranks, resuming, and what stops a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from pope_data import question, write_pope

from owl2.evaluation import runner
from owl2.evaluation.inference.ranks import Ranks
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions
from owl2.evaluation.results.scoring import score_directory, task_directories
from owl2.evaluation.runner import predict
from owl2.evaluation.tasks import TASKS, task_named
from owl2.stop_signal import StopRequested

MODEL = {"model": {"name": "tiny"}, "versions": {}}


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    """POPE in its official form: three files, twelve questions, images of different sizes."""
    images = tmp_path / "data" / "coco" / "val2014"
    images.mkdir(parents=True)
    rows = []
    for number in range(4):
        name = f"COCO_val2014_{number:012d}.jpg"
        Image.new("RGB", (20 + number, 30), (60 * number, 10, 200)).save(images / name)
        rows.append(question(number, name, "Is there a dog in the image?" + " Look well." * number))
    return write_pope(tmp_path / "data", rows)


def answers(directory: Path) -> dict[str, str]:
    return {record.id: record.answer for record in read_predictions(directory / PREDICTIONS)[1]}


def test_any_batch_size_gives_the_answers_of_batch_1(predicted, pope, tmp_path):
    alone = answers(predicted("pope", pope, batch_size=1))
    for batch_size in (3, 8):
        assert answers(predicted("pope", pope, batch_size, suffix=" ")) == alone
        for path in task_directories(tmp_path / "run"):
            (path / PREDICTIONS).unlink()
    assert len(alone) == 12


def test_a_killed_run_goes_on_where_it_stopped(model, processor, pope, tmp_path, monkeypatch):
    planned = plan_task(task_named("pope"), Settings(pope, tmp_path / "run"), MODEL)
    count = {"batches": 0}
    original = runner.Predictor.predict

    def dies(self, batch):
        count["batches"] += 1
        if count["batches"] == 3:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(runner.Predictor, "predict", dies)
    with pytest.raises(KeyboardInterrupt):
        predict(planned, model, processor, Ranks(), 4)
    partial = planned.directory / "partial-0.jsonl"
    partial.write_bytes(partial.read_bytes()[:-5])  # killed while writing
    done = partial.read_bytes().count(b"\n") - 1
    assert 0 < done < 12
    asked = []
    monkeypatch.setattr(runner.Predictor, "predict", lambda self, batch: asked.extend(batch) or original(self, batch))
    _, records = predict(planned, model, processor, Ranks(), 4)
    assert len(asked) == 12 - done
    assert [record.id for record in records] == [sample.id for sample in planned.samples]
    assert not list(planned.directory.glob("partial-*"))


def test_a_stopped_run_ends_after_the_batch_in_progress_and_goes_on_behind_it(
    model, processor, pope, tmp_path, monkeypatch
):
    planned = plan_task(task_named("pope"), Settings(pope, tmp_path / "run"), MODEL)
    original, prepare = runner.Predictor.predict, runner.Predictor.prepare
    asked, prepared = [], []
    monkeypatch.setattr(runner.Predictor, "predict", lambda self, batch: asked.extend(batch) or original(self, batch))
    monkeypatch.setattr(
        runner.Predictor, "prepare", lambda self, sample: prepared.append(sample) or prepare(self, sample)
    )
    with pytest.raises(StopRequested, match="stopped after 6 of 12 samples of POPE, which are saved"):
        predict(planned, model, processor, Ranks(), 3, stopped=lambda: len(asked) >= 6)
    assert len(asked) == 6
    _, records = predict(planned, model, processor, Ranks(), 3)
    assert len(asked) == 12 and [record.id for record in records] == [sample.id for sample in planned.samples]


def test_texts_may_hold_any_kind_of_line_end(predicted, pope):
    """JSON leaves U+0085, U+2028 and U+2029 as they are; files of a run are read back when it ends or resumes."""
    strange = "Is there\u2028a\u2029dog\u0085in the\r\nimage?"
    for path in (pope / "pope").iterdir():
        path.write_text(path.read_text().replace("Is there a dog in the image?", json.dumps(strange)[1:-1]))
    _, records = read_predictions(predicted("pope", pope) / PREDICTIONS)
    assert len(records) == 12 and all(strange in record.prompt for record in records)


def test_predictions_of_another_setting_are_not_mixed_in(predicted, pope):
    predicted("pope", pope)
    with pytest.raises(ValueError, match="another setting: suffix"):
        predicted("pope", pope, suffix="")


def test_prompts_are_sent_without_the_chat_frame_where_that_is_asked_for_and_the_result_says_so(predicted, pope):
    directory = predicted("pope", pope, prompt_format="raw")
    header, records = read_predictions(directory / PREDICTIONS)
    assert records[0].prompt == (
        "<|image|>Is there a dog in the image?\nAnswer the question using a single word or phrase."
    )
    assert header["prompt_format"] == "raw" and score_directory(directory)["prompt_format"] == "raw"
    with pytest.raises(ValueError, match="another setting: prompt_format is 'raw' there and 'chat' now"):
        predicted("pope", pope)


def test_a_frame_that_there_is_not_and_a_suffix_without_a_frame_are_refused(pope, tmp_path):
    for settings, problem in (
        ({"prompt_format": "none"}, "chat or raw, not 'none'"),
        ({"prompt_format": "raw"}, "--prompt-format raw"),
    ):
        with pytest.raises(ValueError, match=problem):
            plan_task(task_named("pope"), Settings(pope, tmp_path / "run", suffix="", **settings), MODEL)


def test_a_limit_is_shown_and_can_be_lifted_later(predicted, pope):
    directory = predicted("pope", pope, limit=5)
    result = score_directory(directory)
    assert (result["samples"], result["samples_of_split"], result["partial"]) == (5, 12, True)
    result = score_directory(predicted("pope", pope))
    assert (result["samples"], result["partial"]) == (12, False)


def test_the_header_says_what_a_score_depends_on(predicted, pope):
    header, records = read_predictions(predicted("pope", pope) / PREDICTIONS)
    assert (
        (header["prompt_format"], header["suffix"]) == ("chat", " ")
        and header["decoding"]["max_new_tokens"] == 10
        and header["split"] == "coco"
    )
    assert [len(file["sha256"]) for file in header["data"]] == [64] * 3
    assert records[0].prompt.startswith("USER: <|image|>Is there a dog in the image?\nAnswer the question using")
    assert records[0].prompt.endswith(" ASSISTANT: ")


def test_a_missing_image_stops_before_any_generation(pope, tmp_path):
    (pope / "coco" / "val2014" / f"COCO_val2014_{2:012d}.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 images or videos are missing, first .*000000000002\.jpg"):
        plan_task(task_named("pope"), Settings(pope, tmp_path / "run"), MODEL)


def test_a_broken_row_names_file_and_line(pope, tmp_path):
    path = pope / "pope" / "coco_pope_popular.json"
    path.write_text(path.read_text().replace('"label": "no"', '"label": "maybe"', 1))
    with pytest.raises(ValueError, match=r"coco_pope_popular\.json, record 2: 'label' is 'maybe'"):
        plan_task(task_named("pope"), Settings(pope, tmp_path / "run"), MODEL)


@pytest.mark.slow
def test_two_ranks_predict_every_sample_once(pope, tmp_path):
    """Under torchrun, with the command a user types."""
    checkpoint = tmp_path / "model"
    script = (
        "import sys; sys.path[:0] = ['tests', '.'];"
        "from helpers import GOLDENS, tiny_config, tiny_model; from transformers import AutoTokenizer;"
        "from owl2.processing import Owl2ImageProcessor, Owl2Processor;"
        f"tiny_model(tiny_config(vocab_size=320, eos_token_id=2)).save_pretrained({str(checkpoint)!r});"
        "t = AutoTokenizer.from_pretrained(GOLDENS / 'tokenizer');"
        "p = Owl2Processor(Owl2ImageProcessor(size={'height': 16, 'width': 16}), t, num_image_tokens=4);"
        f"p.save_pretrained({str(checkpoint)!r})"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root, env=environment, capture_output=True)
    options = ["--model", str(checkpoint), "--tasks", "pope", "--data", str(pope), "--batch-size", "2"]
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "owl2", "evaluate", *options]
    done = subprocess.run(
        [sys.executable, *command, "--out", str(tmp_path / "two")],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    subprocess.run(
        [sys.executable, "-m", "owl2", "evaluate", *options, "--out", str(tmp_path / "one")],
        cwd=root,
        env=environment,
        check=True,
        capture_output=True,
        timeout=240,
    )
    assert answers(tmp_path / "two" / "pope") == answers(tmp_path / "one" / "pope")
    assert "POPE" in done.stdout and "f1" in done.stdout


def test_the_shares_of_the_ranks_are_contiguous_and_lose_nothing(monkeypatch):
    for size in (1, 2, 3, 7):
        monkeypatch.setenv("WORLD_SIZE", str(size))
        found = []
        for rank in range(size):
            monkeypatch.setenv("RANK", str(rank))
            found += Ranks().share(list(range(12)))
        assert found == list(range(12))


def test_every_benchmark_of_the_list_can_be_loaded():
    assert len({task_named(name).title for name in TASKS}) == len(TASKS)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean vqav2"):
        task_named("vqa2")


def test_predictions_of_earlier_versions_are_scored_and_resumed(predicted, pope):
    """They called the prompt format the frame, and "raw" bare."""
    directory = predicted("pope", pope, prompt_format="raw")
    file = directory / PREDICTIONS
    written = file.read_text()
    expected = score_directory(directory)
    old = written.replace('"prompt_format": "raw"', '"frame": "bare"').replace('"prompt_format_', '"frame_')
    assert '"frame": "bare"' in old and '"frame_expected": "chat"' in old
    file.write_text(old)
    assert score_directory(directory) == expected
    predicted("pope", pope, prompt_format="raw")  # refuses nothing
