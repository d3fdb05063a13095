"""A contestant of `peers.py` in a process of its own; everything that was measured, as JSON on the last line.

It runs in the environment of the official code as well as in that of owl2, so it imports neither before it knows which.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORDS = (12, 40)
"""Fewest and most tokens of text of a question."""


class Official:
    """The official code: an image is one placeholder in the ids, and is widened inside the model."""

    rows, placeholder, batch = 1, -200, 1  # questions of unequal lengths: its masks of padding on the left are wrong

    def __init__(self, settings: dict[str, Any]) -> None:
        checkout = Path(settings["official"])
        sys.path.insert(0, str(checkout / "mPLUG-Owl2" if (checkout / "mPLUG-Owl2").is_dir() else checkout))
        from mplug_owl2.model import MPLUGOwl2LlamaForCausalLM

        self.load = lambda: MPLUGOwl2LlamaForCausalLM.from_pretrained(settings["checkpoint"], torch_dtype=torch.float32)

    def inputs(self, ids: torch.Tensor, mask: torch.Tensor, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"input_ids": ids, "attention_mask": mask, "images": pixels}

    def loss(self, model: Any, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        return model(**inputs, labels=labels, use_cache=False).loss


class Owl2:
    """owl2 on the same files."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from owl2.modeling import Owl2ForConditionalGeneration

        self.rows, self.placeholder, self.batch = settings["rows"], settings["placeholder"], settings["batch"]
        self.load = lambda: Owl2ForConditionalGeneration.from_pretrained(settings["checkpoint"], dtype=torch.float32)

    def inputs(self, ids: torch.Tensor, mask: torch.Tensor, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}

    def loss(self, model: Any, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        return model(**inputs, labels=labels, loss_only=True, use_cache=False).loss


class Llava(Owl2):
    """transformers' LLaVA of equal sizes, with a row for each patch of an image; its weights are others."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from transformers import LlavaForConditionalGeneration

        self.rows, self.placeholder, self.batch = settings["patches"], settings["vocabulary"], settings["batch"]
        self.load = lambda: LlavaForConditionalGeneration.from_pretrained(settings["llava"], dtype=torch.float32)

    def loss(self, model: Any, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        return model(**inputs, labels=labels, use_cache=False).loss


CONTESTANTS = {"official": Official, "owl2": Owl2, "llava": Llava}


class Question:
    """A text behind an image, both random."""

    def __init__(self, seed: int, settings: dict[str, Any], words: int | None = None) -> None:
        draw = torch.Generator().manual_seed(seed)
        count = words or int(torch.randint(*WORDS, (1,), generator=draw))
        self.text = torch.randint(3, settings["vocabulary"], (count,), generator=draw).tolist()
        side = settings["image_size"]
        self.pixels = torch.randn(1, 3, side, side, generator=draw)


def batch_of(contestant: Any, questions: list[Question]) -> dict[str, torch.Tensor]:
    """Padded on the left."""
    rows = [[1, *[contestant.placeholder] * contestant.rows, *question.text] for question in questions]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return contestant.inputs(ids, mask, torch.cat([question.pixels for question in questions]))


@torch.no_grad()
def answers(model: Any, inputs: dict[str, torch.Tensor], tokens: int) -> list[list[int]]:
    """Greedy answers that never end early."""
    output = model.generate(**inputs, max_new_tokens=tokens, do_sample=False, use_cache=True, pad_token_id=0)
    return output[:, inputs["input_ids"].shape[1] :].tolist()


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    clock: Callable[[], float] = time.process_time if settings["clock"] == "processor" else time.perf_counter

    def timed(run: Callable[[], Any]) -> tuple[float, Any]:
        start = clock()
        value = run()
        return clock() - start, value

    contestant = CONTESTANTS[settings["name"]](settings)
    load, model = timed(contestant.load)
    model.eval()
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    one = batch_of(contestant, [Question(0, settings, words=48)])
    answers(model, one, 2)  # what is done once is not timed
    first = statistics.median(timed(lambda: answers(model, one, 1))[0] for _ in range(settings["repeats"]))
    whole, answer = timed(lambda: answers(model, one, settings["tokens"]))
    asked = [Question(number + 1, settings) for number in range(settings["questions"])]
    groups = [asked[start : start + contestant.batch] for start in range(0, len(asked), contestant.batch)]
    seconds, short = timed(
        lambda: [row for group in groups for row in answers(model, batch_of(contestant, group), settings["short"])]
    )
    inference = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    step, loss = train(contestant, model, settings, timed)
    return {
        "load_seconds": load,
        "first_token_seconds": first,
        "token_seconds": (whole - first) / (settings["tokens"] - 1),
        "questions_seconds": seconds,
        "batch": contestant.batch,
        "training_step_seconds": step,
        "peak_bytes_of_inference": inference,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "loss": loss,
        "answers": [answer[0], *short],
    }


def train(
    contestant: Any, model: Any, settings: dict[str, Any], timed: Callable[[Callable[[], Any]], tuple[float, Any]]
) -> tuple[float, float]:
    """Median seconds of steps of stage 2, in which everything trains, on one image in a row; and the first loss."""
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.05)
    inputs = batch_of(contestant, [Question(1000, settings, words=settings["row"])])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == contestant.placeholder, -100)

    def step() -> float:
        optimizer.zero_grad()
        loss = contestant.loss(model, inputs, labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    _, first = timed(step)
    return statistics.median(timed(step)[0] for _ in range(settings["repeats"])), first


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
