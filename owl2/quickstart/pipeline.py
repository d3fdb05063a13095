"""The quickstart from end to end; every finished step is kept, so that a second run continues."""

import json
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from owl2.analysis.attention.on_image import attention_on_image
from owl2.analysis.language import answer, language
from owl2.checkpoints import initialize
from owl2.data.records import turns
from owl2.data.sources import easy_vqa, english
from owl2.directory_lock import only_process_in
from owl2.evaluation.task import Sample
from owl2.files import read_json_object, write_whole
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor
from owl2.recipes import find_recipe
from owl2.training.monitoring.process_memory import release_free_memory
from owl2.training.precision import fastest_training_dtype
from owl2.training.recipe.yaml_file import load_recipe
from owl2.training.run import train
from owl2.training.run_directory import RunDirectory

from .measurement import accuracy_by_kind, blind_answers, share
from .presets import PRESETS, Preset, check_preset
from .report import write_report
from .smollm2 import convert_smollm2

STATE, METRICS = "run.json", "metrics.json"
TEXT, VISION, STAGE1, STAGE2 = "text", "vision", "stage1", "stage2"
"""The run directories of `owl2 train`."""

LANGUAGE_MODEL, CHECKPOINT = "language_model", "checkpoint"
"""The models that the stages begin and end with."""


class Interrupted(Exception):
    """The user stopped the run; all steps that were done are saved."""


