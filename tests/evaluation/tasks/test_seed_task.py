"""SEED-Bench from files in the official form, images, videos and their parts, to scores and the submission."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owl2.evaluation.inference.predictor import load_clip
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions
from owl2.evaluation.results.scoring import score_directory, write_submission
from owl2.evaluation.task import Clip, Prediction, Ranking
from owl2.evaluation.tasks import task_named

TYPES = [
    *("Scene Understanding", "Instance Identity", "Instance Attributes", "Instance Location", "Instances Counting"),
    *("Spatial Relation", "Instance Interaction", "Visual Reasoning", "Text Understanding", "Action Recognition"),
    *("Action TaskPlan", "Procedure Understanding"),
]
VIDEOS = {10: ("ssv2", "94328.webm"), 11: ("epic_kitchens", "P03/P03_24.MP4"), 12: ("breakfast", "P06/cam01/P06.avi")}
SEGMENTS = {11: [1.0, 3.0], 12: [4, 17]}  # seconds, frames
CODECS = {".mp4": "mpeg4", ".avi": "mpeg4", ".webm": "libvpx"}


def question(kind: int, **changes: Any) -> dict[str, Any]:
    is_video = kind >= 10
    fields = {
        "question_id": f"v{kind}" if is_video else f"10{kind}",
        "question": f"What of type {kind}?",
        **{f"choice_{letter}": f"thing {letter}" for letter in "abcd"},
        "answer": "ABCD"[kind % 4],
        "data_id": VIDEOS[kind][1] if is_video else f"145_{kind}",  # images have no ending
        "data_type": "video" if is_video else "image",
        "question_type_id": kind,
        **({"segment": SEGMENTS[kind]} if kind in SEGMENTS else {}),
    }
    return {**fields, **changes}


def write_video(path: Path, count: int = 20) -> None:
    """Frames at 5 a second whose brightness is ten times their index."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format={".mp4": "mp4", ".avi": "avi", ".webm": "webm"}[path.suffix.lower()]) as file:
        stream = file.add_stream(CODECS[path.suffix.lower()], rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for index in range(count):
            image = Image.new("RGB", (32, 16), (10 * index,) * 3)
            file.mux(stream.encode(av.VideoFrame.from_image(image)))
        file.mux(stream.encode())


def indices_of(clip: Clip) -> list[int]:
    return [round(float(np.asarray(frame).mean()) / 10) for frame in load_clip(clip)]


def annotations(root: Path, questions: list[dict[str, Any]]) -> None:
    (root / "seed").mkdir(exist_ok=True)
    types = {name: number for number, name in enumerate(TYPES, start=1)}
    (root / "seed" / "SEED-Bench.json").write_text(json.dumps({"questions": questions, "question_type": types}))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A question of each type."""
    annotations(tmp_path, [question(kind) for kind in range(1, 13)])
    folder = tmp_path / "seed" / "SEED-Bench-image"
    folder.mkdir()
    for kind in range(1, 10):
        Image.new("RGB", (20, 16), (20 * kind, 90, 40)).save(folder / f"145_{kind}", "PNG")
    for folder_name, name in VIDEOS.values():
        write_video(tmp_path / "seed" / "videos" / folder_name / name)
    return tmp_path


def test_seed_runs_from_images_and_videos_to_scores(data, predicted):
    directory = predicted("seed", data, batch_size=5)
    header, records = read_predictions(directory / PREDICTIONS)
    assert header["frames"] == [8] and len(records) == 12
    assert records[0].prompt == (
        "USER: <|image|>What of type 1?\nA. thing a\nB. thing b\nC. thing c\nD. thing d\n"
        "Answer with the option\u2019s letter from the given choices directly. ASSISTANT: "
    )
    assert records[9].prompt.startswith("USER: " + "<|image|>" * 8 + "What of type 10?\n")
    result = score_directory(directory)
    assert set(result["protocols"]) == {"first_char", "exact"}
    summary = result["protocols"]["first_char"]["summary"]
    assert set(summary["per_type"]) == set(TYPES) and {"image", "video"} <= set(summary)


def test_a_ranked_choice_is_parted_from_the_prompt_without_the_frame_as_from_the_frame(data, predicted):
    directory = predicted("seed", data, split="image", prompt="likelihood", prompt_format="raw", limit=1)
    _, (record,) = read_predictions(directory / PREDICTIONS)
    assert record.prompt == "<|image|>What of type 1? " and record.ranking.choices[0] == "thing a"


def test_seed_takes_the_frames_of_its_program_from_the_part_of_the_video(data):
    load = task_named("seed").load
    whole, seconds, frames = (sample.clip for sample in load(data, "video", "letter"))
    assert whole is not None and seconds is not None and frames is not None
    assert indices_of(whole) == [1, 3, 5, 8, 10, 12, 15, 17]  # of 19: the last one does not count
    assert indices_of(seconds) == [5, 6, 7, 8, 9, 11, 12, 13]  # of frames 5 to 14: step 9/8
    assert indices_of(frames) == [4, 6, 7, 8, 10, 12, 13, 14]  # of frames 4 to 16: step 12/8
    assert [len(indices_of(sample.clip)) for sample in load(data, "video", "letter_4_frames")] == [4, 4, 4]
    assert [indices_of(sample.clip) for sample in load(data, "video", "letter_middle_frame")] == [[10], [10], [10]]


def test_option_texts_are_ranked_by_likelihood(data, predicted):
    directory = predicted("seed", data, prompt="likelihood", split="image")
    _, records = read_predictions(directory / PREDICTIONS)
    assert records[0].prompt == "USER: <|image|>What of type 1? ASSISTANT: "
    assert records[0].ranking.choices == ("thing a", "thing b", "thing c", "thing d")
    result = score_directory(directory)
    assert set(result["protocols"]) == {"likelihood"} and result["default_protocol"] == "likelihood"
    with pytest.raises(ValueError, match="exact cannot score the prompt 'likelihood'"):
        score_directory(directory, "exact")


def test_seed_scores_of_given_answers_are_those_worked_out_by_hand(data, answered):
    gold = {f"10{kind}": "ABCD"[kind % 4] for kind in range(1, 10)} | {"v10": "C", "v11": "D", "v12": "A"}
    given = {**gold, "101": "b. thing b", "102": "(C)", "103": " D ", "v10": "a thing", "v12": "A. thing a"}
    records = answered("seed", data, given)
    task = task_named("seed")
    loose, strict = task.score(records, "first_char").summary, task.score(records, "exact").summary
    assert loose["accuracy"] == pytest.approx(10 / 12)  # 102 and v10 are wrong
    assert (loose["image"], loose["video"]) == (pytest.approx(8 / 9), pytest.approx(2 / 3))
    assert loose["per_type"]["Instance Identity"] == 0 and loose["undecided"] == 1
    assert strict["accuracy"] == pytest.approx(7 / 12)
    ranking = Ranking(("a", "b", "c", "d"), (-3.0, -2.0, -1.0, -4.0), (1, 1, 1, 1), 0.0, 0)
    ranked = Prediction("v10", "", ranking, "C", records[0].details)
    assert task.score([ranked], "likelihood").summary["accuracy"] == 1


def test_frames_that_the_authors_ship_take_the_place_of_videos(data, draw, predicted):
    for kind, folder in ((10, "ssv2_8_frame"), (11, "kitchen_8_frame"), (12, "breakfast_8_frame")):
        for number in range(1, 9):
            draw(data / "seed" / "v1_video" / f"task{kind}" / folder / f"v{kind}" / f"{number}.png")
    for folder, name in VIDEOS.values():
        (data / "seed" / "videos" / folder / name).unlink()
    samples = task_named("seed").load(data, "video", "letter")
    assert [image.name for image in samples[0].images] == [f"{number}.png" for number in range(1, 9)]
    assert {image.parent.name for image in samples[2].images} == {"v12"}
    summary = score_directory(predicted("seed", data))["protocols"]["first_char"]["summary"]
    assert summary["from_shipped_frames"] == 3
    with pytest.raises(ValueError, match="3 of 12 images or videos are missing"):
        plan_task(task_named("seed"), Settings(data, data / "run", prompt="letter_4_frames"), {})


def test_the_submission_has_a_line_for_each_question(data, predicted, tmp_path, answered):
    path = write_submission(predicted("seed", data), tmp_path / "out")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["question_id"] for line in lines] == [*(f"10{kind}" for kind in range(1, 10)), "v10", "v11", "v12"]
    samples = task_named("seed").load(data, "all", "letter")
    task_named("seed").submission(answered("seed", data, {sample.id: "b. thing" for sample in samples}), tmp_path)
    assert json.loads((tmp_path / "seed.jsonl").read_text().splitlines()[0]) == {
        "question_id": "101",
        "prediction": "B",
    }


@pytest.mark.parametrize(
    ("kind", "changes", "problem"),
    [
        (1, {"answer": "E"}, "the answer 'E' to a question of type 1"),
        (1, {"data_type": "video"}, "'question_type_id' 1 with 'data_type' 'video'"),
        (1, {"choice_c": " "}, "'choice_c' is empty"),
        (11, {"segment": [3.0, 1.0]}, r"'segment' is \[3.0, 1.0\]"),
        (11, {"segment": [1, 3]}, "11 has seconds"),
        (12, {"segment": [1.0, 3.0]}, "12 has frames"),
        (12, {"data_id": "/etc/passwd"}, "not a file under the image root"),
        (1, {"question_id": "x\ud83d"}, "'question_id' is not valid Unicode"),
    ],
)
def test_a_broken_question_names_file_and_record(data, kind, changes, problem):
    annotations(data, [question(2), question(kind, **changes)])
    with pytest.raises(ValueError, match=rf"SEED-Bench\.json, record 2.*{problem}"):
        task_named("seed").load(data, "all", "letter")


def test_a_broken_list_of_types_names_the_file(data):
    path = data / "seed" / "SEED-Bench.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"question_type": {TYPES[0]: [1]}}))
    with pytest.raises(
        ValueError, match=r"SEED-Bench\.json, question_type: 'Scene Understanding' is \[1\], not an int"
    ):
        task_named("seed").load(data, "all", "letter")


def test_a_missing_video_stops_before_any_prediction(data):
    (data / "seed" / "videos" / "breakfast" / VIDEOS[12][1]).unlink()
    with pytest.raises(ValueError, match=r"1 of 12 images or videos are missing, first .*P06\.avi"):
        plan_task(task_named("seed"), Settings(data, data / "run"), {})
    plan_task(task_named("seed"), Settings(data, data / "run", split="image"), {})
