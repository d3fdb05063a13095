"""The quickstart from end to end; every finished step is kept, so that a second run continues."""

import json
import platform
import random
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from owl2.analysis.attention.on_image import attention_on_image
from owl2.checkpoints import initialize, load_tokenizer
from owl2.data.records import turns
from owl2.data.sources import easy_vqa
from owl2.data.training_set import PixelStore, TrainingSet
from owl2.directory_lock import only_process_in
from owl2.evaluation.inference.generation import answer, contains_answer, perplexity
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2ImageProcessor, Owl2Processor
from owl2.training.loop import progress_bar, train_stage
from owl2.training.monitoring.process_memory import release_free_memory
from owl2.training.precision import fastest_training_dtype
from owl2.training.stages import INSTRUCTION_TUNING_PARTS, PRETRAINING_PARTS, select_trainable

from . import texts
from .language_model import convert_smollm2, train_language_model
from .presets import PRESETS, Preset
from .report import write_report

STATE, METRICS = "run.json", "metrics.json"
STEPS = ("language_model", "stage1", "checkpoint")
"""Directories, each with what a step made."""


class Quickstart:
    """One run in one directory.

    Raises:
        ValueError: there is no such preset, or the directory holds a run of another one or something else.
    """

    def __init__(self, preset: str, directory: Path, console: Console) -> None:
        if preset not in PRESETS:
            raise ValueError(f"There is no preset {preset!r}; choose among {', '.join(PRESETS)}.")
        self.preset: Preset = PRESETS[preset]
        self.directory = directory
        self.console = console
        self.started = time.perf_counter()
        directory.mkdir(parents=True, exist_ok=True)
        self.state = self._read_state()
        self.dtype = getattr(torch, self.state["dtype"])

    def run(self) -> dict[str, Any]:
        """Everything that is not done yet. Returns the metrics.

        Raises:
            ValueError: another process works on this run.
        """
        with only_process_in(self.directory):
            return self._finish()

    def _finish(self) -> dict[str, Any]:
        language_model = self._once(STEPS[0], self._make_language_model)
        stage1 = self._once(STEPS[1], lambda target: self._pretrain(language_model, target))
        checkpoint = self._once(STEPS[2], lambda target: self._tune(stage1, target))
        metrics = self._measure(language_model, checkpoint)
        write_report(self.directory, metrics, self.preset.name)
        return metrics

    def finished_metrics(self) -> dict[str, Any] | None:
        """What the run measured, if it is finished."""
        files = self.directory / METRICS, self.directory / "report.md"
        return _read_json(files[0]) if all(file.is_file() for file in files) else None

    def _read_state(self) -> dict[str, Any]:
        if (self.directory / STATE).is_file():
            state = _read_json(self.directory / STATE)
            if state.get("preset") != self.preset.name:
                raise ValueError(
                    f"{self.directory} holds a run of the preset {state.get('preset')}; choose another --out for "
                    f"{self.preset.name}."
                )
            return state
        foreign = [name for name in (*STEPS, METRICS, "metrics.jsonl") if (self.directory / name).exists()]
        if foreign:
            raise ValueError(
                f"{self.directory} holds {', '.join(foreign)}, but no quickstart began there ({STATE} is missing): "
                "choose another --out."
            )
        dtype = str(fastest_training_dtype(torch.device("cpu"))).removeprefix("torch.")
        state = {
            "preset": self.preset.name,
            "dtype": dtype,
            "recipe": json.loads(json.dumps(self.preset._asdict(), default=lambda value: value._asdict())),
            "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "pillow")},
            "python": platform.python_version(),
            "seconds": {},
        }
        self._write(STATE, state)
        return state

    def _write(self, name: str, value: dict[str, Any]) -> None:
        """Writes a file as a whole: a run that is killed leaves none that is cut off."""
        partial = self.directory / f"{name}.partial"
        partial.write_text(json.dumps(value, indent=2) + "\n")
        partial.replace(self.directory / name)

    def _once(self, name: str, make: Callable[[Path], None]) -> Path:
        """Makes a directory of the run unless it is there; a half-made one has another name."""
        target, partial = self.directory / name, self.directory / f"{name}.partial"
        if target.is_dir():
            self.console.print(f"[green]kept[/green] {target}, made before")
            return target
        make(partial)
        partial.rename(target)
        release_free_memory()
        self._add_seconds(name)
        return target

    def _add_seconds(self, name: str) -> None:
        now = time.perf_counter()
        seconds = self.state["seconds"]
        seconds[name] = round(seconds.get(name, 0.0) + now - self.started, 2)
        self.started = now
        self._write(STATE, self.state)

    def keep_time(self) -> None:
        """Counts the time of a step that was interrupted."""
        self._add_seconds("interrupted")

    def _make_language_model(self, target: Path) -> None:
        if self.preset.language_model is None:
            self.console.print("Language model: SmolLM2-135M-Instruct, dequantised from its GGUF file.")
            convert_smollm2(target)
        else:
            assert self.preset.text is not None, "a preset with sizes of a language model has a text stage"
            self.console.print("Language model: a small LLaMA, trained on text on the spot.")
            train_language_model(self.preset.language_model, self.preset.text, target, self.directory, self.dtype)

    def _pretrain(self, language_model: Path, target: Path) -> None:
        torch.manual_seed(self.preset.pretraining.seed)
        model = initialize(language_model, vision_config=self.preset.vision, abstractor_config=self.preset.abstractor)
        processor = self._new_processor(language_model, model)
        pairs = easy_vqa.pairs(easy_vqa.load_questions("train"))
        pixels = PixelStore(processor, [pair.image for pair in pairs], self.dtype)
        data = TrainingSet([processor.encode_pair(pair.caption) for pair in pairs], [[p.image] for p in pairs], pixels)
        self._train("stage 1", model, processor, data, PRETRAINING_PARTS, self.preset.pretraining)
        _save(model, processor, target)

    def _tune(self, stage1: Path, target: Path) -> None:
        model, processor = _load(stage1, torch.float32)
        questions = easy_vqa.thinned(easy_vqa.load_questions("train"))
        conversations = easy_vqa.conversations(questions, max_questions=self.preset.questions_per_conversation)
        pixels = PixelStore(processor, [name for item in conversations for name in item.images], self.dtype)
        samples = [processor.encode_conversation(item.messages, with_pixels=False) for item in conversations]
        images: list[tuple[Any, ...]] = [item.images for item in conversations]
        text = [processor.encode_conversation(turns([exchange])) for exchange in texts.instructions()]
        text += [processor.encode_text(passage) for passage in texts.passages("train")]
        wanted = round(self.preset.text_share * len(samples))
        repeated = random.Random(0).choices(text, k=wanted) if wanted > len(text) else text
        data = TrainingSet([*samples, *repeated], [*images, *[()] * len(repeated)], pixels)
        self._train("stage 2", model, processor, data, INSTRUCTION_TUNING_PARTS, self.preset.instruction_tuning)
        _save(model, processor, target)

    def _train(self, name: str, model: Any, processor: Any, data: Any, parts: Any, settings: Any) -> None:
        counts = select_trainable(model, parts)
        table = Table(title=f"{name}: {len(data)} samples, {settings.steps} steps of {settings.batch_size}")
        table.add_column("part")
        table.add_column("parameters", justify="right")
        table.add_column("trains")
        for part, count in counts.items():
            table.add_row(part.replace("_", " "), f"{count:,}", "yes" if part in parts else "frozen")
        self.console.print(table)
        model.to(self.dtype)
        model.set_attn_implementation("eager")  # at these lengths faster to train on a CPU than SDPA
        train_stage(
            name,
            model,
            processor,
            data,
            settings,
            self.directory,
            lambda model, batch: model(**batch, supervised_logits_only=True).loss,
        )
        model.set_attn_implementation("sdpa")
        model.float()

    def _new_processor(self, language_model: Path, model: Owl2ForConditionalGeneration) -> Owl2Processor:
        size = model.config.vision_config.image_size
        image_processor = Owl2ImageProcessor(size={"height": size, "width": size})
        return Owl2Processor(
            image_processor, load_tokenizer(language_model), num_image_tokens=model.config.tokens_per_image
        )

    def _measure(self, language_model: Path, checkpoint: Path) -> dict[str, Any]:
        """Accuracy with and without the image, and language before and after."""
        model, processor = _load(checkpoint, self.dtype)
        questions = easy_vqa.load_questions("test")
        replies = self._answer(model, processor, questions)
        gold = [question.answer for question in questions]
        unique = list(dict.fromkeys(question.question for question in questions))
        blind = dict(zip(unique, answer(model, processor, unique), strict=True))
        majority = easy_vqa.majority_answer(easy_vqa.load_questions("train"))
        language = {"after": self._language(model, processor)}
        start = initialize(language_model, vision_config=self.preset.vision, abstractor_config=self.preset.abstractor)
        language["before"] = self._language(start.to(self.dtype), processor)
        self._keep_answers(questions, replies)
        self._keep_attention(model, processor, questions, replies)
        self._add_seconds("measuring")
        metrics = {
            "preset": self.preset.name,
            "accuracy": _share(reply == right for reply, right in zip(replies, gold, strict=True)),
            "accuracy_blind": _share(blind[item.question] == item.answer for item in questions),
            "accuracy_majority": _share(majority == right for right in gold),
            "accuracy_by_kind": _by_kind(gold, replies),
            "questions": len(questions),
            **{f"perplexity_{when}": language[when]["perplexity"] for when in ("before", "after")},
            **{f"facts_{when}": language[when]["facts"] for when in ("before", "after")},
            "fact_questions": len(texts.facts()),
            "fact_answers": {when: language[when]["answers"] for when in ("before", "after")},
            "seconds": round(sum(self.state["seconds"].values()), 1),
            "seconds_by_step": self.state["seconds"],
            "peak_memory_bytes": peak_memory_bytes(),
            "dtype": self.state["dtype"],
            "threads": torch.get_num_threads(),
        }
        self._write(METRICS, metrics)
        return metrics

    def _answer(self, model: Any, processor: Any, questions: list[easy_vqa.Question]) -> list[str]:
        pixels = PixelStore(processor, [question.image for question in questions], self.dtype)
        with progress_bar() as progress:
            bar = progress.add_task("test", total=len(questions), loss="", speed="questions")
            return answer(
                model,
                processor,
                [question.question for question in questions],
                [question.image for question in questions],
                pixels,
                batch_size=self.preset.evaluation_batch_size,
                on_batch=lambda done: progress.advance(bar, done),
            )

    def _language(self, model: Any, processor: Any) -> dict[str, Any]:
        facts = texts.facts()
        replies = answer(model, processor, [fact.question for fact in facts], max_new_tokens=24)
        return {
            "perplexity": round(perplexity(model, processor, texts.passages("heldout")), 4),
            "facts": sum(contains_answer(reply, fact.answers) for reply, fact in zip(replies, facts, strict=True)),
            "answers": {fact.question: reply for fact, reply in zip(facts, replies, strict=True)},
        }

    def _keep_answers(self, questions: list[easy_vqa.Question], replies: list[str]) -> None:
        with (self.directory / "answers.jsonl").open("w") as file:
            for question, reply in zip(questions, replies, strict=True):
                record = {"id": question.id, "question": question.question, "answer": question.answer, "reply": reply}
                file.write(json.dumps({**record, "image": Path(question.image).name}) + "\n")

    def _keep_attention(
        self, model: Any, processor: Any, questions: list[easy_vqa.Question], replies: list[str]
    ) -> None:
        """Attention of one answer about the shape, a right one if there is any, for the report."""
        about_shape = [index for index, item in enumerate(questions) if item.answer in easy_vqa.SHAPES]
        right = [index for index in about_shape if replies[index] == questions[index].answer]
        shown = (right or about_shape)[0]
        question = questions[shown]
        messages = turns([(question.question, "")], num_images=1)[:1]
        prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=prompt, images=question.image, return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        found = attention_on_image(model, dict(inputs))
        record = {
            "image": question.image,
            "question": question.question,
            "reply": replies[shown],
            "on_image": found.on_image.tolist(),
            "per_layer": found.per_layer.tolist(),
        }
        (self.directory / "attention.json").write_text(
            json.dumps({**record, "image": Path(question.image).name}) + "\n"
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}. Remove {file.parent} to run again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} is damaged: it holds no settings. Remove {file.parent} to run again.")
    return value


def peak_memory_bytes() -> int:
    """Most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _share(flags: Any) -> float:
    flags = list(flags)
    return round(sum(flags) / len(flags), 4)


def _by_kind(gold: list[str], replies: list[str]) -> dict[str, float]:
    kinds = {"yes or no": ("yes", "no"), "shape": easy_vqa.SHAPES, "color": easy_vqa.COLORS}
    return {
        kind: _share(reply == right for right, reply in zip(gold, replies, strict=True) if right in words)
        for kind, words in kinds.items()
    }


def _save(model: Owl2ForConditionalGeneration, processor: Owl2Processor, directory: Path) -> None:
    model.save_pretrained(directory)
    processor.save_pretrained(directory)


def _load(directory: Path, dtype: torch.dtype) -> tuple[Owl2ForConditionalGeneration, Owl2Processor]:
    model = Owl2ForConditionalGeneration.from_pretrained(directory, dtype=dtype)
    return model, Owl2Processor.from_pretrained(directory)
