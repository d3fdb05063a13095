"""`owl2 attention`: an answer, where it looked, and everything that is written of it."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from owl2.analysis.attention.figures import default_layers, spans
from owl2.analysis.attention.on_image import attention_on_image
from owl2.analysis.attention.study import image_map, study_answer
from owl2.checkpoints.loading import load_for_chat
from owl2.cli.main import app


def test_each_row_is_of_the_position_that_predicts_the_token(model_directory, picture):
    model, processor = load_for_chat(model_directory)
    study = study_answer(model, processor, "What colour?", [Image.open(picture)], max_new_tokens=3)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(**study.inputs, output_attentions=True)
    start = study.prompt_length - 1
    expected = torch.stack(outputs.attentions).mean(2)[:, :, start : start + len(study.tokens)]
    torch.testing.assert_close(study.attention.weights, expected)
    predicted = outputs.logits[0, start : start + len(study.tokens)].argmax(-1)
    assert torch.equal(predicted, study.inputs["input_ids"][0, study.prompt_length :])
    prompt = torch.stack(outputs.attentions).mean(2)[:, :, 1 : study.prompt_length].mean(2, keepdim=True)
    torch.testing.assert_close(study.average.weights, prompt)


def test_the_map_of_the_first_token_is_the_attention_of_the_prompts_end(model_directory, picture):
    model, processor = load_for_chat(model_directory)
    study = study_answer(model, processor, "What colour?", [Image.open(picture)], max_new_tokens=2)
    prompt = {
        key: value if key == "pixel_values" else value[:, : study.prompt_length] for key, value in study.inputs.items()
    }
    torch.testing.assert_close(image_map(model, study, token=0), attention_on_image(model, prompt).on_image)


def test_pictures_are_marked_where_their_tokens_are():
    assert spans(torch.tensor([False, True, True, False, True])) == [(1, 2), (4, 4)]
    assert spans(torch.tensor([False])) == []
    assert default_layers(32) == [0, 16, 31] and default_layers(2) == [0, 1]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["attention", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command_writes_figures_and_numbers_that_agree(model_directory, picture, tmp_path):
    out = tmp_path / "out"
    question = ("--prompt", "What colour?", "--image", picture, "--max-new-tokens", 2, "--groups", 2)
    code, output = run("--model", model_directory, *question, "--out", out)
    assert code == 0, output
    for name in ("figure_4", "figure_5", "shares", "image"):
        assert (out / f"{name}.png").stat().st_size > 5000 and (out / f"{name}.svg").is_file()
    found = json.loads((out / "attention.json").read_text())
    assert set(found["conditions"]) == {"matching", "unrelated", "blank", "none"}
    assert found["conditions"]["none"]["visual_tokens"] == 0
    assert found["conditions"]["none"]["shares_by_layer"]["vision_enrichment"] == [None, None]
    assert len(found["image"]["occlusion"]) == 2
    rows = pq.read_table(out / "attention.parquet").to_pylist()
    model = next(iter(found["models"].values()))
    assert len(rows) == len(found["layers_drawn"]) * len(model["tokens"])
    first = [row for row in rows if row["layer"] == 0]
    share = sum(sum(a for a, v in zip(r["attention"], r["is_vision"], strict=True) if v) for r in first) / len(first)
    assert model["shares_by_layer"]["vision"][0] == pytest.approx(share, abs=1e-5)


def test_text_alone_has_no_maps(model_directory, tmp_path):
    code, output = run("--model", model_directory, "--prompt", "Hello", "--out", tmp_path, "--max-new-tokens", 2)
    assert code == 0, output
    assert (tmp_path / "figure_4.png").is_file() and not (tmp_path / "image.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", " "), "the question is empty"),
        (("--prompt", "x", "--layers", "0,9"), "there is no layer 9: the decoder has 2"),
        (("--prompt", "x", "--layers", "a"), "--layers takes whole numbers"),
        (("--prompt", "x", "--image", "absent.png"), "absent.png"),
        (("--prompt", "x", "--max-new-tokens", "100000"), "more than the context"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(model_directory, tmp_path, arguments, message):
    code, output = run("--model", model_directory, *arguments, "--out", tmp_path / "out")
    assert code == 2 and message in output and len(output.strip().splitlines()) == 1


def test_models_that_are_compared_stand_side_by_side(model_directory, tmp_path):
    shutil.copytree(model_directory, tmp_path / "other" / "checkpoint")
    other = ("--compare", tmp_path / "other" / "checkpoint")
    code, output = run("--model", model_directory, *other, "--prompt", "Hi", "--out", tmp_path, "--max-new-tokens", 2)
    assert code == 0, output
    one, two = json.loads((tmp_path / "attention.json").read_text())["models"].items()
    assert (one[0], two[0]) == ("run/checkpoint", "other/checkpoint") and one[1] == two[1]
