"""How full rows are: best-fit packing beside first fit and beside padded batches, at the lengths of both stages.

Nothing is trained: only lengths matter. `stream` packs an endless stream, `steps` packs as `owl2 train` does, each
rank its share of each step. The efficiency is the share of positions that hold a token.
"""

import argparse
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any, NamedTuple

from common import add_output, show

from owl2.checkpoints.small_language_model import train_tokenizer
from owl2.data.packing import BestFitPacker
from owl2.data.sources import easy_vqa
from owl2.data.sources.mixture_sizes import TABLE_8
from owl2.environment import processor_name
from owl2.processing import Owl2ImageProcessor, Owl2Processor
from owl2.training.data.loader import BatchingConfig, micro_batches_of
from owl2.training.recipe.schema import Recipe
from owl2.training.recipe.yaml_file import load_recipe

RECIPES = Path(__file__).parents[1] / "owl2" / "recipes"
VISUAL = 65  # rows of an image (paper, section 4.1: 64 queries and the end-of-image token)
WORD = 1.3  # tokens an English word, LLaMA's tokenizer
FRAME = 8  # tokens of "USER:", "ASSISTANT:" and the end of a turn
PADDED = 8  # samples of a padded batch
BUFFER = 1024  # samples that wait to be packed

Sampler = Callable[[random.Random], int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40_000, help="of each distribution")
    parser.add_argument("--steps", type=int, default=20, help="of each recipe and number of ranks")
    parser.add_argument("--seed", type=int, default=0)
    add_output(parser)
    arguments = parser.parse_args()
    distributions = {**drawn(arguments.samples, arguments.seed), **real()}
    result = {
        "machine": processor_name(),
        "samples": arguments.samples,
        "seed": arguments.seed,
        "stream": {name: stream(each, arguments.seed) for name, each in distributions.items()},
        "steps": steps(distributions, arguments.steps, arguments.seed),
    }
    show(result, arguments)


class Lengths(NamedTuple):
    """Samples by their numbers of tokens, visual rows included.

    Attributes:
        source: Where the lengths come from.
    """

    source: str
    lengths: list[int]
    row_length: int = 2048


# Lengths ------------------------------------------------------------------------------------------------------------


def drawn(count: int, seed: int) -> dict[str, Lengths]:
    """The stages of the paper, whose data are not at hand: drawn from distributions of published means."""
    generator = random.Random(seed)
    sizes = [source.size for source in TABLE_8]
    instructions = [INSTRUCTIONS[source.source](generator) for source in generator.choices(TABLE_8, sizes, k=count)]
    alt_text = "65 visual rows; 10.3 +- 4.5 words (Conceptual Captions, Sharma et al. 2018, Table 2), 1.3 tokens a word"
    long_text = "65 visual rows; 48 +- 24 tokens, the mean that the costs of the paper's run are reckoned with"
    return {
        "captions": Lengths(alt_text, [pair(generator, 10.3 * WORD, 4.5 * WORD) for _ in range(count)]),
        "captions of 48 tokens": Lengths(long_text, [pair(generator, 48, 24) for _ in range(count)]),
        "instructions": Lengths(
            "Table 8's sources in its shares, 65 visual rows; lengths as in INSTRUCTIONS of this file, cut at 2,048",
            instructions,
        ),
    }


def real() -> dict[str, Lengths]:
    """easy-VQA's texts, with the visual rows of the paper's model and a tokenizer made from them."""
    questions = easy_vqa.load_questions("train")
    pairs, conversations = easy_vqa.pairs(questions), easy_vqa.conversations(questions)
    texts = (question.question for question in questions)
    image_processor = Owl2ImageProcessor(size={"height": 224, "width": 224})
    processor = Owl2Processor(image_processor, train_tokenizer(texts, 512), num_image_tokens=VISUAL)
    captions = [len(processor.encode_pair(each.caption)["input_ids"]) for each in pairs]
    chats = [
        len(processor.encode_conversation(each.messages, with_pixels=False)["input_ids"]) for each in conversations
    ]
    return {
        "easy-VQA captions": Lengths("its text, 65 visual rows", captions),
        "easy-VQA conversations": Lengths("its text, all questions about an image together, 65 visual rows", chats),
    }


def positive(generator: random.Random, mean: float, deviation: float) -> float:
    """A number of tokens of this mean and deviation: logarithmic normal, as lengths of texts are."""
    variance = math.log1p((deviation / mean) ** 2)
    return generator.lognormvariate(math.log(mean) - variance / 2, math.sqrt(variance))


def pair(generator: random.Random, mean: float, deviation: float) -> int:
    """An image with a caption of at least a token, between the tokens that begin and end it; 256 at most (Table 9)."""
    return min(256, VISUAL + 2 + max(1, round(positive(generator, mean, deviation))))


def text(mean: float, deviation: float, generator: random.Random) -> int:
    return min(2048, 1 + max(FRAME, round(positive(generator, mean, deviation))))


def about_image(turns: float, tokens: float, generator: random.Random) -> int:
    """An image and turns, as many in the mean and at least one; tokens of a turn in the mean, half of it deviation."""
    count = 1
    while turns > 1 and generator.random() < 1 - 1 / turns and count < 60:
        count += 1
    return min(2048, 1 + VISUAL + sum(round(FRAME + positive(generator, tokens, tokens / 2)) for _ in range(count)))


