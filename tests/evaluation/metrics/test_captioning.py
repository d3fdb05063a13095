"""Caption scores: cases worked out by hand from the specification, and numbers recorded from pycocoevalcap 1.2."""

import json
import subprocess
import sys
from math import exp, sqrt
from pathlib import Path

import pytest

from owl2.evaluation.metrics import caption_scores

RECORDED = json.loads(Path(__file__).with_name("caption_scores.json").read_text("utf-8"))
ALL_BUT_METEOR = ("CIDEr", "BLEU_1", "BLEU_2", "BLEU_3", "BLEU_4", "ROUGE_L")


def corpus(metric: str, references: dict[int, list[str]], hypotheses: dict[int, str]) -> float:
    return caption_scores(references, hypotheses, (metric,))[metric].corpus


@pytest.mark.parametrize("metric", ALL_BUT_METEOR)
def test_scores_are_those_of_the_official_scorers(metric: str) -> None:
    references = {int(image): texts for image, texts in RECORDED["references"].items()}
    hypotheses = {int(image): text for image, text in RECORDED["hypotheses"].items()}
    score = caption_scores(references, hypotheses, ALL_BUT_METEOR)[metric]
    official = RECORDED["scores"][metric]
    assert score.corpus == pytest.approx(official["corpus"], abs=1e-9)
    assert score.per_image == pytest.approx({int(i): s for i, s in official["per_image"].items()}, abs=1e-9)


def test_cider_of_captions_equal_to_their_only_reference() -> None:
    texts = {1: "a dog runs on grass", 2: "two cats sleep under tables"}
    assert corpus("CIDEr", {i: [t] for i, t in texts.items()}, texts) == pytest.approx(10)
    texts = {1: "red dog", 2: "blue cat"}  # no 3-grams, no 4-grams: two of four cosines are 1
    assert corpus("CIDEr", {i: [t] for i, t in texts.items()}, texts) == pytest.approx(5)


def test_cider_counts_a_difference_of_length_in_bigrams() -> None:
    score = caption_scores({1: ["red dog"], 2: ["blue cat"]}, {1: "red", 2: ""})["CIDEr"]
    assert score.per_image[1] == pytest.approx(10 / 4 / sqrt(2) * exp(-1 / 72))
    assert score.per_image[2] == 0
    assert score.corpus == pytest.approx(score.per_image[1] / 2)  # an empty caption counts


def test_cider_clips_repeated_words_and_averages_over_references() -> None:
    score = caption_scores({1: ["dog", "bus"], 2: ["cat"]}, {1: "dog dog dog", 2: "cat"})["CIDEr"]
    # Weights 3 ln 2 and ln 2, clipped to ln 2: cosine 1/3. Lengths differ by two bigrams. One of two references.
    assert score.per_image[1] == pytest.approx(10 / 4 * (1 / 3) * exp(-4 / 72) / 2)


def test_cider_gives_no_weight_to_words_that_every_image_has() -> None:
    score = caption_scores({1: ["dog"], 2: ["dog", "cat"]}, {1: "dog", 2: "cat"})["CIDEr"]
    assert score.per_image[1] == 0
    assert score.per_image[2] == pytest.approx(10 / 4 / 2)
    assert corpus("CIDEr", {1: ["a dog runs"]}, {1: "a dog runs"}) == 0  # one image: ln 1


def test_bleu_clips_matches_by_the_reference_that_has_most() -> None:
    references = {1: ["the cat sat", "a the the cat here now"]}
    score = caption_scores(references, {1: "the the the cat"}, ("BLEU_1", "BLEU_2"))
    assert score["BLEU_1"].corpus == pytest.approx(3 / 4)
    assert score["BLEU_2"].corpus == pytest.approx(sqrt(3 / 4 * 2 / 3))


def test_bleu_takes_the_closest_reference_length_and_of_two_the_shorter() -> None:
    assert corpus("BLEU_1", {1: ["a b c d", "a b c d e f g"]}, {1: "a b"}) == pytest.approx(exp(1 - 4 / 2))
    assert corpus("BLEU_1", {1: ["a b c d e", "a b c"]}, {1: "a b c d"}) == pytest.approx(1)


def test_corpus_bleu_adds_up_matches_and_lengths_before_dividing() -> None:
    score = caption_scores({1: ["a b c"], 2: ["d e f g"]}, {1: "a x", 2: "d e f y z"}, ("BLEU_1",))["BLEU_1"]
    assert score.corpus == pytest.approx(4 / 7)
    assert score.per_image == pytest.approx({1: 1 / 2 * exp(1 - 3 / 2), 2: 3 / 5})


def test_rouge_takes_precision_and_recall_from_different_references() -> None:
    precision, recall = 3 / 4, 2 / 2  # of "a x b y c" and of "a b"
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert corpus("ROUGE_L", {1: ["a b", "a x b y c"]}, {1: "a b c d"}) == pytest.approx(expected)
    assert corpus("ROUGE_L", {1: ["a b"]}, {1: "d"}) == 0


def test_captions_are_tokenized_before_they_are_scored() -> None:
    written = {1: "A DOG, running!", 2: "The cat doesn't sleep."}
    references = {1: ["a dog running"], 2: ["the cat does n't sleep"]}
    assert corpus("ROUGE_L", references, written) == pytest.approx(1)
    assert corpus("ROUGE_L", {i: [text] for i, text in written.items()}, {1: "a dog running", 2: references[2][0]}) == 1


