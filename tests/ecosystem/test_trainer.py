"""The model trains in `Trainer` of transformers and in `SFTTrainer` of TRL."""

from pathlib import Path
from typing import Any

import pytest
import torch

from owl2 import Owl2ForConditionalGeneration, Owl2Processor
from owl2.labels import IGNORE_INDEX

accelerate = pytest.importorskip("accelerate")
from transformers import Trainer, TrainingArguments  # noqa: E402

SETTINGS = dict(
    learning_rate=3e-3,
    lr_scheduler_type="constant",
    logging_steps=1,
    report_to=[],
    use_cpu=True,
    save_strategy="no",
    disable_tqdm=True,
    dataloader_pin_memory=False,
)


def encoded(processor: Owl2Processor, conversations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [processor.encode_conversation(record["messages"], record["images"]) for record in conversations]


def losses(trainer: Trainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_trainer_lowers_the_loss_with_the_processor_as_collator(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, conversations: list[dict[str, Any]], tmp_path: Path
) -> None:
    samples = encoded(processor, conversations)
    samples.append(processor.encode_text("the cat sits on the mat"))  # batches may mix both
    arguments = TrainingArguments(
        str(tmp_path), max_steps=12, per_device_train_batch_size=5, gradient_checkpointing=True, **SETTINGS
    )
    trainer = Trainer(model, arguments, train_dataset=samples, data_collator=processor.pad)
    trainer.train()
    found = losses(trainer)
    assert found[-1] < 0.7 * found[0]

    trainer.save_model(str(tmp_path / "trained"))
    again = Owl2ForConditionalGeneration.from_pretrained(tmp_path / "trained")
    for one, other in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_trainer_accumulates_micro_batches_of_unequal_length_as_one_batch(
    directory: Path, processor: Owl2Processor, conversations: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Each supervised token weighs the same, however many share its micro-batch (`num_items_in_batch`)."""
    conversations[0]["messages"][1]["content"][0]["text"] = "red, red, red, and nothing else but red"
    samples = encoded(processor, conversations)
    weights = []
    for size, accumulation in ((4, 1), (1, 4)):
        model = Owl2ForConditionalGeneration.from_pretrained(directory)
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            **SETTINGS,
        )
        Trainer(model, arguments, train_dataset=samples, data_collator=processor.pad).train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


class TestSFTTrainer:
    @pytest.fixture(autouse=True)
    def _needs_trl(self) -> None:
        pytest.importorskip("trl")
        pytest.importorskip("datasets")

    def trainer(self, model: Any, processor: Owl2Processor, records: list[dict[str, Any]], out: Path) -> Any:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        arguments = SFTConfig(
            str(out), max_steps=12, per_device_train_batch_size=4, max_length=None, bf16=False, **SETTINGS
        )
        data = Dataset.from_list(records)
        return SFTTrainer(model, arguments, train_dataset=data, processing_class=processor)

    def test_it_trains_on_images_and_messages(
        self,
        model: Owl2ForConditionalGeneration,
        processor: Owl2Processor,
        conversations: list[dict[str, Any]],
        tmp_path: Path,
    ) -> None:
        trainer = self.trainer(model, processor, conversations, tmp_path)
        batch = next(iter(trainer.get_train_dataloader()))
        assert batch["pixel_values"].shape[0] == 4
        rows = batch["mm_token_type_ids"] != 0
        assert rows.sum() == 4 * model.config.tokens_per_image
        trainer.train()
        found = losses(trainer)
        assert found[-1] < 0.7 * found[0]

    def test_visual_rows_are_never_learnt_although_it_labels_them(
        self,
        model: Owl2ForConditionalGeneration,
        processor: Owl2Processor,
        conversations: list[dict[str, Any]],
        tmp_path: Path,
    ) -> None:
        trainer = self.trainer(model, processor, conversations, tmp_path)
        batch = next(iter(trainer.get_train_dataloader()))
        masked = batch["labels"].masked_fill(batch["mm_token_type_ids"] != 0, IGNORE_INDEX)
        with torch.no_grad():
            as_given, as_masked = model(**batch).loss, model(**{**batch, "labels": masked}).loss
        assert torch.equal(as_given, as_masked)
