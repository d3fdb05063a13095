"""A run on several ranks is the run on one."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_config, tiny_model
from training.rank_programs import (
    Layout,
    Run,
    assert_same_curve,
    compiled,
    curve,
    four_ranks,
    new_mesh,
    train_with_checkpoints,
    two_ranks,
    waits_in_each_group,
)
from training.ranks import run_ranks, start_ranks

from owl2.training.checkpoint.safetensors_storage import read_tensors
from owl2.training.distributed.parallelize import blocks_of
from owl2.training.stages import INSTRUCTION_TUNING_PARTS, PRETRAINING_PARTS

pytestmark = pytest.mark.usefixtures("alone")

ONE = Layout()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def on_two(directory: Path, alone: None) -> list[dict[str, Any]]:
    train_with_checkpoints(directory / "one", ONE, 2, save_at=[2])
    return run_ranks(2, two_ranks, directory)


@pytest.mark.parametrize("name", ["data", "data, 2 micro-batches", "tensor", "replicas"])
def test_two_ranks_learn_what_one_learns_whatever_images_each_has(name: str, on_two: list[dict[str, Any]]) -> None:
    wanted = curve(ONE, INSTRUCTION_TUNING_PARTS)
    for of_rank in on_two:
        assert_same_curve(of_rank[name], wanted, 1e-5)


@pytest.mark.parametrize("name", ["data, stage 1", "tensor, stage 1"])
def test_a_frozen_language_model_on_two_ranks_too(name: str, on_two: list[dict[str, Any]]) -> None:
    wanted = curve(ONE, PRETRAINING_PARTS)
    for of_rank in on_two:
        assert_same_curve(of_rank[name], wanted, 1e-5)


def test_norms_of_query_and_key_heads_learn_from_the_heads_of_all_tensor_ranks(on_two: list[dict[str, Any]]) -> None:
    wanted = curve(Layout(config={"qk_norm": True}), INSTRUCTION_TUNING_PARTS)
    assert_same_curve(on_two[1]["tensor, qk norm"], wanted, 1e-5)


def test_a_checkpoint_of_one_rank_goes_on_on_two_and_of_two_on_tensor_ranks(on_two: list[dict[str, Any]]) -> None:
    wanted = [loss for loss, _ in curve(ONE, INSTRUCTION_TUNING_PARTS)]
    for name in ("one to two", "two to tensor"):
        found = [loss for loss, _ in on_two[0][name]]
        torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-6, atol=1e-6)


def test_a_checkpoint_of_two_ranks_holds_what_one_rank_learnt(on_two: list[dict[str, Any]], directory: Path) -> None:
    one, two = (read_tensors(directory / name / "step-00000002") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_two_ranks_resume_bit_for_bit_random_states_included(on_two: list[dict[str, Any]]) -> None:
    for of_rank in on_two:
        assert of_rank["two again"] == of_rank["two"]


@pytest.mark.slow
@pytest.mark.parametrize("parts", [PRETRAINING_PARTS, INSTRUCTION_TUNING_PARTS], ids=["stage 1", "stage 2"])
def test_four_ranks_as_shards_by_tensor_or_by_replicas_learn_what_one_learns(
    parts: tuple[str, ...], tmp_path: Path
) -> None:
    layouts = [Layout(shards=2, tensor=2), Layout(shards=2, replicas=2), Layout(shards=4)]
    wanted = curve(ONE, parts)
    for of_rank in run_ranks(4, four_ranks, layouts, parts, tmp_path):
        for found in of_rank:
            assert_same_curve(found, wanted, 1e-5)
    resumed = train_with_checkpoints(tmp_path, ONE, 4)
    losses = [[loss for loss, _ in each] for each in (resumed, curve(ONE, INSTRUCTION_TUNING_PARTS))]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-6, atol=1e-6)


def test_bfloat16_learns_nearly_the_same_with_float32_weights() -> None:
    wanted = curve(ONE, INSTRUCTION_TUNING_PARTS)
    layout = Layout(dtype=torch.bfloat16)
    assert_same_curve(curve(layout, INSTRUCTION_TUNING_PARTS), wanted, 0.1)
    run = Run(new_mesh(layout), layout, PRETRAINING_PARTS)
    run.step(0)
    assert {parameter.dtype for parameter in run.optimizer.parameters.values()} == {torch.float32}
    assert run.model.lm_head.weight.dtype == torch.bfloat16  # frozen: kept as it is computed with


def test_the_layers_of_all_three_parts_are_units_of_their_own() -> None:
    model = tiny_model(tiny_config())
    assert [type(block).__name__ for block in blocks_of(model)] == (
        ["Owl2VisionLayer"] * 2 + ["Owl2AbstractorLayer"] * 2 + ["Owl2DecoderLayer"] * 2
    )


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_compiled_layers_learn_the_same_with_a_few_graphs_for_all_shapes(
    recompute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[object] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    aot_eager = torch._dynamo.lookup_backend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counting))
    torch._dynamo.reset()
    config = {"num_hidden_layers": 4}
    wanted = curve(Layout(config=config), INSTRUCTION_TUNING_PARTS)
    found = curve(Layout(config=config, recompute=recompute, compile=True), INSTRUCTION_TUNING_PARTS)
    assert_same_curve(found, wanted, 1e-5)
    assert 3 <= len(graphs) <= 16  # and not some for each layer
    assert not torch._dynamo.utils.counters["unimplemented"] and not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
def test_a_rank_waits_for_another_no_longer_than_twice_the_stall_limit() -> None:
    processes, pipes = start_ranks(2, waits_in_each_group, 4.0)
    try:
        assert pipes[0].poll(120)
        succeeded, told = pipes[0].recv()
        assert succeeded and len(told) == 3 and all("8000ms" in words for words in told), told
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.slow
def test_compiled_layers_learn_the_same_sharded_over_two_ranks() -> None:
    wanted = curve(ONE, INSTRUCTION_TUNING_PARTS, steps=3)
    for found in run_ranks(2, compiled, Layout(shards=2, compile=True), INSTRUCTION_TUNING_PARTS, limit_s=1200):
        assert_same_curve(found, wanted, 1e-5)
