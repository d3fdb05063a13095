"""How fast a model is evaluated: samples a second by batch size, and what running shared beginnings once saves.

Three kinds of samples, made on the spot: short answers about an image (as VQA), four letters behind five shots of a
subject (as MMLU), four texts behind an image and its question (as SEED-Bench by likelihood). Everything goes through
`Predictor`, as in `owl2 evaluate`; what is timed holds reading and preparing the images. Batch sizes, and with and
without sharing, take turns in every round. `--model DIR` measures a checkpoint, otherwise a random model of the size of
the quickstart's `smol` language model is built.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import add_clock, add_output, clock_of, machine_facts, show
from PIL import Image

from owl2.checkpoints.loading import load_for_chat
from owl2.checkpoints.small_language_model import train_tokenizer
from owl2.evaluation.inference.predictor import Predictor
from owl2.evaluation.task import Decoding, Sample, Task
from owl2.modeling import Owl2Config, Owl2ForConditionalGeneration
from owl2.processing import Owl2ImageProcessor, Owl2Processor

WORDS = "the of and to a in is it you that he was for on are with as his they be at one have this from".split()
Clock = Callable[[], float]
KINDS = ("answer", "letters", "options")


def random_model() -> tuple[Owl2ForConditionalGeneration, Owl2Processor]:
    """A random model, 30 layers and 576 wide as SmolLM2-135M, with a vision encoder of 12 layers at 224 px."""
    tokenizer = train_tokenizer([words(200, seed) for seed in range(50)], 512)
    config = Owl2Config(
        text_config={
            "vocab_size": 32000,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 4096,
        },
        vision_config={
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "image_size": 224,
            "patch_size": 14,
        },
        abstractor_config={
            "hidden_size": 384,
            "intermediate_size": 1024,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
        },
    )
    torch.manual_seed(0)
    processor = Owl2Processor(
        Owl2ImageProcessor(size={"height": 224, "width": 224}), tokenizer, num_image_tokens=config.tokens_per_image
    )
    config.image_token_id = processor.image_token_id
    return Owl2ForConditionalGeneration(config).eval(), processor


def words(count: int, seed: int) -> str:
    return " ".join(WORDS[(seed * 31 + index * 7 + index * index) % len(WORDS)] for index in range(count))


def make_samples(kind: str, count: int, image: Path) -> list[Sample]:
    """Samples of a kind; questions differ, the shots do not."""
    if kind == "answer":
        return [Sample(str(i), f"{words(12, i)}? Answer briefly.", "", images=(image,)) for i in range(count)]
    if kind == "letters":
        shots = tuple(f"{words(60, 100 + i)}?\nA. a\nB. b\nC. c\nD. d\nAnswer: A\n\n" for i in range(5))
        letters = tuple(f" {letter}" for letter in "ABCD")
        return [
            Sample(str(i), f"{words(60, i)}?\nAnswer:", "", choices=letters, shots=shots, uses_chat_template=False)
            for i in range(count)
        ]
    options = tuple(f"{words(6, 50 + i)}" for i in range(4))
    return [Sample(str(i), f"{words(15, i)}?", "", images=(image,), choices=options) for i in range(count)]


def seconds(predictor: Predictor, samples: list[Sample], batch_size: int, clock: Clock) -> float:
    start = clock()
    for first in range(0, len(samples), batch_size):
        predictor.predict([predictor.prepare(sample) for sample in samples[first : first + batch_size]])
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def plain_seconds(predictor: Predictor, samples: list[Sample], clock: Clock) -> float:
    """One forward a choice, nothing shared: what a program does that knows no shared beginnings."""
    start = clock()
    for sample in samples:
        prepared = predictor.prepare(sample)
        assert prepared.choices is not None
        for continuation in prepared.choices.continuations:
            device = predictor.model.device
            ids = torch.tensor([[*prepared.choices.ids, *continuation]], device=device)
            types = [*prepared.choices.context["mm_token_type_ids"], *[0] * len(continuation)]
            pixels = prepared.pixel_values
            with torch.inference_mode():
                predictor.model(
                    input_ids=ids,
                    mm_token_type_ids=torch.tensor([types], device=device),
                    pixel_values=None if pixels is None else pixels.to(device, predictor.model.dtype),
                    logits_to_keep=len(continuation) + 1,
                )
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory of a model; otherwise a random one")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    add_clock(parser)
    add_output(parser)
    arguments = parser.parse_args()
    clock = clock_of(arguments)
    model, processor = load_for_chat(arguments.model) if arguments.model else random_model()
    task = Task("timing", "", (), (), (), lambda *_: [], lambda *_: [], lambda *_: None, "", "", {})  # type: ignore[arg-type, return-value]
    decoding = Decoding(max_new_tokens=8, min_new_tokens=8)
    with TemporaryDirectory() as folder:
        image = Path(folder) / "image.jpg"
        Image.effect_noise((640, 480), 50).convert("RGB").save(image)
        samples = {kind: make_samples(kind, arguments.samples, image) for kind in KINDS}
        ways: dict[str, list[float]] = {}
        for number in range(arguments.rounds + 1):  # the first warms up
            for kind in KINDS:
                measured = {
                    f"{kind}, batch {size}": seconds(
                        Predictor(model, processor, task, decoding, " "), samples[kind], size, clock
                    )
                    for size in arguments.batch_sizes
                }
                if kind != "answer":
                    predictor = Predictor(model, processor, task, decoding, " ")
                    measured[f"{kind}, nothing shared"] = plain_seconds(predictor, samples[kind], clock)
                for way, value in measured.items():
                    if number:
                        ways.setdefault(way, []).append(value)
    rates = {way: arguments.samples / statistics.median(values) for way, values in ways.items()}
    lines = []
    for way, rate in rates.items():
        kind = way.split(",")[0]
        base = rates.get(f"{kind}, nothing shared") or rates[f"{kind}, batch {arguments.batch_sizes[0]}"]
        lines.append(f"{way:<28}{rate:10.2f} samples/s{rate / base:8.2f} x")
    result = {
        "samples_per_second": rates,
        "samples": arguments.samples,
        "rounds": arguments.rounds,
        "clock": arguments.clock,
        **machine_facts(torch.cuda.is_available()),
    }
    show(result, arguments, "\n".join(lines))


if __name__ == "__main__":
    main()
