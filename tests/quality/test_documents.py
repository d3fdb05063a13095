"""The Python examples of the pages on image quality run, and do what the pages say."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from quality_helpers import picture, quality_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from owl2.cli.main import app
from owl2.quality import QualityScorer

DOCS = Path(__file__).parents[2] / "docs" / "use"


def blocks_of(page: str, directory: Path) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8").replace('"DIR"', repr(str(directory)))
    found = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert found
    return found


def test_the_page_on_image_quality(model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anchors").mkdir()
    for index, name in enumerate(("picture.png", "cat.png", "anchors/a.png", "anchors/b.png")):
        picture(index).save(name)
    frames = [picture(index, 16, 16) for index in range(4)]
    frames[0].save("clip.mp4", format="GIF", save_all=True, append_images=frames[1:], duration=500)
    names: dict[str, Any] = {}
    for block in blocks_of("quality.md", model_directory):
        exec(block, names)


def test_the_metric_for_pyiqa_takes_batches_and_gives_gradients(model_directory: Path) -> None:
    names: dict[str, Any] = {}
    exec(blocks_of("quality-in-pyiqa.md", model_directory)[0], names)
    metric = names["Owl2Quality"]()
    images = torch.rand(3, 3, 40, 50, requires_grad=True)
    scores = metric(images)
    scores.sum().backward()
    assert scores.shape == (3,) and images.grad is not None and images.grad.any()


def small_pyiqa() -> dict[str, ModuleType]:
    """What the page uses of pyiqa 0.1.16, which needs torchvision: its registry, and how it makes a metric."""
    root, configs, registry = (ModuleType(f"pyiqa{name}") for name in ("", ".default_model_configs", ".utils.registry"))
    kinds: dict[str, type] = {}

    class Metric(torch.nn.Module):
        def __init__(self, name: str, as_loss: bool = False) -> None:
            super().__init__()
            options = dict(configs.DEFAULT_CONFIGS[name]["metric_opts"])
            self.net, self.as_loss = kinds[options.pop("type")](**options), as_loss

        def forward(self, target: Any) -> torch.Tensor:
            if not torch.is_tensor(target):
                target = torch.from_numpy(np.array(Image.open(target))).permute(2, 0, 1).unsqueeze(0) / 255
            with torch.set_grad_enabled(self.as_loss):
                return self.net(target).mean() if self.as_loss else self.net(target)

    configs.DEFAULT_CONFIGS = {}
    registry.ARCH_REGISTRY = SimpleNamespace(register=lambda: lambda kind: kinds.setdefault(kind.__name__, kind))
    root.create_metric = Metric
    return {"pyiqa": root, "pyiqa.utils": ModuleType("pyiqa.utils")} | {
        each.__name__: each for each in (configs, registry)
    }


def test_pyiqa_makes_the_metric_of_the_page(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("pyiqa") is None:
        for name, module in small_pyiqa().items():
            monkeypatch.setitem(sys.modules, name, module)
    names: dict[str, Any] = {}
    for block in blocks_of("quality-in-pyiqa.md", model_directory):
        exec(block, names)
    images = torch.rand(2, 3, 40, 50)
    expected = QualityScorer.from_pretrained(model_directory)(images)
    assert torch.equal(names["metric"](images), expected) and not names["metric"](images).requires_grad
    assert names["metric"](images[:, :1]).shape == (2,)  # grey
    picture(1).save(tmp_path / "photo.png")
    assert names["metric"](str(tmp_path / "photo.png")).shape == (1,)
    beyond = (images * 1.001 - 0.0005).requires_grad_()
    names["loss"](beyond).backward()
    assert beyond.grad is not None and beyond.grad.any()


def test_the_filter_keeps_what_scores_high(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "laion" / "00000"
    folder.mkdir(parents=True)
    for index in range(6):
        picture(index).save(folder / f"{index}.jpg")
        (folder / f"{index}.txt").write_text(f"caption {index}\n")
    (folder / "broken.jpg").write_bytes(b"x")
    options = ["--aspect", "quality", "--aspect", "aesthetics", "--out", "scores.csv"]
    assert CliRunner().invoke(app, ["quality", "-m", str(model_directory), "laion", *options]).exit_code == 0
    names: dict[str, Any] = {}
    exec(blocks_of("filter-by-quality.md", model_directory)[0], names)
    kept = [json.loads(line) for line in Path("kept.jsonl").read_text().splitlines()]
    found = QualityScorer.from_pretrained(model_directory).ratings(sorted(folder.glob("?.jpg")), list(names["LOWEST"]))
    enough = (found["quality"].scores >= 3.0) & (found["aesthetics"].scores >= 2.5)
    assert [row["caption"] for row in kept] == [f"caption {index}" for index in enough.nonzero()[:, 0].tolist()]


def test_grpo_takes_the_reward(model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks_of("quality-as-reward.md", model_directory):
        exec(block, names)
    picture(1).save("dark.png")
    rewards = names["quality_reward"](["?", "?"], ["good good", "bad"], ["dark.png"] * 2)
    assert len(rewards) == 2 and rewards[0] != rewards[1]
    tokenizer = quality_tokenizer()
    sizes = dict(vocab_size=320, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0)).save_pretrained("policy")
    tokenizer.save_pretrained("policy")
    before = LlamaForCausalLM.from_pretrained("policy").state_dict()
    # Other tokens than these two seldom say "good", and equal rewards teach nothing.
    said = tokenizer(" good bad", add_special_tokens=False)["input_ids"]
    rows = [{"prompt": "make it", "picture": "dark.png"}] * 4
    settings = trl.GRPOConfig(
        output_dir="grpo",
        num_generations=4,
        per_device_train_batch_size=4,
        max_completion_length=6,
        generation_kwargs={"suppress_tokens": [token for token in range(320) if token not in said]},
        max_steps=1,
        learning_rate=0.1,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    trainer = trl.GRPOTrainer(
        model=LlamaForCausalLM.from_pretrained("policy"),
        processing_class=tokenizer,
        reward_funcs=names["quality_reward"],
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
    )
    trainer.train()
    log = trainer.state.log_history[0]
    assert 1 <= log["rewards/quality_reward/mean"] <= 5 and log["rewards/quality_reward/std"] > 0
    after = trainer.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