def test_the_order_of_images_changes_nothing() -> None:
    references = {1: ["a dog runs"], 2: ["a cat sleeps"], 3: ["two birds fly over a house"]}
    hypotheses = {3: "birds fly over a house", 1: "a dog", 2: "a cat sleeps"}
    score = caption_scores(references, hypotheses)["CIDEr"]
    assert list(score.per_image) == [1, 2, 3]
    assert score.per_image == caption_scores(references, dict(sorted(hypotheses.items())))["CIDEr"].per_image


def test_ids_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match=r"0 without a hypothesis \[\], 1 without references \[2\]"):
        caption_scores({1: ["x"]}, {1: "x", 2: "y"})
    with pytest.raises(ValueError, match=r"1 without a hypothesis \['b'\], 1 without references \['c'\]"):
        caption_scores({"a": ["x"], "b": ["y"]}, {"a": "x", "c": "y"})


@pytest.mark.parametrize(
    ("references", "hypotheses", "metrics", "message"),
    [
        ({}, {}, ("CIDEr",), "no captions"),
        ({7: []}, {7: "x"}, ("CIDEr",), r"at least one reference; not so for \[7\]"),
        ({7: "a dog"}, {7: "x"}, ("CIDEr",), r"list of at least one reference; not so for \[7\]"),
        ({7: ["x"], 8: ["x"]}, {7: "x", 8: None}, ("CIDEr",), r"must be texts; not so for image 8: \['x', None\]"),
        ({7: ["x", 3]}, {7: "x"}, ("CIDEr",), r"must be texts; not so for image 7"),
        ({7: ["x"]}, {7: "x"}, "CIDEr", "list of names, got the text 'CIDEr'"),
        ({7: ["x"]}, {7: "x"}, ("SPICE",), r"unknown caption metrics \['SPICE'\]: choose from CIDEr"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    references: dict, hypotheses: dict, metrics: tuple | str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        caption_scores(references, hypotheses, metrics)


def test_meteor_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("owl2.evaluation.metrics.meteor.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install pycocoevalcap"):
        caption_scores({1: ["a dog"]}, {1: "a dog"}, ("METEOR",))


@pytest.fixture
def meteor_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `pycocoevalcap` with a jar, and a path on which there is no Java yet."""
    jar = tmp_path / "pycocoevalcap" / "meteor" / "meteor-1.5.jar"
    jar.parent.mkdir(parents=True)
    jar.touch()
    (tmp_path / "pycocoevalcap" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def install_java(folder: Path, program: str) -> None:
    java = folder / "bin" / "java"
    java.write_text(f"#!{sys.executable}\nimport sys\n{program}")
    java.chmod(0o755)


def test_meteor_without_java_says_so(meteor_package: Path) -> None:
    with pytest.raises(RuntimeError, match="install a Java runtime"):
        caption_scores({1: ["a dog"]}, {1: "a dog"}, ("METEOR",))


def test_meteor_speaks_the_protocol_of_its_program(meteor_package: Path) -> None:
    log = meteor_package / "log"
    install_java(
        meteor_package,
        f"""
log = open({str(log)!r}, "w", buffering=1)
log.write(" ".join(sys.argv[1:]) + "\\n")
for line in sys.stdin:
    log.write(line)
    images = line.count("|||")
    print("7.0 8.0" if line.startswith("SCORE") else "\\n".join(str(i / 4) for i in range(images + 1)), flush=True)
""",
    )
    score = caption_scores({1: ["A dog.", "The dog!"], 2: ["A cat."]}, {1: "Dogs,", 2: "Cats"}, ("METEOR",))["METEOR"]
    arguments, *asked = log.read_text().splitlines()
    assert arguments.endswith(f"-jar {meteor_package}/pycocoevalcap/meteor/meteor-1.5.jar - - -stdio -l en -norm")
    assert asked == [
        "SCORE ||| a dog ||| the dog ||| dogs",
        "SCORE ||| a cat ||| cats",
        "EVAL ||| 7.0 8.0 ||| 7.0 8.0",
    ]
    assert score.per_image == {1: 0.0, 2: 0.25}
    assert score.corpus == 0.5  # what the program answers last


def test_a_meteor_program_that_dies_is_no_score(meteor_package: Path) -> None:
    install_java(meteor_package, "sys.exit(1)")
    with pytest.raises(RuntimeError, match="ended without an answer"):
        caption_scores({1: ["a dog"]}, {1: "a dog"}, ("METEOR",))


def meteor_is_there() -> bool:
    try:
        import pycocoevalcap  # noqa: F401

        return subprocess.run(["java", "-version"], capture_output=True).returncode == 0
    except (ImportError, OSError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not meteor_is_there(), reason="needs pycocoevalcap and Java")
def test_meteor_is_that_of_the_official_scorer() -> None:
    references = {int(image): texts for image, texts in RECORDED["references"].items()}
    hypotheses = {int(image): text for image, text in RECORDED["hypotheses"].items()}
    score = caption_scores(references, hypotheses, ("METEOR",))["METEOR"]
    official = RECORDED["scores"]["METEOR"]
    assert score.corpus == pytest.approx(official["corpus"], abs=1e-9)
    assert score.per_image == pytest.approx({int(i): s for i, s in official["per_image"].items()}, abs=1e-9)
