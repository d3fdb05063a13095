"""Caption scores as the COCO caption evaluation computes them: CIDEr, BLEU-1 to 4, ROUGE-L, METEOR.

They follow the scorers of pycocoevalcap 1.2 (evaluation specification, section 1) and keep their raw values: a CIDEr
that papers print as 137.3 is 1.373 here.
"""

import warnings
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import exp, log, sqrt
from typing import Generic, TypeVar

from owl2.evaluation.metrics.ptb.tokenizer import ptb_tokenize

from .meteor import meteor_scores

BLEU_NAMES = ("BLEU_1", "BLEU_2", "BLEU_3", "BLEU_4")
METRICS = ("CIDEr", *BLEU_NAMES, "ROUGE_L", "METEOR")

Id = TypeVar("Id", bound=Hashable)
NGram = tuple[str, ...]
CaptionScores = tuple[float, list[float]]  # of the whole set, and of each image
# For each image its references, and its one hypothesis; tokenized, tokens joined by spaces.
References = Sequence[Sequence[str]]
Hypotheses = Sequence[str]


@dataclass(frozen=True)
class CaptionScore(Generic[Id]):
    """One metric: the score of the whole set and of each image, as fractions (CIDEr from 0 to 10)."""

    corpus: float
    per_image: dict[Id, float]


def caption_scores(
    references: Mapping[Id, Sequence[str]], hypotheses: Mapping[Id, str], metrics: Sequence[str] = ("CIDEr",)
) -> dict[str, CaptionScore[Id]]:
    """Scores one caption an image against the image's references, tokenizing both as the official evaluation does.

    CIDEr weighs words by how few of *these* images have them in their references: scores of parts of a set cannot be
    averaged, and a set of one image scores 0, with a warning. An empty caption scores 0 and counts.

    Args:
        references: The reference captions of each image as written, at least one.
        hypotheses: The caption of each image to score. The ids must be those of the references.
        metrics: Any of "CIDEr", "BLEU_1" to "BLEU_4", "ROUGE_L", "METEOR". The last needs Java and pycocoevalcap.

    Returns:
        For each metric its `corpus` score and its `per_image` scores: raw values, not times 100. `corpus` is the mean
        over images for CIDEr and ROUGE_L; BLEU and METEOR add up the statistics of all images first.

    Raises:
        ValueError: An unknown metric, no image, ids that differ, an image without references, or a caption that is no
            text.
        ImportError, RuntimeError: METEOR is asked for, and pycocoevalcap or Java was not found.
    """
    _check(references, hypotheses, metrics)
    ids = list(references)
    if len(ids) == 1 and "CIDEr" in metrics:
        warnings.warn("the CIDEr of a single image is always 0: it weighs words against other images", stacklevel=2)
    tokenized = iter(ptb_tokenize([text for image in ids for text in references[image]]))
    reference_tokens = [[next(tokenized) for _ in references[image]] for image in ids]
    by_id = dict(zip(hypotheses, ptb_tokenize(list(hypotheses.values())), strict=True))
    hypothesis_tokens = [by_id[image] for image in ids]

    found: dict[str, CaptionScores] = {}
    if not set(metrics).isdisjoint(BLEU_NAMES):
        found |= zip(BLEU_NAMES, bleu(reference_tokens, hypothesis_tokens), strict=True)
    for name, scorer in (("CIDEr", cider), ("ROUGE_L", rouge_l), ("METEOR", meteor_scores)):
        if name in metrics:
            found[name] = scorer(reference_tokens, hypothesis_tokens)
    return {name: CaptionScore(found[name][0], dict(zip(ids, found[name][1], strict=True))) for name in metrics}


def cider(references: References, hypotheses: Hypotheses, sigma: float = 6.0) -> CaptionScores:
    """CIDEr-D, times 10: n-grams of 1 to 4 words weighed by tf-idf, clipped cosine, Gaussian penalty on the length."""
    counted = [[_counts(text) for text in texts] for texts in references]
    in_images = Counter(chain.from_iterable(set(chain.from_iterable(texts)) for texts in counted))
    log_images = log(len(references))

    def vector(counts: Counter[NGram]) -> dict[NGram, float]:
        return {gram: count * (log_images - log(max(1, in_images[gram]))) for gram, count in counts.items()}

    scores = []
    for texts, hypothesis in zip(counted, hypotheses, strict=True):
        of_hypothesis = _counts(hypothesis)
        weights, bigrams = vector(of_hypothesis), _bigrams(of_hypothesis)
        total = 0.0
        for reference in texts:
            difference = bigrams - _bigrams(reference)
            penalty = exp(-(difference**2) / (2 * sigma**2))
            total += sum(_cosines(weights, vector(reference))) / 4 * penalty
        scores.append(10 * total / len(texts))
    return sum(scores) / len(scores), scores


