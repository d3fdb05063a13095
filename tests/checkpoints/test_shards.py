"""Weights that are converted, initialised and merged shard by shard are those of the same work in memory."""

import gc
import json
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import GOLDENS, tiny_config, tiny_model
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from owl2 import Owl2ImageProcessor, Owl2Processor
from owl2.checkpoints import convert as converting
from owl2.checkpoints import initialize, save_official, shards
from owl2.checkpoints.convert import convert, open_model, write_model
from owl2.checkpoints.drawn_later import random_parameters
from owl2.checkpoints.initialize import _new_model
from owl2.checkpoints.initialize_stored import open_new_model
from owl2.checkpoints.lazy_tensors import in_precision, mapped
from owl2.checkpoints.shards import ShardProgress, plan_shards
from owl2.checkpoints.small_language_model import SMALLEST_VOCABULARY, train_tokenizer
from owl2.cli.main import app
from owl2.files import WEIGHTS_MANIFEST
from owl2.modeling import CheckpointError, Owl2Config, Owl2ForConditionalGeneration

SHARD = 30_000
VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
VISION |= dict(image_size=16, patch_size=4)
ABSTRACTOR = dict(intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, num_learnable_queries=3)
LLAMA = dict(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4)

forked = multiprocessing.get_context("fork").Process
"""For work that is killed or limited; the import of torch is not repeated."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same(folder: Path, expected: Path) -> None:
    """The same weights bit by bit, and the same settings."""
    found, wanted = weights(folder), weights(expected)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not (found[name].dtype == wanted[name].dtype)] == []
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    for file in expected.glob("*config.json"):
        assert settings_of(folder / file.name) == settings_of(file)


def settings_of(file: Path) -> dict[str, Any]:
    """Those of a JSON file; `from_pretrained` notes the type of numbers for each part of a model too."""
    settings = json.loads(file.read_text())
    for part in ("text_config", "vision_config", "abstractor_config"):
        settings.get(part, {}).pop("dtype", None)
    return settings


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def both_layouts(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """One model as it is written from memory in our layout and in the official one."""
    text = dict(hidden_size=64, num_attention_heads=4, head_dim=16, tie_word_embeddings=request.param)
    model = tiny_model(tiny_config(**text))
    model.save_pretrained(tmp_path / "ours")
    save_official(model, tmp_path / "official")
    return tmp_path / "ours", tmp_path / "official"


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "ours", max_shard_size=SHARD)
    return tmp_path / "ours"


def test_a_model_is_converted_to_what_is_written_from_memory(both_layouts: tuple[Path, Path], tmp_path: Path) -> None:
    ours, official = both_layouts
    convert(ours, tmp_path / "to_official", "official", shard_bytes=SHARD)
    assert_same(tmp_path / "to_official", official)
    convert(tmp_path / "to_official", tmp_path / "back", shard_bytes=SHARD)
    assert_same(tmp_path / "back", ours)
    assert len(list((tmp_path / "back").glob("model-*.safetensors"))) > 3
    Owl2ForConditionalGeneration.from_pretrained(tmp_path / "back")


def test_a_precision_is_converted_as_from_pretrained_does(ours: Path, tmp_path: Path) -> None:
    Owl2ForConditionalGeneration.from_pretrained(ours, dtype=torch.bfloat16).save_pretrained(tmp_path / "expected")
    convert(ours, tmp_path / "half", dtype=torch.bfloat16, shard_bytes=SHARD)
    assert_same(tmp_path / "half", tmp_path / "expected")


def test_bin_shards_of_the_official_code_are_read(tmp_path: Path) -> None:
    source = GOLDENS / "published_settings"
    state = load_file(source / "model.safetensors")
    folder = tmp_path / "official"
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    names = sorted(state)
    files = {f"pytorch_model-0000{n + 1}-of-00002.bin": names[n::2] for n in range(2)}
    for file, kept in files.items():
        torch.save({name: state[name] for name in kept}, folder / file)
    index = {"weight_map": {name: file for file, kept in files.items() for name in kept}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    Owl2ForConditionalGeneration.from_pretrained(folder, dtype="auto").save_pretrained(tmp_path / "expected")
    convert(folder, tmp_path / "converted", shard_bytes=SHARD)
    assert_same(tmp_path / "converted", tmp_path / "expected")


def test_the_resolution_changes_as_in_memory(ours: Path, tmp_path: Path) -> None:
    model = Owl2ForConditionalGeneration.from_pretrained(ours)
    model.set_image_size(24)
    model.save_pretrained(tmp_path / "expected")
    write_model(open_model(ours).with_image_size(24), tmp_path / "resized")
    assert_same(tmp_path / "resized", tmp_path / "expected")
    with pytest.raises(ValueError, match="image_size 23"):
        open_model(ours).with_image_size(23)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories of a language model in several shards, a whole CLIP, the vision part of one, an mPLUG-Owl2."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**LLAMA)).save_pretrained(folder / "llama", max_shard_size=4000)
    CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(folder / "vision")
    text = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    text |= dict(bos_token_id=0, eos_token_id=1)
    CLIPModel(CLIPConfig(vision_config=VISION, text_config=text)).save_pretrained(folder / "clip")
    initialize(folder / "llama", folder / "clip", abstractor_config=ABSTRACTOR).save_pretrained(folder / "owl2")
    return folder


@pytest.mark.parametrize(
    ("language_model", "clip", "settings"),
    [
        ("llama", "clip", {"vision_config": {"image_size": 32}}),
        ("llama", "vision", {"dtype": torch.bfloat16}),
        ("llama", None, {"vision_config": VISION}),
        ("llama", "clip", {"modality_adaptive": (), "controls": {"kv_adapter_rank": 3}}),
        ("llama", "clip", {"modality_adaptive": ("ffn", "q")}),
        ("owl2", "clip", {}),
    ],
    ids=["whole CLIP", "bfloat16", "random vision", "adapters of a control", "other parts", "text half"],
)
def test_a_new_model_is_that_of_initialize(
    parts: Path, language_model: str, clip: str | None, settings: dict[str, Any], tmp_path: Path
) -> None:
    arguments = (parts / language_model, None if clip is None else parts / clip)
    torch.manual_seed(5)
    initialize(*arguments, abstractor_config=ABSTRACTOR, **settings).save_pretrained(tmp_path / "expected")
    generator = torch.get_rng_state()
    torch.manual_seed(5)
    model = open_new_model(*arguments, abstractor_config=ABSTRACTOR, **settings)
    assert torch.equal(torch.get_rng_state(), generator), "what is drawn next is the same too"
    write_model(model, tmp_path / "stored", shard_bytes=SHARD)
    assert_same(tmp_path / "stored", tmp_path / "expected")


@pytest.mark.parametrize("text", [{}, {"tie_word_embeddings": True}, {"modality_adaptive": (), "kv_adapter_rank": 5}])
def test_every_parameter_drawn_later_is_the_one_drawn_at_once(text: dict[str, Any]) -> None:
    config = tiny_config(**text)
    torch.manual_seed(3)
    expected = dict(_new_model(config).named_parameters())
    torch.manual_seed(3)
    drawn = random_parameters(config)
    assert drawn.keys() == expected.keys()
    for name in reversed(list(drawn)):  # in any order
        assert torch.equal(drawn[name].read(), expected[name]), name


@pytest.mark.parametrize("connector", ["abstractor", "mlp"])
def test_the_command_makes_the_model_that_python_makes(connector: str, parts: Path, tmp_path: Path) -> None:
    llama = Path(shutil.copytree(parts / "llama", tmp_path / "llama"))
    tokenizer = train_tokenizer(["a"], SMALLEST_VOCABULARY)
    tokenizer.save_pretrained(llama)
    options = ["--language-model", llama, "--vision-encoder", parts / "clip", "--image-size", 32, "--seed", 5]
    command = ["initialize", tmp_path / "new", *options, "--dtype", "float32", "--connector", connector]
    result = CliRunner().invoke(app, [str(each) for each in command])
    assert result.exit_code == 0, result.output
    torch.manual_seed(5)
    expected = initialize(llama, parts / "clip", vision_config={"image_size": 32}, connector=connector)
    expected.save_pretrained(tmp_path / "expected")
    assert_same(tmp_path / "new", tmp_path / "expected")
    processor = Owl2Processor.from_pretrained(tmp_path / "new")
    assert processor.num_image_tokens == {"abstractor": 65, "mlp": 64}[connector]
    assert processor.image_processor.size["height"] == 32
    command[command.index(llama)] = tmp_path / "nowhere"
    result = CliRunner().invoke(app, [str(each) for each in command])
    assert result.exit_code == 2 and "nowhere does not exist" in result.stderr


def test_parts_that_lack_weights_are_refused(parts: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parts / "llama", tmp_path / "llama"))
    index = folder / "model.safetensors.index.json"
    stored = json.loads(index.read_text())
    file = stored["weight_map"]["model.norm.weight"]
    stored["weight_map"] = {name: each for name, each in stored["weight_map"].items() if each != file}
    index.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match=r"lacks .* weights: .*model\.norm\.weight"):
        open_new_model(folder, parts / "clip", abstractor_config=ABSTRACTOR)
    with pytest.raises(ValueError, match="only a CLIP ViT"):
        open_new_model(parts / "llama", parts / "llama")
    with pytest.raises(ValueError, match="in memory"):
        open_new_model("model.gguf", parts / "clip")


def run_apart(work: Callable[[], object]) -> int:
    """Exit code of work in a process of its own; a signal is negative."""
    process = forked(target=work)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def killed_after(count: int) -> Callable[[ShardProgress], None]:
    """Kills this process when so many shards are complete."""
    seen: list[ShardProgress] = []

    def report(progress: ShardProgress) -> None:
        seen.append(progress)
        if len(seen) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    return report


def begun(source: Path, target: Path, count: int = 3) -> Path:
    """The partial folder of a conversion that was killed after so many shards."""
    work = lambda: convert(source, target, shard_bytes=SHARD, report=killed_after(count))  # noqa: E731
    assert run_apart(work) == -signal.SIGKILL
    assert not target.exists()
    return target.with_name(target.name + ".partial")


def finished(source: Path, target: Path) -> list[bool]:
    """Goes on with a conversion; says of each shard whether it was there."""
    seen: list[ShardProgress] = []
    convert(source, target, shard_bytes=SHARD, report=seen.append)
    assert_same(target, source)
    assert seen[-1].bytes == seen[-1].total and len(seen) == seen[0].of
    return [progress.was_there for progress in seen]


def test_a_killed_conversion_goes_on_at_the_next_shard(ours: Path, tmp_path: Path) -> None:
    begun(ours, tmp_path / "new")
    were_there = finished(ours, tmp_path / "new")
    assert were_there == [True] * 3 + [False] * (len(were_there) - 3) and len(were_there) > 6
    assert not (tmp_path / "new.partial").exists()


def test_a_shard_that_was_damaged_meanwhile_is_written_again(ours: Path, tmp_path: Path) -> None:
    partial = begun(ours, tmp_path / "new")
    file = sorted(partial.glob("model-*.safetensors"))[1]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert finished(ours, tmp_path / "new")[:4] == [True, False, True, False]


def test_what_was_begun_from_other_weights_is_begun_anew(ours: Path, tmp_path: Path) -> None:
    begun(ours, tmp_path / "new")
    tiny_model(seed=9).save_pretrained(ours, max_shard_size=SHARD)
    assert not any(finished(ours, tmp_path / "new"))


def test_a_folder_of_somebody_else_is_left_alone(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "diary.txt").write_text("mine")
    with pytest.raises(ValueError, match="move it away"):
        convert(ours, tmp_path / "new")
    assert (tmp_path / "new.partial" / "diary.txt").read_text() == "mine"


def test_a_source_that_changed_since_it_was_written_is_refused(ours: Path, tmp_path: Path) -> None:
    convert(ours, tmp_path / "first", shard_bytes=SHARD)
    file = sorted((tmp_path / "first").glob("model-*.safetensors"))[1]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{file.name} has changed since it was written"):
        convert(tmp_path / "first", tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_weights_that_are_saved_over_converted_ones_are_read(ours: Path, tmp_path: Path) -> None:
    convert(ours, tmp_path / "first")
    assert (tmp_path / "first" / WEIGHTS_MANIFEST).is_file()
    tiny_model(seed=9).save_pretrained(tmp_path / "first")
    convert(tmp_path / "first", tmp_path / "second")
    assert_same(tmp_path / "second", tmp_path / "first")


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the disk: to write beyond it fails in the same way."""
    monkeypatch.setattr(shards, "SHARD_BYTES", SHARD)
    for function in (convert, write_model):
        monkeypatch.setitem(function.__kwdefaults__, "shard_bytes", SHARD)
    tiny_processor(ours)
    convert(ours, tmp_path / "whole", shard_bytes=SHARD)
    sizes = [file.stat().st_size for file in sorted((tmp_path / "whole").glob("model-*.safetensors"))]
    lines, limit, fitting = tmp_path / "lines", max(sizes) - 1, sizes.index(max(sizes))
    command = ["export", str(ours), str(tmp_path / "new"), "--dtype", "float32"]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        result = CliRunner().invoke(app, command)
        lines.write_text(result.stderr)
        os._exit(result.exit_code)

    assert run_apart(limited) == 2
    last = lines.read_text().splitlines()[-1]
    assert last.startswith("owl2: error:") and "continues here" in last and "Traceback" not in lines.read_text()
    assert len(list((tmp_path / "new.partial").glob("model-*.safetensors"))) == fitting > 0
    assert not list((tmp_path / "new.partial").glob(".*"))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("was there") == fitting
    assert weights(tmp_path / "new").keys() == weights(ours).keys()


