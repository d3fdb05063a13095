"""The one-page report of a quickstart run: a table, loss curves, a grid of answers, an attention map."""

import json
import random
from pathlib import Path
from typing import Any

from owl2.data.sources.easy_vqa import load_questions
from owl2.figures import as_written, save_figure

ACCURACY_TARGETS = {"nano": 0.98, "smol": 0.96}
PERPLEXITY_TARGET = 1.05
STAGES = {"text": "text stage", "vision": "vision encoder", "stage1": "stage 1", "stage2": "stage 2"}
"""Titles of the loss curves by run directory."""


def write_report(directory: Path, metrics: dict[str, Any], preset: str) -> None:
    """Writes `report.md` and its pictures from the files of the run."""
    import matplotlib

    matplotlib.use("Agg")
    images = {Path(question.image).name: question.image for question in load_questions("test")}
    _draw_losses(directory)
    _draw_answers(directory, images)
    _draw_attention(directory, images)
    (directory / "report.md").write_text(_page(metrics, preset))


def _page(metrics: dict[str, Any], preset: str) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in _rows(metrics))
    steps = "\n".join(f"| {name} | {seconds:.0f} s |" for name, seconds in metrics["seconds_by_step"].items())
    return f"""# Quickstart: {preset}

mPLUG-Owl2 made from a language model on easy-VQA: stage 1 with the language model frozen, stage 2 with everything.

| measured | value |
|---|---|
{rows}

![Loss curves](losses.png)

Test images, with a question, the model's answer and, where it is wrong, the right one:

![Answers](answers.png)

Where the model looks when it answers: attention of the position that predicts the answer, through the decoder (mean
over layers and heads) and the visual abstractor, on the patches of the image; beside it the share of attention that
each decoder layer gives to the visual tokens.

![Attention](attention.png)

| step | time |
|---|---|
{steps}
"""


def _rows(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """The measurements beside the targets."""
    before, after = metrics["perplexity_before"], metrics["perplexity_after"]
    facts = f"{metrics['facts_before']}, {metrics['facts_after']} of {metrics['fact_questions']}"
    target = ACCURACY_TARGETS[metrics["preset"]]
    reached = _reached(metrics["accuracy"] >= target)
    kept = _reached(after / before <= PERPLEXITY_TARGET)
    return [
        (
            f"accuracy, {metrics['questions']:,} test questions, exact match",
            f"**{metrics['accuracy']:.1%}** (target {target:.0%}: {reached})",
        ),
        *((f"of these, {kind}", f"{share:.1%}") for kind, share in metrics["accuracy_by_kind"].items()),
        ("the same model without the image", f"{metrics['accuracy_blind']:.1%}"),
        ("always the most frequent training answer", f"{metrics['accuracy_majority']:.1%}"),
        (
            "perplexity of held-out English, before and after",
            f"{before:.2f}, {after:.2f} ({after / before - 1:+.1%}; allowed {PERPLEXITY_TARGET - 1:+.0%}: {kept})",
        ),
        ("factual questions answered, before and after", facts),
        ("time", f"{metrics['seconds']:.0f} s on {metrics['threads']} threads, {metrics['dtype']}"),
        ("peak memory", f"{metrics['peak_memory_bytes'] / 2**30:.2f} GiB"),
    ]


def _reached(flag: bool) -> str:
    return "reached" if flag else "missed"


def _draw_losses(directory: Path) -> None:
    import matplotlib.pyplot as plt

    stages = [name for name in STAGES if (directory / name / "metrics.jsonl").is_file()]
    figure, axes = plt.subplots(1, len(stages), figsize=(4 * len(stages), 3), squeeze=False)
    for axis, stage in zip(axes[0], stages, strict=True):
        lines = [json.loads(line) for line in (directory / stage / "metrics.jsonl").read_text().splitlines()]
        curve = [(line["samples"], line["loss"]) for line in lines]
        smooth, smoothed = curve[0][1], []
        for _, loss in curve:
            smooth = 0.95 * smooth + 0.05 * loss
            smoothed.append(smooth)
        axis.plot(*zip(*curve, strict=True), color="#c9d6e8", linewidth=0.8)
        axis.plot([samples for samples, _ in curve], smoothed, color="#1f4e8c")
        axis.set(title=STAGES[stage], xlabel="samples", ylabel="loss")
        axis.set_ylim(0, max(loss for _, loss in curve[len(curve) // 50 :]))
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(directory / "losses.png", dpi=120)
    plt.close(figure)


def _draw_answers(directory: Path, images: dict[str, str]) -> None:
    import matplotlib.pyplot as plt
    from PIL import Image

    records = [json.loads(line) for line in (directory / "answers.jsonl").read_text().splitlines()]
    shown = random.Random(0).sample(records, 15)
    figure, axes = plt.subplots(3, 5, figsize=(13, 8.5), layout="tight")
    for axis, record in zip(axes.flat, shown, strict=True):
        right = record["reply"] == record["answer"]
        axis.imshow(Image.open(images[record["image"]]))
        verdict = record["reply"] if right else f"{record['reply']} (right: {record['answer']})"
        title = as_written(f"{record['question']}\n{verdict}")
        axis.set_title(title, fontsize=8.5, color="#1a6b2f" if right else "#b3261e")
        axis.axis("off")
    save_figure(figure, directory / "answers.png", dpi=90)
    plt.close(figure)


def _draw_attention(directory: Path, images: dict[str, str]) -> None:
    import matplotlib.pyplot as plt
    import numpy as np
    from PIL import Image

    record = json.loads((directory / "attention.json").read_text())
    picture = Image.open(images[record["image"]]).convert("RGB")
    attention = np.array(record["on_image"])
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="tight")
    axes[0].imshow(picture)
    axes[0].set_title(as_written(f"{record['question']} {record['reply']}"), fontsize=9)
    axes[1].imshow(picture, extent=(0, 1, 0, 1), alpha=0.5)
    axes[1].imshow(attention, extent=(0, 1, 0, 1), cmap="inferno", alpha=0.65, interpolation="bilinear")
    axes[1].set_title("attention of the answer on the image", fontsize=9)
    for axis in axes[:2]:
        axis.axis("off")
    axes[2].bar(range(len(record["per_layer"])), record["per_layer"], color="#1f4e8c")
    axes[2].set(xlabel="decoder layer", title="share of attention on visual tokens", ylim=(0, 1))
    axes[2].title.set_fontsize(9)
    save_figure(figure, directory / "attention.png", dpi=110)
    plt.close(figure)
