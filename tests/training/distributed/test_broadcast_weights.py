"""One rank reads the weights of a run, and the others hold no more of them than they keep."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training.rank_programs import Layout, begin_on_each_rank, in_turn, received_weights, refusals
from training.ranks import run_ranks
from training.tiny_recipes import curve, run_recipe, run_recipes, stop_after_two

MANY_LAYERS = "model.initialize.language_model.num_hidden_layers=8"
WIDE = ("model.initialize.language_model.hidden_size=64", "model.initialize.language_model.intermediate_size=64")
"""4 bits need rows of 64 weights."""

STAGES = ("pretrain", "instruct")
TIED = {"tie_word_embeddings": True}
LAYOUTS = {
    "sharded": Layout(shards=2),
    "tensor": Layout(tensor=2, config={"qk_norm": True}),
    "replicated": Layout(replicas=2, config={"num_hidden_layers": 1}),
    "sharded, tied head": Layout(shards=2, config=TIED),
    "tensor, tied head": Layout(tensor=2, config=TIED),
}

VISION_PARTS = "train.parts=[vision_encoder, abstractor, decoder_vision]"
ADAPTERS = ("train.lora.rank=4", "train.lora.alpha=8", "train.lora.dropout=0", VISION_PARTS)
KINDS: dict[str, tuple[str, ...]] = {
    "adapters": ADAPTERS,
    "adapters on 4 bits": (*ADAPTERS, *WIDE, "train.quantization=int4"),
    "bfloat16": ("precision=bf16",),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def on_two_ranks(data: Path, directory: Path) -> dict[str, list[Any]]:
    """What each of two ranks returns, by the name of what it did."""
    runs = [
        ("instruct", directory / name, (*overrides, "batch.micro_batch_size=8")) for name, overrides in KINDS.items()
    ]
    calls: dict[str, tuple[Any, ...]] = {
        **{stage: (begin_on_each_rank, data, stage, directory / stage, [MANY_LAYERS]) for stage in STAGES},
        **{name: (received_weights, layout) for name, layout in LAYOUTS.items()},
        "refusal": (refusals, data, directory / "refusal", ["model.checkpoint=missing"]),
        "muon": (refusals, data, directory / "muon", ["optimizer.vision_optimizer=muon"]),
        "runs": (run_recipes, data, runs),
    }
    of_ranks = run_ranks(2, in_turn, *calls.values())
    return dict(zip(calls, zip(*of_ranks, strict=True), strict=True))


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_first_rank_reads_weights_and_the_other_holds_what_it_keeps_and_one_tensor(
    stage: str, on_two_ranks: dict[str, list[Any]]
) -> None:
    first, other = on_two_ranks[stage]
    assert first["read"] == 1 and first["peak"] > first["whole"]
    assert other["read"] == 0
    assert other["peak"] < other["kept"] + 2 * other["largest"] + 2 * other["told"]
    if stage == "instruct":  # everything is sharded
        assert other["peak"] < 0.7 * other["whole"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_weight_arrives_as_it_was_read(name: str, on_two_ranks: dict[str, list[Any]]) -> None:
    tied = bool(LAYOUTS[name].config.get("tie_word_embeddings"))
    for of_rank in on_two_ranks[name]:
        assert of_rank == {"different": [], "without content": [], "tied": tied, "warned": 0}


@pytest.mark.slow
def test_every_weight_arrives_on_four_ranks() -> None:
    layouts = [Layout(shards=2, tensor=2), Layout(replicas=2, tensor=2), Layout(shards=4)]
    for of_rank in run_ranks(4, in_turn, *((received_weights, layout) for layout in layouts)):
        assert of_rank == [{"different": [], "without content": [], "tied": False, "warned": 0}] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_learn_what_one_learns_with(
    kind: str, data: Path, directory: Path, on_two_ranks: dict[str, list[Any]], tmp_path: Path
) -> None:
    if kind.startswith("adapters"):
        pytest.importorskip("peft")
    run_recipe(data, "instruct", tmp_path / "one", *KINDS[kind])
    found, wanted = (torch.tensor(curve(out)) for out in (directory / kind, tmp_path / "one"))
    tolerance = 2e-2 if kind == "bfloat16" else 1e-5  # sums of another order, rounded
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_a_model_that_the_first_rank_cannot_read_ends_all_ranks_with_the_reason(
    on_two_ranks: dict[str, list[Any]],
) -> None:
    for said in on_two_ranks["refusal"]:
        assert said == "ValueError: model.checkpoint: there is no missing; point it to yours with model.checkpoint=DIR"


def test_muon_refuses_matrices_that_are_sharded(on_two_ranks: dict[str, list[Any]]) -> None:
    for said in on_two_ranks["muon"]:
        assert "optimizer.vision_optimizer=muon updates whole matrices, but model.vision_tower." in said
        assert "Use adamw, or parallel.data_shards=1" in said


def weights_file(directory: Path) -> Path:
    return directory / "model.safetensors"


def test_going_on_where_everything_trains_needs_no_weights_but_the_checkpoints(data: Path, tmp_path: Path) -> None:
    run_recipe(data, "pretrain", tmp_path / "first", "schedule.steps=1")
    base, start = tmp_path / "base", f"model.checkpoint={tmp_path / 'base'}"
    shutil.copytree(tmp_path / "first" / "checkpoint", base)
    run_recipe(data, "instruct", tmp_path / "whole", start)
    stop_after_two(data, "instruct", tmp_path / "run", start)
    weights_file(base).unlink()
    finished, printed = run_recipe(data, "instruct", tmp_path / "run", start)
    assert finished and "resumes after step 2 of 3" in printed
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


@pytest.mark.parametrize("stage", STAGES)
def test_going_on_with_a_new_model_needs_nothing_outside_the_run_directory(
    stage: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from owl2.training.model import build

    run_recipe(data, stage, tmp_path / "whole", "precision=bf16")
    stop_after_two(data, stage, tmp_path / "run", "precision=bf16")

    def unreachable(*arguments: Any) -> Any:
        raise AssertionError("the language model is read again")

    monkeypatch.setattr(build, "_initialize", unreachable)
    run_recipe(data, stage, tmp_path / "run", "precision=bf16")
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    one, other = (load_file(weights_file(tmp_path / name / "checkpoint")) for name in ("run", "whole"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_of_a_start_that_came_to_nothing_is_not_taken_for_that_of_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_length 4 leaves no room for text beside the 4 rows"):
        run_recipe(data, "instruct", tmp_path / "run", "data.max_length=4", "data.packing.length=96")
    (tmp_path / "run" / "initial").mkdir(parents=True)
    (tmp_path / "run" / "initial" / "of-another-recipe").touch()
    run_recipe(data, "instruct", tmp_path / "run", "schedule.steps=1")
    assert {file.name for file in (tmp_path / "run" / "initial").iterdir()} >= {"config.json", "model.safetensors"}
    assert not (tmp_path / "run" / "initial" / "of-another-recipe").exists()


def test_checkpoints_that_vanish_while_a_run_starts_do_not_leave_it_without_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("owl2.training.run.complete_steps", lambda directory: [1])
    with pytest.raises(ValueError, match="were removed while the run was starting"):
        run_recipe(data, "instruct", tmp_path / "run")
