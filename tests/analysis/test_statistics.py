"""Statistics of paired seeds, against plain restatements, published examples and the tests' own definitions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from owl2.analysis.statistics import (
    Interval,
    PairedComparison,
    bca_interval,
    compare,
    equivalence_p,
    finding,
    holm,
    nested_interval,
    sign_flip_p,
)

DIFFERENCES = [1.2, 0.4, -0.3, 2.1, 0.9, 1.5, 0.2, 0.7]


def test_n_seeds_of_one_sign_reach_the_least_p_and_no_less():
    for seeds, least in ((3, 0.25), (6, 0.03125), (8, 0.0078125)):
        assert sign_flip_p([0.1 * (index + 1) for index in range(seeds)]) == least


def test_the_sign_flip_test_is_scipys_permutation_test_of_pairs():
    found = stats.permutation_test(
        (np.array(DIFFERENCES), np.zeros(8)),
        lambda one, other, axis: np.mean(one - other, axis=axis),
        permutation_type="samples",
        n_resamples=math.inf,
        vectorized=True,
    )
    assert sign_flip_p(DIFFERENCES) == pytest.approx(found.pvalue)


def test_no_difference_at_all_is_no_evidence_of_one():
    assert sign_flip_p([0.0] * 8) == 1.0


def test_many_seeds_are_sampled_and_agree_with_all_signs():
    values = np.random.default_rng(1).normal(0.3, 1, 17)
    exact = np.mean([abs(np.where(signs, values, -values).sum()) >= abs(values.sum()) for signs in _all_signs(17)])
    assert sign_flip_p(values) == pytest.approx(exact, abs=0.015)


def _all_signs(count: int) -> np.ndarray:
    return (np.arange(2**count)[:, None] >> np.arange(count)) & 1 == 1


def test_holm_is_the_procedure_of_its_definition():
    # Reject the smallest while p(k) <= alpha / (m - k + 1): a corrected p is the least alpha at which it is rejected.
    p_values = [Fraction(1, 100), Fraction(4, 100), Fraction(3, 100), Fraction(5, 1000)]
    corrected = holm([float(p) for p in p_values])
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    for alpha in (0.01, 0.019, 0.021, 0.031, 0.059, 0.061):
        rejected = set()
        for rank, index in enumerate(sorted(range(4), key=lambda number: p_values[number])):
            if float(p_values[index]) > alpha / (4 - rank):
                break
            rejected.add(index)
        assert rejected == {index for index, p in enumerate(corrected) if p <= alpha}


def test_the_bca_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = [low <= 1 <= high for low, high in (bca_interval(generator.exponential(1, 40)) for _ in range(60))]
    assert 0.8 <= np.mean(covered) <= 1  # a skewed sample of 40: near 0.93


def test_an_interval_over_questions_holds_both_kinds_of_chance():
    generator = np.random.default_rng(0)
    seeds = generator.normal(0.05, 0.02, 8)
    questions = [generator.normal(seed, 0.5, 400) for seed in seeds]
    low, high = nested_interval(questions)
    width = 2 * 1.96 * math.sqrt((np.var([q.mean() for q in questions], ddof=0) + 0.25 / 400) / 8)
    assert low < np.mean([q.mean() for q in questions]) < high
    assert high - low == pytest.approx(width, rel=0.1)


def test_equivalence_is_the_harder_of_two_one_sided_tests():
    values, margin = np.array([0.2, -0.1, 0.3, 0.0, 0.1, -0.2]), 1.0
    t = [(values.mean() + bound) / (values.std(ddof=1) / math.sqrt(6)) for bound in (margin, -margin)]
    assert equivalence_p(values, margin) == pytest.approx(max(stats.t.sf(t[0], 5), stats.t.cdf(t[1], 5)))
    assert equivalence_p(values, 0.05) > 0.05  # a margin within the noise shows nothing


def test_what_may_be_said_is_one_of_four_things():
    close = compare([0.001, -0.002, 0.0, 0.001, -0.001, 0.002, 0.0, -0.001], margin=0.01)
    far = compare([0.10, 0.12, 0.09, 0.11, 0.10, 0.13, 0.08, 0.10], margin=0.01)
    few = compare([0.1, -0.05], margin=0.01)
    assert finding(close, 1.0) == "equivalent"
    assert finding(far, far.sign_flip_p) == "appears"
    assert finding(far._replace(mean=-far.mean), far.sign_flip_p) == "reversed"
    assert finding(far, far.sign_flip_p, better="less") == "reversed"
    assert finding(far._replace(mean=-far.mean), far.sign_flip_p, better="less") == "appears"
    assert finding(far, 0.06) == finding(few, few.sign_flip_p) == "cannot be told apart"


def test_one_seed_is_shown_without_any_claim():
    alone = compare([0.5], margin=0.01)
    assert (alone.seeds, alone.mean, alone.sign_flip_p) == (1, 0.5, 1.0)
    assert all(math.isnan(value) for value in (alone.deviation, alone.equivalence_p, *alone.over_seeds))


def test_equal_differences_have_an_interval_of_no_width():
    assert compare([0.25] * 4, margin=0.01) == PairedComparison(4, 0.25, 0.0, Interval(0.25, 0.25), None, 0.125, 1.0)


@pytest.mark.parametrize(
    ("differences", "margin", "questions", "message"),
    [
        ([], 0.01, None, "one difference a seed"),
        ([0.1], 0.0, None, "must be positive, got 0.0"),
        ([0.1, 0.2], 0.01, [[1, 0]], "2 seeds, but questions of 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(differences, margin, questions, message):
    with pytest.raises(ValueError, match=message):
        compare(differences, margin, questions)