SHORT = 11 * WORD  # "Answer the question using a single word or phrase.", and the answer
INSTRUCTIONS: dict[str, Sampler] = {
    # Conversations of many turns, of which many are longer than a row.
    "sharegpt": partial(text, 1500, 1500),
    # A system prompt, a task of FLAN and a reasoned answer: some 400 words.
    "slim_orca": partial(text, 400 * WORD, 300 * WORD),
    # 58 k conversations of 4 to 5 short turns, 23 k descriptions, 77 k reasoned answers: 100 to 250 words.
    "llava_instruct": partial(about_image, 2, 85 * WORD),
    "coco_captions": partial(about_image, 1, (8 + 10.5) * WORD),  # Chen et al. 2015
    "textcaps": partial(about_image, 1, (8 + 12.4) * WORD),  # Sidorov et al. 2020
    "vqav2": partial(about_image, 5.4, 6.2 * WORD + SHORT),  # 443,757 questions about 82,783 images
    "gqa": partial(about_image, 13, 10 * WORD + SHORT),  # 943,000 balanced questions about 72,140 images
    "okvqa": partial(about_image, 1, 8.1 * WORD + SHORT),  # Marino et al. 2019
    "ocr_vqa": partial(about_image, 4.8, 6.5 * WORD + SHORT),  # 1,002,146 questions about 207,572 covers
    "a_okvqa": partial(about_image, 1, (8.8 + 20) * WORD),  # Schwenk et al. 2022, and four options
    "refcoco": partial(about_image, 3, (8 + 3.6) * WORD + 20),  # Kazemzadeh et al. 2014; 20 tokens for a box
    "visual_genome": partial(about_image, 8, (8 + 5) * WORD + 20),  # Krishna et al. 2017
}
"""Means assumed for the sources of Table 8, from published counts of questions and words."""


# Ways to make rows --------------------------------------------------------------------------------------------------


def stream(samples: Lengths, seed: int) -> dict[str, Any]:
    """Efficiencies over all samples, but for those that are still waiting at the end."""
    lengths, row = samples.lengths, samples.row_length
    shuffled = random.Random(seed).sample(lengths, len(lengths))
    cut = quantiles(lengths, n=20)
    began = time.process_time()
    rows = list(best_fit(shuffled, row))
    seconds = time.process_time() - began
    return {
        "source": samples.source,
        "samples": len(lengths),
        "tokens_mean": round(fmean(lengths), 1),
        "tokens_5_50_95_percent": [round(cut[index]) for index in (0, 9, 18)],
        "best_fit": round(efficiency(iter(rows), lengths, row), 4),
        "first_fit": round(efficiency(first_fit(shuffled, row), lengths, row), 4),
        "padded_batches_of_8": round(padded(shuffled), 4),
        "best_fit_samples_per_core_second": round(len(lengths) / seconds),
    }


def efficiency(rows: Iterator[int], lengths: Sequence[int], row_length: int) -> float:
    """Mean share of the rows, the last ones left out, for which the stream has nothing to choose from."""
    filled = list(islice(rows, max(1, sum(lengths) // row_length - 2 * BUFFER * max(lengths) // row_length)))
    return sum(filled) / (len(filled) * row_length)


def best_fit(lengths: Sequence[int], row_length: int) -> Iterator[int]:
    """Tokens of each row of `owl2.data.packing`."""
    for row in BestFitPacker(row_length, BUFFER).pack(enumerate(lengths)):
        yield sum(lengths[number] for number in row)


def first_fit(lengths: Sequence[int], row_length: int) -> Iterator[int]:
    """Tokens of each row that takes, in the order of arrival, whatever fits among the samples that wait."""
    coming, waiting = iter(lengths), list[int]()
    while True:
        waiting += islice(coming, BUFFER - len(waiting))
        if not waiting:
            return
        total, left = 0, []
        for length in waiting:
            if total + length <= row_length:
                total += length
            else:
                left.append(length)
        waiting = left
        yield total


def padded(lengths: Sequence[int]) -> float:
    """Of batches in the order of the stream, padded to their longest."""
    batches = [lengths[start : start + PADDED] for start in range(0, len(lengths) - PADDED + 1, PADDED)]
    return sum(map(sum, batches)) / sum(PADDED * max(batch) for batch in batches)


# As in training -----------------------------------------------------------------------------------------------------


def steps(distributions: dict[str, Lengths], count: int, seed: int) -> dict[str, Any]:
    """What `packing_efficiency` in the metrics of the shipped recipes would be."""
    found = {}
    for file, name, ranks in (
        ("pretrain.yaml", "captions", (1, 8, 64)),
        ("instruct.yaml", "instructions", (1, 8, 64)),
    ):
        recipe = load_recipe(RECIPES / file)
        lengths = distributions[name].lengths
        for number in ranks:
            share = step_efficiency(recipe, lengths, number, count, seed)
            found[f"{file}, {number} ranks"] = round(share, 4)
    return found


def step_efficiency(recipe: Recipe, lengths: Sequence[int], ranks: int, steps: int, seed: int) -> float:
    """Of one rank's share of some steps."""
    packing = recipe.data.packing
    row_length = packing.length or recipe.data.max_length
    batching = BatchingConfig(recipe.batch.micro_batch_size, row_length, packing.buffer, recipe.parallel.compile)
    generator, tokens, positions = random.Random(seed), 0, 0
    for _ in range(steps):
        share = generator.choices(lengths, k=recipe.batch.global_batch_size // ranks)
        for start in range(0, len(share), batching.buffer):
            piece = share[start : start + batching.buffer]
            tokens += sum(piece)
            made = micro_batches_of([sample_of(length) for length in piece], batching, pad_token_id=0)
            positions += sum(batch["input_ids"].numel() for batch in made)
    return tokens / positions


def sample_of(length: int) -> dict[str, Any]:
    return {name: [0] * length for name in ("input_ids", "labels", "mm_token_type_ids")}


if __name__ == "__main__":
    main()
