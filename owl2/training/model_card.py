"""The model card of an exported model, written from the files of its run: data, recipe, scores, licences, citation."""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from owl2.checkpoints.inspect import CheckpointReport, inspect_checkpoint
from owl2.data.mixture import load_mixture_recipe
from owl2.training.recipe.schema import Recipe

from .run_directory import RunDirectory

_UNKNOWN = "not stated in its directory: look it up before you publish"

_CITATION = """```bibtex
@inproceedings{ye2024mplugowl2,
  title = {{mPLUG-Owl2}: Revolutionizing Multi-modal Large Language Model with Modality Collaboration},
  author = {Ye, Qinghao and Xu, Haiyang and Ye, Jiabo and Yan, Ming and Hu, Anwen and Liu, Haowei and Qian, Qi and
            Zhang, Ji and Huang, Fei},
  booktitle = {CVPR},
  year = {2024}
}
```"""


def write_model_card(
    directory: Path,
    name: str,
    source: Path,
    run: RunDirectory | None = None,
    step: int | None = None,
    with_code: bool = False,
) -> None:
    """Writes `README.md` into a model directory.

    Paths of the recipe are shortened to their last part: the card says what was used, not where it was.

    Args:
        name: The title.
        run: The run that the model comes from; without it, the card says that its training is not known.
        step: The step of the checkpoint.
        with_code: Whether the directory loads with `trust_remote_code=True`.
    """
    report = inspect_checkpoint(directory)
    recipe = run.read_recipe() if run is not None else None
    sections = [
        f"# {name}",
        _summary(report),
        _usage(with_code),
        *([] if run is None or recipe is None else [_training(run, recipe, step), _scores(run, step), _recipe(recipe)]),
        *(["## Training\n\nNothing is recorded of how this model was trained."] if recipe is None else []),
        _licences(source, recipe, with_code),
        f"## Citation\n\n{_CITATION}",
    ]
    text = "\n\n".join(section for section in sections if section)
    (directory / "README.md").write_text(f"{_front_matter()}\n{text}\n", encoding="utf-8")


def _front_matter() -> str:
    fields = {"library_name": "transformers", "pipeline_tag": "image-text-to-text", "license": "other"}
    fields["license_name"] = "see-licences-of-the-parts"
    return f"---\n{yaml.safe_dump({**fields, 'tags': ['mplug-owl2', 'owl2']}, sort_keys=False)}---"


def _summary(report: CheckpointReport) -> str:
    config, total = report.config, sum(report.parameters.values())
    vision, text = config.vision_config, config.text_config
    connector = (
        "an MLP that makes a visual token of every patch"
        if config.connector == "mlp"
        else f"a visual abstractor with {config.tokens_per_image - 1} learnable queries"
    )
    return (
        f"An mPLUG-Owl2 of {total:,} parameters: a vision encoder of {vision.num_hidden_layers} layers for images of "
        f"{vision.image_size} x {vision.image_size} pixels, {connector}, and a "
        f"modality-adaptive language decoder of {text.num_hidden_layers} layers of {text.hidden_size} "
        f"with a context of {text.max_position_embeddings:,} tokens."
    )


def _usage(with_code: bool) -> str:
    remote = ", trust_remote_code=True" if with_code else ""
    first = "" if with_code else "import owl2  # pip install owl2\n"
    return (
        "## Use\n\n```python\n"
        f"{first}from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        f'model = AutoModelForImageTextToText.from_pretrained("DIR"{remote})\n'
        f'processor = AutoProcessor.from_pretrained("DIR"{remote})\n'
        "```" + ("\n\nThe directory has its code beside it: transformers is all that is needed." if with_code else "")
    )


