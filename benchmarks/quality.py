"""How fast images are scored: images a second by batch size, against one image at a time as the family's code does it.

Two ways of the family are restated with the same model: `score()`, a forward with the logits of the whole vocabulary at
every position, one image at a time; and generation of the answer that is trained, "The quality of the image is good.",
of 8 tokens. All ways read the same JPEG files, and take turns in every round. `--memory N` scores N images more and
prints how the memory of the process grew. `--model DIR` measures a checkpoint, otherwise a random model of 135 M
parameters is built, with a vision encoder of 12 layers.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import add_clock, add_output, clock_of, machine_facts, show
from evaluation import Clock, random_model
from PIL import Image

from owl2.checkpoints.loading import load_for_chat
from owl2.checkpoints.small_language_model import train_tokenizer
from owl2.data.opinions import LEVELS
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor, load_image
from owl2.quality import QualityScorer
from owl2.quality.protocols import PROTOCOLS
from owl2.training.monitoring.process_memory import resident_bytes


def quality_model() -> tuple[Owl2ForConditionalGeneration, Owl2Processor]:
    """The random model, with a tokenizer in which the level words are tokens."""
    model, processor = random_model()
    tokenizer = train_tokenizer([f"{PROTOCOLS['q_align'].text('quality')} {level}" for level in LEVELS] * 50, 512)
    tokenizer.bos_token = "<s>"
    own = Owl2Processor(processor.image_processor, tokenizer, num_image_tokens=model.config.tokens_per_image)
    model.config.image_token_id = own.image_token_id
    return model, own


class OneAtATime:
    """The ways of the family with one image."""

    def __init__(self, model: Owl2ForConditionalGeneration, processor: Owl2Processor) -> None:
        self.model, self.processor = model, processor
        self.scorer = QualityScorer(model, processor)
        self.prompt = self.scorer.protocol.text("quality")
        self.levels = self.scorer.level_ids

    @torch.inference_mode()
    def score(self, file: Path) -> None:
        """Logits of the whole vocabulary at every position."""
        inputs = self._inputs(file, self.prompt)
        logits = self.model(**inputs).logits[:, -1, self.levels]
        torch.softmax(logits.float(), -1).sum().item()

    @torch.inference_mode()
    def generate(self, file: Path) -> None:
        """The whole answer."""
        inputs = self._inputs(file, self.prompt.partition("ASSISTANT:")[0] + "ASSISTANT:")
        self.model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)

    def _inputs(self, file: Path, prompt: str) -> dict[str, torch.Tensor]:
        inputs = self.processor(text=prompt, images=load_image(file), return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        return {name: tensor.to(self.model.device) for name, tensor in inputs.items()}


def timed(work: Callable[[], object], clock: Clock) -> float:
    start = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def write_images(folder: Path, count: int) -> list[Path]:
    files = []
    for number in range(count):
        files.append(folder / f"{number}.jpg")
        Image.effect_noise((640, 480), 20 + number).convert("RGB").save(files[-1])
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory of a model; otherwise a random one")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=0, metavar="N")
    add_clock(parser)
    add_output(parser)
    arguments = parser.parse_args()
    clock = clock_of(arguments)
    model, processor = load_for_chat(arguments.model) if arguments.model else quality_model()
    single = OneAtATime(model, processor)
    times: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        files = write_images(Path(folder), arguments.images)
        ways: dict[str, Callable[[], object]] = {
            "one at a time, generation": lambda: [single.generate(file) for file in files],
            "one at a time, score()": lambda: [single.score(file) for file in files],
        }
        for size in arguments.batch_sizes:
            scorer = QualityScorer(model, processor, batch_size=size)
            ways[f"batch {size}"] = lambda scorer=scorer: scorer(files)  # type: ignore[misc]
        for number in range(arguments.rounds + 1):  # the first warms up
            for way, work in ways.items():
                seconds = timed(work, clock)
                if number:
                    times.setdefault(way, []).append(seconds)
        before, growth = resident_bytes(), []
        for _ in range(0, arguments.memory, arguments.images):
            scorer(files)
            growth.append((resident_bytes() - before) / 2**20)
    rates = {way: arguments.images / statistics.median(values) for way, values in times.items()}
    base = rates["one at a time, generation"]
    lines = [f"{way:<28}{rate:10.2f} images/s{rate / base:8.2f} x" for way, rate in rates.items()]
    if growth:
        lines.append(f"memory after {arguments.memory} more images: {growth[-1]:+.0f} MiB, at most {max(growth):+.0f}")
    result = {
        "images_per_second": rates,
        "images": arguments.images,
        "rounds": arguments.rounds,
        "memory_growth_mib": growth[-1] if growth else None,
        "memory_images": arguments.memory,
        "clock": arguments.clock,
        **machine_facts(torch.cuda.is_available()),
    }
    show(result, arguments, "\n".join(lines))


if __name__ == "__main__":
    main()