def _cosines(hypothesis: Mapping[NGram, float], reference: Mapping[NGram, float]) -> list[float]:
    """The cosines of the two vectors for n = 1 to 4; weights of the hypothesis are cut at those of the reference."""
    products, squares, reference_squares = [0.0] * 4, [0.0] * 4, [0.0] * 4
    for gram, weight in hypothesis.items():
        squares[len(gram) - 1] += weight**2
        if gram in reference:
            products[len(gram) - 1] += min(weight, reference[gram]) * reference[gram]
    for gram, weight in reference.items():
        reference_squares[len(gram) - 1] += weight**2
    norms = [sqrt(a) * sqrt(b) for a, b in zip(squares, reference_squares, strict=True)]
    return [product / norm if norm else product for product, norm in zip(products, norms, strict=True)]


def bleu(references: References, hypotheses: Hypotheses) -> list[CaptionScores]:
    """BLEU-1 to BLEU-4 of the closest reference length, smoothed by 1e-15 above and 1e-9 below each fraction line."""
    totals = [0] * 10
    per_image = []
    for texts, hypothesis in zip(references, hypotheses, strict=True):
        statistics = _bleu_statistics(texts, hypothesis)
        totals = [total + number for total, number in zip(totals, statistics, strict=True)]
        per_image.append(_bleu_of(statistics))
    return [
        (corpus, list(scores)) for corpus, scores in zip(_bleu_of(totals), zip(*per_image, strict=True), strict=True)
    ]


def _bleu_statistics(references: Sequence[str], hypothesis: str) -> list[int]:
    """The hypothesis' length, the closest reference's, for n = 1 to 4 the matches, for n = 1 to 4 the n-grams."""
    length = len(hypothesis.split())
    closest = min((abs(len(text.split()) - length), len(text.split())) for text in references)[1]
    highest: Counter[NGram] = Counter()
    for text in references:
        highest |= _counts(text)
    matches = [0] * 4
    for gram, count in (_counts(hypothesis) & highest).items():
        matches[len(gram) - 1] += count
    return [length, closest, *matches, *(max(0, length - n) for n in range(4))]


def _bleu_of(statistics: Sequence[int]) -> list[float]:
    length, closest, matches, possible = statistics[0], statistics[1], statistics[2:6], statistics[6:]
    ratio = (length + 1e-15) / (closest + 1e-9)
    brevity = exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n, (correct, guesses) in enumerate(zip(matches, possible, strict=True), start=1):
        product *= (correct + 1e-15) / (guesses + 1e-9)
        scores.append(product ** (1 / n) * brevity)
    return scores


def rouge_l(references: References, hypotheses: Hypotheses, beta: float = 1.2) -> CaptionScores:
    """ROUGE-L: F-score of the longest common subsequence, the best precision and recall each from any reference."""
    scores = []
    for texts, hypothesis in zip(references, hypotheses, strict=True):
        words = hypothesis.split(" ")  # an empty text is one empty word to the official scorer
        common = [(_longest_common_subsequence(text.split(" "), words), len(text.split(" "))) for text in texts]
        precision = max(length for length, _ in common) / len(words)
        recall = max(length / reference for length, reference in common)
        both = recall + beta**2 * precision
        scores.append((1 + beta**2) * precision * recall / both if both else 0.0)
    return sum(scores) / len(scores), scores


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    row = [0] * (len(second) + 1)
    for a in first:
        diagonal = 0
        for j, b in enumerate(second, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if a == b else max(row[j], row[j - 1])
    return row[-1]


def _counts(text: str) -> Counter[NGram]:
    """The count of each n-gram of 1 to 4 words in the text."""
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


def _bigrams(counts: Counter[NGram]) -> int:
    return sum(count for gram, count in counts.items() if len(gram) == 2)


def _check(references: Mapping[Id, Sequence[str]], hypotheses: Mapping[Id, str], metrics: Collection[str]) -> None:
    if isinstance(metrics, str):
        raise ValueError(f"metrics is a list of names, got the text {metrics!r}: put it in a list")
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"unknown caption metrics {unknown}: choose from {', '.join(METRICS)}")
    without_caption = [image for image in references if image not in hypotheses]
    without_references = [image for image in hypotheses if image not in references]
    if without_caption or without_references:
        raise ValueError(
            "references and hypotheses must have the same ids: "
            f"{len(without_caption)} without a hypothesis {without_caption[:5]}, "
            f"{len(without_references)} without references {without_references[:5]}"
        )
    if not references:
        raise ValueError("no captions to score: references and hypotheses are empty")
    if wrong := [image for image, texts in references.items() if isinstance(texts, str) or not texts]:
        raise ValueError(f"each image needs a list of at least one reference; not so for {wrong[:5]}")
    captions = {image: [*texts, hypotheses[image]] for image, texts in references.items()}
    if wrong := [image for image, texts in captions.items() if not all(isinstance(text, str) for text in texts)]:
        raise ValueError(f"captions must be texts; not so for image {wrong[0]!r}: {captions[wrong[0]]!r:.200}")
