"""TRL's trainers on the directory of a model, with images: supervised, on preferences, and with rewards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version

from owl2 import Owl2ForConditionalGeneration, Owl2Processor
from owl2.labels import IGNORE_INDEX

trl = pytest.importorskip("trl", exc_type=ImportError)
if Version(trl.__version__) < Version("1.0"):
    pytest.skip("earlier releases of TRL load only models of transformers itself by name", allow_module_level=True)
datasets = pytest.importorskip("datasets", exc_type=ImportError)
peft = pytest.importorskip("peft")
pytest.importorskip("accelerate")

SETTINGS: dict[str, Any] = dict(
    per_device_train_batch_size=2,
    max_steps=2,
    logging_steps=1,
    learning_rate=1e-3,
    report_to=[],
    use_cpu=True,
    bf16=False,
    save_strategy="no",
    disable_tqdm=True,
)


@pytest.fixture
def questions(conversations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`images` and a `prompt` of one turn, in text as most data sets have it."""
    return [{"images": each["images"], "prompt": [{"role": "user", "content": "Colour?"}]} for each in conversations]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def changed(trainer: Any, directory: Path) -> set[str]:
    """First parts of the names of the parameters that training changed."""
    before = dict(Owl2ForConditionalGeneration.from_pretrained(directory).named_parameters())
    after = dict(trainer.model.named_parameters())
    return {
        name.split(".")[1] for name, each in after.items() if name in before and not torch.equal(each, before[name])
    }


def logged(trainer: Any, name: str) -> list[float]:
    return [line[name] for line in trainer.state.log_history if name in line]


def test_sft_takes_a_directory_and_learns_from_the_assistant_alone(
    directory: Path, processor: Owl2Processor, conversations: list[dict[str, Any]], tmp_path: Path
) -> None:
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(str(tmp_path), max_length=None, assistant_only_loss=True, **SETTINGS)
    trainer = SFTTrainer(str(directory), arguments, train_dataset=datasets.Dataset.from_list(conversations))
    assert isinstance(trainer.model, Owl2ForConditionalGeneration)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["pixel_values"].shape[0] == 2
    for labels in batch["labels"]:
        learnt = processor.tokenizer.decode([label for label in labels.tolist() if label != IGNORE_INDEX])
        assert learnt.strip() in {f"{each}</s>" for each in ("red", "blue", "white", "black")}
    trainer.train()
    assert len(logged(trainer, "loss")) == 2
    assert changed(trainer, directory) >= {"vision_tower", "language_model"}


def test_dpo_takes_a_directory_and_makes_its_own_reference(
    directory: Path, questions: list[dict[str, Any]], tmp_path: Path
) -> None:
    from trl import DPOConfig, DPOTrainer

    rows = [{**each, "chosen": said("Red."), "rejected": said("I do not know.")} for each in questions]
    arguments = DPOConfig(str(tmp_path), max_length=None, **SETTINGS)
    trainer = DPOTrainer(str(directory), args=arguments, train_dataset=datasets.Dataset.from_list(rows))
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # log 2: the model is its own reference
    assert losses[1] != losses[0]
    assert "vision_tower" in changed(trainer, directory)


def test_grpo_takes_a_directory_and_rewards_answers_to_images(
    directory: Path, questions: list[dict[str, Any]], tmp_path: Path
) -> None:
    from trl import GRPOConfig, GRPOTrainer

    def length(completions: list[Any], **_: Any) -> list[float]:
        return [float(len(each[0]["content"])) for each in completions]

    settings = SETTINGS | {"per_device_train_batch_size": 4}
    arguments = GRPOConfig(str(tmp_path), num_generations=2, max_completion_length=6, beta=0.1, **settings)
    rows = [{"image": each["images"][0], "prompt": each["prompt"]} for each in questions]
    trainer = GRPOTrainer(
        str(directory), reward_funcs=length, args=arguments, train_dataset=datasets.Dataset.from_list(rows)
    )
    trainer.train()
    assert len(logged(trainer, "reward")) == 2
    assert "vision_tower" in changed(trainer, directory)


@pytest.mark.parametrize("reentrant", [True, False])
def test_adapters_of_the_vision_encoder_learn_when_layers_are_recomputed(
    model: Owl2ForConditionalGeneration,
    processor: Owl2Processor,
    conversations: list[dict[str, Any]],
    reentrant: bool,
) -> None:
    batch = processor.pad([processor.encode_conversation(each["messages"], each["images"]) for each in conversations])

    def gradients(recompute: bool) -> dict[str, torch.Tensor | None]:
        plain = Owl2ForConditionalGeneration(model.config)
        plain.load_state_dict(model.state_dict())
        if recompute:
            plain.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            plain.enable_input_require_grads()
        torch.manual_seed(0)
        adapted = peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).train()
        adapted(**batch).loss.backward()
        return {name: each.grad for name, each in adapted.named_parameters() if each.requires_grad}

    expected, found = gradients(False), gradients(True)
    assert any("vision_tower" in name for name in found) and any("abstractor" in name for name in found)
    for name, gradient in found.items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, expected[name], msg=name)