def tiny_processor(folder: Path) -> None:
    images = Owl2ImageProcessor(size={"height": 16, "width": 16})
    Owl2Processor(images, train_tokenizer(["a"], SMALLEST_VOCABULARY), num_image_tokens=4).save_pretrained(folder)


def test_too_little_room_is_said_before_anything_is_written(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"needs 0\.0 GB more"):
        convert(ours, tmp_path / "new")
    assert not list((tmp_path / "new.partial").glob("*.safetensors"))


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """`gc.get_objects` finds nothing that was there before, which takes long in a process with much in it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def live_bytes() -> int:
    """Memory of all new tensors that are alive, each storage once."""
    kinds = (torch.Tensor, torch.nn.Parameter)  # no subclasses: fake tensors hold no memory
    tensors = [each for each in gc.get_objects() if type(each) in kinds and each.device.type == "cpu"]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def test_no_more_than_a_shard_and_a_source_file_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_new_objects: None
) -> None:
    limit = 400_000
    model = tiny_model(tiny_config(num_hidden_layers=40, hidden_size=64, intermediate_size=160))
    model.save_pretrained(tmp_path / "ours", max_shard_size=limit)
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    del model
    peaks = []

    def measured(*arguments: Any) -> None:
        peaks.append(live_bytes())
        save_file(*arguments)

    save_file = shards.save_file
    monkeypatch.setattr(shards, "save_file", measured)
    convert(tmp_path / "ours", tmp_path / "official", "official", shard_bytes=limit)
    convert(tmp_path / "official", tmp_path / "back", shard_bytes=limit)
    assert size > 15 * limit and len(peaks) > 30
    assert max(peaks) < 2 * limit


def test_at_the_true_size_a_shard_and_the_work_on_a_tensor_take_less_than_6_gb() -> None:
    """The published model in bfloat16: 8,197,859,328 parameters."""
    parameters = dict(converting.meta_model(Owl2Config()).named_parameters())
    sizes = {name: parameter.numel() * 2 for name, parameter in parameters.items()}
    assert sum(sizes.values()) == 2 * 8_197_859_328
    files = plan_shards(sizes, shards.SHARD_BYTES)
    largest = max(sum(sizes[name] for name in names) for names in files.values())
    assert [name for names in files.values() for name in names] == list(sizes)
    # Work on one tensor: its float32 draw or product, the sum with the weight, and the copy for the file.
    assert len(files) == 9 and largest + 4 * 2 * max(sizes.values()) < 6 * 10**9


def test_lazy_tensors_know_their_shape_and_type_before_they_are_read(ours: Path) -> None:
    for tensor in in_precision(open_model(ours).tensors, torch.float16).values():
        halved = mapped(tensor, lambda values: values[: len(values) // 2])
        assert halved.like.is_meta and halved.read().shape == halved.like.shape
        assert halved.read().dtype == halved.like.dtype == torch.float16