class Quickstart:
    """One run in one directory.

    Args:
        preset: Name of a preset.
        directory: Where everything goes.
        console: Where progress is shown.
        seed: Seed of all stages.

    Raises:
        ValueError: There is no such preset, or the directory holds another run or something else.
    """

    def __init__(self, preset: str, directory: Path, console: Console, seed: int = 0) -> None:
        check_preset(preset)
        self.preset: Preset = PRESETS[preset]
        self.directory, self.console, self.seed = directory, console, seed
        self.started, self.started_processor = time.perf_counter(), time.process_time()
        directory.mkdir(parents=True, exist_ok=True)
        self.state = self._read_state()
        self.dtype = getattr(torch, self.state["dtype"])

    def run(self) -> dict[str, Any]:
        """Runs everything that is not done yet, and returns the metrics.

        Raises:
            ValueError: Another process works on this run.
            Interrupted: Ctrl-C or SIGTERM, after the step in progress was saved.
        """
        with only_process_in(self.directory):
            language_model = self._language_model()
            changes = [f"model.initialize.language_model={language_model}"]
            if self.preset.vision is not None:
                vision = self._trained(VISION, self.preset.vision)
                changes.append(f"model.initialize.vision_encoder={vision}")
            stage1 = self._trained(STAGE1, self.preset.pretraining, *changes)
            checkpoint = self._once(CHECKPOINT, lambda target: self._tune(stage1, target))
            metrics = self._measure(language_model, checkpoint)
            write_report(self.directory, metrics, self.preset.name)
            return metrics

    def finished_metrics(self) -> dict[str, Any] | None:
        """The metrics of the run, if it is finished."""
        files = self.directory / METRICS, self.directory / "report.md"
        return _read_state_file(files[0]) if all(file.is_file() for file in files) else None

    def keep_costs(self) -> None:
        """Counts the time and memory of a step that was interrupted."""
        self._add_costs("interrupted")

    def _read_state(self) -> dict[str, Any]:
        if (self.directory / STATE).is_file():
            state = _read_state_file(self.directory / STATE)
            for name, own in (("preset", self.preset.name), ("seed", self.seed)):
                if state.get(name) != own:
                    raise ValueError(
                        f"{self.directory} holds a run of the {name} {state.get(name)}; choose another --out for {own}"
                    )
            return state
        named = (LANGUAGE_MODEL, TEXT, VISION, STAGE1, STAGE2, CHECKPOINT, METRICS)
        foreign = [name for name in named if (self.directory / name).exists()]
        if foreign:
            raise ValueError(
                f"{self.directory} holds {', '.join(foreign)}, but no quickstart began there ({STATE} is missing): "
                "choose another --out"
            )
        state = {
            "preset": self.preset.name,
            "seed": self.seed,
            "dtype": str(_dtype_of(self.preset)).removeprefix("torch."),
            "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "pillow")},
            "python": platform.python_version(),
            "seconds": {},
            "processor_seconds": 0.0,
            "peak_memory_bytes": 0,
        }
        self._write(STATE, state)
        return state

    def _write(self, name: str, value: dict[str, Any]) -> None:
        write_whole(self.directory / name, json.dumps(value, indent=2) + "\n")

    def _once(self, name: str, make: Callable[[Path], None]) -> Path:
        """Makes a directory of the run unless it exists; an unfinished one has another name."""
        target, partial = self.directory / name, self.directory / f"{name}.partial"
        if target.is_dir():
            self.console.print(f"[green]kept[/green] {target}, made before")
            return target
        make(partial)
        partial.rename(target)
        release_free_memory()
        self._add_costs(name)
        return target

    def _trained(self, name: str, recipe: str, *changes: str) -> Path:
        """The model that a recipe makes in the run directory `name`.

        Args:
            changes: Keys of the recipe with their new values.
        """
        run = RunDirectory(self.directory / name)
        if run.is_finished:
            self.console.print(f"[green]kept[/green] {run.model}, made before")
            return run.model
        precision = "bf16" if self.dtype == torch.bfloat16 else "fp32"
        own = (f"out={run.path}", f"seed={self.seed}", f"precision={precision}")
        if not train(load_recipe(find_recipe(recipe), [*own, *changes]), self.console):
            raise Interrupted(f"stopped in {name}; everything is saved")
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # a finished run needs them no more
        release_free_memory()
        self._add_costs(name)
        return run.model

    def _add_costs(self, name: str) -> None:
        """Adds the seconds since the last call to those of a step, in the state that all processes of the run share."""
        now, processor = time.perf_counter(), time.process_time()
        state, seconds = self.state, self.state["seconds"]
        seconds[name] = round(seconds.get(name, 0.0) + now - self.started, 2)
        state["processor_seconds"] = round(state["processor_seconds"] + processor - self.started_processor, 1)
        state["peak_memory_bytes"] = max(state["peak_memory_bytes"], peak_memory_bytes())
        self.started, self.started_processor = now, processor
        self._write(STATE, state)

    def _language_model(self) -> Path:
        if self.preset.text is None:
            self.console.print("Language model: SmolLM2-135M-Instruct, dequantized from its GGUF file.")
            return self._once(LANGUAGE_MODEL, convert_smollm2)
        self.console.print("Language model: a small LLaMA, trained on text on the spot.")
        return self._trained(TEXT, self.preset.text)

    def _tune(self, stage1: Path, target: Path) -> None:
        trained = self._trained(STAGE2, self.preset.instruction_tuning, f"model.checkpoint={stage1}")
        shutil.copytree(trained, target, copy_function=_link_or_copy, dirs_exist_ok=True)

    def _measure(self, language_model: Path, checkpoint: Path) -> dict[str, Any]:
        """Accuracy with and without the image, and language before and after."""
        model = Owl2ForConditionalGeneration.from_pretrained(checkpoint, dtype=self.dtype)
        processor = Owl2Processor.from_pretrained(checkpoint)
        questions = easy_vqa.load_questions("test")
        replies = self._answer(model, processor, questions)
        gold = [question.answer for question in questions]
        asked = [question.question for question in questions]
        blind = blind_answers(model, processor, asked, self.preset.evaluation_batch_size)
        majority = easy_vqa.majority_answer(easy_vqa.load_questions("train"))
        after = language(model, processor)
        before = language(self._at_the_start(language_model, model), processor)
        self._keep_answers(questions, replies)
        self._keep_attention(model, processor, questions, replies)
        self._add_costs("measuring")
        metrics = {
            "preset": self.preset.name,
            "seed": self.seed,
            "accuracy": share(reply == right for reply, right in zip(replies, gold, strict=True)),
            "accuracy_blind": share(blind[item.question] == item.answer for item in questions),
            "accuracy_majority": share(majority == right for right in gold),
            "accuracy_by_kind": accuracy_by_kind(gold, replies),
            "questions": len(questions),
            "perplexity_before": before["perplexity"],
            "perplexity_after": after["perplexity"],
            "facts_before": before["facts"],
            "facts_after": after["facts"],
            "fact_questions": len(english.facts()),
            "fact_answers": {"before": before["answers"], "after": after["answers"]},
            "seconds": round(sum(self.state["seconds"].values()), 1),
            "seconds_by_step": self.state["seconds"],
            "processor_seconds": self.state["processor_seconds"],
            "peak_memory_bytes": self.state["peak_memory_bytes"],
            "dtype": self.state["dtype"],
            "threads": torch.get_num_threads(),
        }
        self._write(METRICS, metrics)
        return metrics

    def _at_the_start(self, language_model: Path, model: Owl2ForConditionalGeneration) -> Owl2ForConditionalGeneration:
        """A new mPLUG-Owl2 of the language model, with the sizes of a trained one."""
        config = model.config
        start = initialize(
            language_model, vision_config=config.vision_config, abstractor_config=config.abstractor_config
        )
        return start.to(self.dtype)

    def _answer(
        self, model: Owl2ForConditionalGeneration, processor: Owl2Processor, questions: list[easy_vqa.Question]
    ) -> list[str]:
        samples = [Sample(item.id, item.question, item.answer, images=(Path(item.image),)) for item in questions]
        columns = (TextColumn("test questions"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=self.console) as progress:
            bar = progress.add_task("test", total=len(samples))
            size = self.preset.evaluation_batch_size
            return answer(model, processor, samples, batch_size=size, on_batch=lambda done: progress.advance(bar, done))

    def _keep_answers(self, questions: list[easy_vqa.Question], replies: list[str]) -> None:
        with (self.directory / "answers.jsonl").open("w") as file:
            for question, reply in zip(questions, replies, strict=True):
                record = {"id": question.id, "question": question.question, "answer": question.answer, "reply": reply}
                file.write(json.dumps({**record, "image": Path(question.image).name}) + "\n")

    def _keep_attention(
        self,
        model: Owl2ForConditionalGeneration,
        processor: Owl2Processor,
        questions: list[easy_vqa.Question],
        replies: list[str],
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
            "image": Path(question.image).name,
            "question": question.question,
            "reply": replies[shown],
            "on_image": found.on_image.tolist(),
            "per_layer": found.per_layer.tolist(),
        }
        (self.directory / "attention.json").write_text(json.dumps(record) + "\n")


def _dtype_of(preset: Preset) -> torch.dtype:
    """The precision of a preset's last stage; "auto" is decided once for all stages."""
    precision = load_recipe(find_recipe(preset.instruction_tuning), []).precision
    if precision == "auto":
        return fastest_training_dtype(torch.device("cpu"))
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _read_state_file(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file, "settings of a run")
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}. Remove {file.parent} to run again") from error


def _link_or_copy(source: str, target: str) -> str:
    """A second name for a file, which takes no space; a copy where the file system has none."""
    try:
        Path(target).hardlink_to(source)
    except FileExistsError:
        pass
    except OSError:
        shutil.copy2(source, target)
    return target


def peak_memory_bytes() -> int:
    """The largest amount of memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
