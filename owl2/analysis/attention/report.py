"""Everything that `owl2 attention` writes: figures as PNG and SVG, numbers as JSON and Parquet."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.progress import Progress
from torch import nn

from owl2.analysis.tables import parquet_modules, without_nan, write_table
from owl2.evaluation.task import Sample
from owl2.processing import Owl2Processor

from .figures import default_layers, draw_figure_4, draw_image_maps, draw_mean_shares, draw_shares, save
from .occlusion import occlusion_map
from .over_data import MeanShares, shares_over_data
from .recording import base_model
from .shares import Shares
from .study import Study, image_map, study_answer, study_conditions

Models = Mapping[str, tuple[nn.Module, Owl2Processor]]


def write_attention(
    models: Models,
    question: str,
    image: Image.Image | None,
    out: Path,
    unrelated: Image.Image | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    max_new_tokens: int = 32,
    groups: int = 7,
) -> list[Path]:
    """Studies a question with one model or several, and writes what was found.

    Args:
        models: Model and processor by name; the first is the one whose image maps are drawn.
        image: What the question is about.
        unrelated: Another image, for Figure 5; the image turned upside down by default.
        layers: Layers of Figure 4 (by default the first, middle and last) and of the image maps' mean (by default all).
        groups: Rows and columns of the occlusion.

    Returns:
        The files.

    Raises:
        ValueError: As `study_answer`; there is no such layer.
    """
    images = [] if image is None else [image]
    studies = {
        name: study_answer(model, processor, question, images, max_new_tokens, heads)
        for name, (model, processor) in models.items()
    }
    count = min(len(study.attention.layers) for study in studies.values())
    chosen = default_layers(count) if layers is None else _checked(layers, count)
    labels = {name: study.labels(models[name][1]) for name, study in studies.items()}
    out.mkdir(parents=True, exist_ok=True)
    files = save(draw_figure_4(studies, labels, chosen), out / "figure_4")
    files += save(draw_shares(studies), out / "shares")
    found: dict[str, Any] = {"question": question, "layers_drawn": chosen, "heads": heads and list(heads)}
    found["models"] = {name: _as_json(study) for name, study in studies.items()}
    if image is not None:
        name, (model, processor) = next(iter(models.items()))
        maps, caption = _maps(model, studies[name], layers, groups)
        files += save(draw_image_maps(image, maps, caption), out / "image")
        found["image"] = {key: values.tolist() for key, values in maps.items()}
        conditions = study_conditions(model, processor, question, image, unrelated or image.rotate(180), max_new_tokens)
        files += save(draw_shares(conditions), out / "figure_5")
        found["conditions"] = {key: _as_json(study) for key, study in conditions.items()}
    files.append(out / "attention.json")
    files[-1].write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    files.append(_write_parquet(out / "attention.parquet", studies, labels))
    return files


def write_attention_over_data(
    models: Models, samples: Sequence[Sample], title: str, out: Path, max_new_tokens: int, progress: Progress
) -> list[Path]:
    """Averages where answers to many questions look, in the conditions of Figure 5, and writes it.

    Args:
        title: Title of the data set.

    Returns:
        The files.

    Raises:
        ValueError: As `shares_over_data`.
    """
    bar = progress.add_task("attention", total=len(models) * len(samples))
    found = {
        name: shares_over_data(model, processor, samples, max_new_tokens, partial(progress.advance, bar))
        for name, (model, processor) in models.items()
    }
    caption = (
        f"Mean over {len(samples)} questions of {title}, heads and the tokens of each answer; bands: 95% bootstrap "
        "over questions. Below, first token and sinks are left out."
    )
    rows = [
        {"model": name, "condition": condition, "layer": layer, **_mean_row(shares, layer)}
        for name, by_condition in found.items()
        for condition, shares in by_condition.items()
        for layer in range(len(shares.mean.vision))
    ]
    out.mkdir(parents=True, exist_ok=True)
    files = save(draw_mean_shares(found, caption), out / "shares_over_data")
    return files + write_table(rows, out / "shares_over_data", caption=caption, samples=len(samples))


def _mean_row(shares: MeanShares, layer: int) -> dict[str, float | None]:
    """Every share of a layer with the ends of its interval."""
    ends = {"": shares.mean, "_low": shares.low, "_high": shares.high}
    return without_nan(
        {f"{name}{end}": float(getattr(each, name)[layer]) for name in Shares._fields for end, each in ends.items()}
    )


def _checked(layers: Sequence[int], count: int) -> list[int]:
    for layer in layers:
        if not 0 <= layer < count:
            raise ValueError(f"there is no layer {layer}: the decoder has {count}, from 0 to {count - 1}")
    return list(layers)


def _maps(
    model: nn.Module, study: Study, layers: Sequence[int] | None, groups: int
) -> tuple[dict[str, torch.Tensor], str]:
    """Attention maps of the whole answer, and the occlusion of its first token."""
    token = int(study.inputs["input_ids"][0, study.prompt_length])
    prompt = {
        key: value[:, : study.prompt_length] if key != "pixel_values" else value
        for key, value in study.inputs.items()
        if isinstance(value, torch.Tensor)
    }
    attention = image_map(model, study, layers=layers)
    if base_model(model).config.connector == "mlp":
        seen = {"attention": attention}
    else:
        rolled_out = image_map(model, study, layers=layers, through="rollout")
        seen = {"last layer of the abstractor": attention, "rolled out": rolled_out}
    maps = seen | {
        "minus the prompt's average": image_map(model, study, layers=layers, subtract_average=True),
        "occlusion": occlusion_map(model, prompt, token, groups=groups),
    }
    over = "all decoder layers" if layers is None else f"decoder layers {', '.join(map(str, layers))}"
    caption = (
        f"attention: mean over {over}, heads and the tokens of {study.answer[:40]!r}; occlusion: log-probability that "
        f"{study.tokens[0]!r} loses"
    )
    return maps, caption


def _as_json(study: Study) -> dict[str, Any]:
    return {
        "answer": study.answer,
        "tokens": study.tokens,
        "prompt_tokens": study.prompt_length,
        "visual_tokens": int(study.is_vision.sum()),
        "shares_by_layer": study.shares.to_dict(),
    }


def _write_parquet(path: Path, studies: Mapping[str, Study], labels: Mapping[str, list[str]]) -> Path:
    """One row a model, layer, token of the answer and token attended to.

    Raises:
        ImportError: pyarrow is not installed.
    """
    pa, pq = parquet_modules()
    schema = pa.schema(
        [
            ("model", pa.string()),
            ("layer", pa.int32()),
            ("answer_index", pa.int32()),
            ("answer_token", pa.string()),
            ("index", pa.list_(pa.int32())),
            ("token", pa.list_(pa.string())),
            ("is_vision", pa.list_(pa.bool_())),
            ("attention", pa.list_(pa.float32())),
        ]
    )
    with pq.ParquetWriter(path, schema) as writer:
        for name, study in studies.items():
            writer.write_table(pa.Table.from_pylist(list(_rows(name, study, labels[name])), schema))
    return path


def _rows(name: str, study: Study, labels: list[str]) -> Iterator[dict[str, Any]]:
    is_vision = study.is_vision.tolist()
    for layer, weights in zip(study.attention.layers, study.attention.weights[:, 0], strict=True):
        for index, (token, row) in enumerate(zip(study.tokens, weights.tolist(), strict=True)):
            yield {
                "model": name,
                "layer": layer,
                "answer_index": index,
                "answer_token": token,
                "index": list(range(len(labels))),
                "token": labels,
                "is_vision": is_vision,
                "attention": row,
            }
