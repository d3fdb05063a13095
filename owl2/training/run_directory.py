"""The directory of a run: its recipe, versions, trainable table, metrics, checkpoints, and finally the model."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from owl2.files import write_whole
from owl2.training.recipe.renamed import with_present_names
from owl2.training.recipe.schema import Recipe
from owl2.training.recipe.yaml_file import differing_keys, dump_recipe, parse_recipe, read_yaml

_FREE_KEYS = (
    "out",
    "parallel.",
    "checkpoint.",
    "logging.",
    "evaluate.",
    "limits.",
    "batch.micro_batch_size",
    "data.workers",
)
"""Keys that may change when a run resumes: they do not decide what is learnt. (Dots end a section.)"""

_PACKAGES = ("owl2", "torch", "transformers", "tokenizers", "safetensors", "pillow", "numpy", "peft")


class RunDirectory:
    """The files of a run.

    Attributes:
        recipe: The resolved recipe.
        metrics: A JSON object for each step that counts: after resuming from a checkpoint no step occurs twice.
        evaluations: A JSON object for each evaluation.
        predictions: The model's answers to benchmarks, in a directory for each step.
        initial: The model at the first step, if the recipe makes a new one: frozen weights are only there.
        checkpoints: Checkpoints from which the run resumes.
        model: The trained model in the transformers layout, which exists when the run is finished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe, self.versions, self.table = path / "recipe.yaml", path / "versions.json", path / "trainable.json"
        self.metrics, self.evaluations = path / "metrics.jsonl", path / "evaluations.jsonl"
        self.predictions = path / "evaluations"
        self.initial, self.checkpoints, self.model = path / "initial", path / "checkpoints", path / "checkpoint"

    @property
    def is_finished(self) -> bool:
        return self.model.is_dir()

    def begin(self, recipe: Recipe, table: list[dict[str, Any]]) -> None:
        """Writes everything that is known before the first step."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.recipe, dump_recipe(recipe))  # whole: a run cannot resume without it
        write_whole(self.table, json.dumps(table, indent=1) + "\n")
        found = {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
        write_whole(self.versions, json.dumps(found, indent=1) + "\n")

    def read_recipe(self) -> Recipe | None:
        """The recipe that the run began with, if it has begun."""
        if not self.recipe.is_file():
            return None
        return parse_recipe(with_present_names(read_yaml(self.recipe)), str(self.recipe))

    def refuse_other(self, recipe: Recipe) -> None:
        """Refuses a directory that holds a run of another recipe, or a model or checkpoints that no recipe explains.

        Raises:
            ValueError: It does; the message names the keys that differ.
        """
        saved = self.read_recipe()
        if saved is None:
            found = [each.name for each in (self.model, self.checkpoints) if each.exists()]
            if found:
                raise ValueError(
                    f"{self.path} holds {' and '.join(found)}, but no run began there ({self.recipe.name} is missing): "
                    "choose another out=DIR"
                )
            return
        free = (*_FREE_KEYS, "precision") if recipe.precision == "auto" else _FREE_KEYS
        different = [line for line in differing_keys(saved, recipe) if not line.startswith(free)]
        if different:
            raise ValueError(
                f"{self.path} holds a run of another recipe (value there, value now): {'; '.join(different)}. "
                "Choose another out=DIR, or remove the directory to begin again"
            )

    def cut_metrics(self, sizes: dict[str, int]) -> None:
        """Removes lines that were written after the checkpoint from which the run resumes."""
        for file in (self.metrics, self.evaluations):
            if file.is_file():
                with file.open("r+b") as opened:
                    opened.truncate(sizes.get(file.name, 0))

    def metric_sizes(self) -> dict[str, int]:
        """The present sizes of the files of metrics, for `cut_metrics`."""
        files = (self.metrics, self.evaluations)
        return {file.name: file.stat().st_size if file.is_file() else 0 for file in files}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