def _training(run: RunDirectory, recipe: Recipe, step: int | None) -> str:
    start = recipe.model.checkpoint
    made = recipe.model.initialize
    if start is not None:
        began = f"the checkpoint {_last_part(start)}"
    else:
        assert made is not None
        language, vision = made.language_model, made.vision_encoder
        named = f"the language model {_last_part(language)}" if isinstance(language, str) else "a random language model"
        began = f"{named} and {f'the vision encoder {_last_part(vision)}' if vision else 'a random vision encoder'}"
    return "\n".join(
        [
            "## Training",
            "",
            f"Stage `{recipe.stage}`, {step if step is not None else recipe.schedule.steps} of {recipe.schedule.steps} "
            f"steps of {recipe.batch.global_batch_size} samples, from {began}. Trained parts: "
            f"{', '.join(recipe.train.parts) or 'none in full'}{' and LoRA' if recipe.train.lora else ''}.",
            "",
            "| data | format | file |",
            "|---|---|---|",
            *(f"| {name} | {format_} | {', '.join(files)} |" for name, format_, files in _sources(recipe)),
        ]
    )


def _sources(recipe: Recipe) -> Iterator[tuple[str, str, list[str]]]:
    """Name, format and files of each source; in place of a mixture, of those that it is made of."""
    for name, source in recipe.data.sources.items():
        if source.format == "mixture":
            assert source.path is not None, "the recipe demands it"
            try:
                parts = load_mixture_recipe(source.path).sources
            except (ValueError, OSError):  # its file is gone, or is not that of the run any more
                yield name, source.format, [_last_part(source.path)]
            else:
                for part in parts:
                    files = [value.name for value in part.arguments.values() if isinstance(value, Path)]
                    yield part.name, part.format, files
        else:
            yield name, source.format, [_last_part(source.path)] if source.path else []


def _scores(run: RunDirectory, step: int | None) -> str:
    """The scores of the last evaluation at or before the step."""
    lines = [line for line in _json_lines(run.evaluations) if step is None or line.get("step", 0) <= step]
    if not lines:
        return "## Scores\n\nThe run recorded no evaluation."
    rows = [
        f"| {name.removeprefix('tasks.').replace('.summary.', '.')} | {value:.4g} |"
        for name, value in _numbers(lines[-1])
        if name != "step"
    ]
    return "\n".join([f"## Scores\n\nAt step {lines[-1].get('step')}:\n", "| measure | value |", "|---|---|", *rows])


def _recipe(recipe: Recipe) -> str:
    text = yaml.safe_dump(_without_places(recipe.to_dict()), sort_keys=False, allow_unicode=True)
    return f"<details><summary>Recipe</summary>\n\n```yaml\n{text}```\n\n</details>"


def _licences(source: Path, recipe: Recipe | None, with_code: bool) -> str:
    parts: list[tuple[str, str]] = []
    if with_code:
        parts.append(("code in this directory (owl2)", "Apache-2.0"))
    if recipe is None:
        parts.append(("weights", licence_of(str(source))))
    else:
        made = recipe.model.initialize
        names = [recipe.model.checkpoint] if made is None else [made.language_model, made.vision_encoder]
        parts += [
            (f"weights it began with: {_last_part(name)}", licence_of(name)) for name in names if isinstance(name, str)
        ]
        parts += [(f"data: {name}", "that of the data set") for name, _, _ in _sources(recipe)]
    rows = [f"| {name} | {licence} |" for name, licence in parts]
    return "\n".join(["## Licences of the parts", "", "| part | licence |", "|---|---|", *rows])


def licence_of(directory: str) -> str:
    """The licence that the model card in a directory names."""
    card = Path(directory) / "README.md"
    if not card.is_file():
        return _UNKNOWN
    matter = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        fields = yaml.safe_load(matter[1]) if matter else None
    except yaml.YAMLError:
        fields = None
    licence = fields.get("license") if isinstance(fields, dict) else None
    return str(licence) if licence else _UNKNOWN


def _numbers(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def _json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def _without_places(value: Any) -> Any:
    """The recipe with its paths shortened to their last part."""
    if isinstance(value, dict):
        return {name: _without_places(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_places(each) for each in value]
    return _last_part(value) if isinstance(value, str) else value


def _last_part(path: str) -> str:
    return PureWindowsPath(path).name if re.search(r"[/\\]", path) else path
