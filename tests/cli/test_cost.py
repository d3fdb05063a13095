"""`owl2 cost`: what a run takes, before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

RECIPES = Path(__file__).parents[2] / "owl2" / "recipes"


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """The paper's model, all of it trained, on few tokens at a time."""
    recipe: dict[str, Any] = {
        "stage": "instruct",
        "model": {"initialize": {"language_model": "not/there", "vision_encoder": "neither"}},
        "data": {
            "sources": {"records": {"format": "records", "path": "records.json"}},
            "image_size": 448,
            "max_length": 2048,
        },
        "train": {
            "parts": ["vision_encoder", "abstractor", "decoder_vision", "decoder_text", "decoder_shared", "embeddings"]
        },
        "optimizer": {"learning_rate": 2e-5},
        "schedule": {"steps": 4800, "warmup_steps": 250},
        "batch": {"global_batch_size": 256, "micro_batch_size": 4},
    }
    path = tmp_path / "big.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def cost(owl2, *arguments: object, code: int = 0) -> dict[str, Any]:
    result = owl2("cost", *arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_the_papers_stages_take_712_and_60_hours_of_an_h100_at_half_its_peak(owl2) -> None:
    one = cost(owl2, RECIPES / "pretrain.yaml", "--gpus", 8, "--mfu", 0.5)
    two = cost(owl2, RECIPES / "instruct.yaml", "--gpus", 8, "--mfu", 0.5)
    assert one["training_flops"] / 1e18 == pytest.approx(1267, abs=1)
    assert two["training_flops"] / 1e18 == pytest.approx(106.6, abs=0.1)
    assert [round(each["gpu_hours"]) for each in (one, two)] == [712, 60]
    assert one["fits"] and two["fits"]


def test_parameters_are_those_of_the_paper(owl2) -> None:
    parameters = cost(owl2, RECIPES / "instruct.yaml", "--gpus", 8)["parameters"]
    assert sum(parameters["all"].values()) == 8_197_859_328
    frozen_language_model = cost(owl2, RECIPES / "pretrain.yaml", "--gpus", 8)["parameters"]
    assert frozen_language_model["trained"]["decoder_shared"] == 0
    assert sum(frozen_language_model["trained"].values()) == pytest.approx(1.46e9, rel=0.01)


def test_what_does_not_fit_is_said_with_what_to_change(owl2, big: Path) -> None:
    result = owl2("cost", big)
    assert result.exit_code == 2
    assert "IT DOES NOT FIT" in result.stdout and "note" not in result.stderr
    assert "not/there was not found: the sizes of LLaMA-2-7B are assumed" in result.stdout

    report = cost(owl2, big, code=2)
    assert report["advice"] and all(after < report["memory_bytes"] for after in report["advice"].values())
    change, after = next(iter(report["advice"].items()))
    overrides = [word.strip("'") if word[0] == "'" else word.replace("'", "") for word in change.split()]
    changed = cost(owl2, big, *overrides)
    assert changed["fits"] and changed["memory_bytes"] == pytest.approx(after)


def test_more_gpus_take_less_memory_each_and_less_time(owl2, big: Path) -> None:
    two, eight = (
        cost(owl2, big, "batch.micro_batch_size=1", "--gpus", gpus, code=code) for gpus, code in ((2, 2), (8, 0))
    )
    assert eight["memory_bytes"] < two["memory_bytes"] / 2
    assert eight["hours"] == pytest.approx(two["hours"] / 4)


def test_a_small_recipe_fits_anywhere(owl2) -> None:
    report = owl2("cost", RECIPES / "small" / "pretrain.yaml", "--gpu", "l4")
    assert report.exit_code == 0 and "it fits" in report.stdout


def test_wrong_numbers_are_refused(refused, big: Path) -> None:
    assert "no GPU 'h900' in the table; choose among b200, h200" in refused("cost", big, "--gpu", "h900")
    assert "MFU of 1.5" in refused("cost", big, "--mfu", 1.5)
    assert "nan tokens" in refused("cost", big, "--text-tokens", "nan")
    assert "inf images" in refused("cost", big, "--images", "inf")
    assert "40 images take more than data.max_length 2048" in refused("cost", big, "--images", 40)
    assert "there is no key batch.micro_sise; did you mean batch.micro_batch_size?" in refused(
        "cost", big, "batch.micro_sise=1"
    )
