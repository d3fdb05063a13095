"""Choices ranked by likelihood, in the ways of the programs that do so (specification, 13)."""

from owl2.evaluation.task import Ranking


def likeliest(ranking: Ranking) -> int:
    """Index of the choice with the highest summed log-probability; the first one of equals."""
    return ranking.best()


def likeliest_per_character(ranking: Ranking) -> int:
    """The choice of lm-eval's `acc_norm`: log-probability divided by the characters without outer white space."""
    scores = [
        value / max(1, len(choice.strip()))
        for value, choice in zip(ranking.log_probabilities, ranking.choices, strict=True)
    ]
    return scores.index(max(scores))


def likeliest_sequence(ranking: Ranking) -> int:
    """OpenCompass' choice: the lowest mean negative log-likelihood over prompt and choice together.

    Where all choices have the same number of tokens this is the likeliest choice, whatever the prompt.

    Raises:
        ValueError: The likelihood of the prompt is needed, but was not kept.
    """
    if len(set(ranking.tokens)) == 1:
        return likeliest(ranking)
    if ranking.context_tokens == 0:
        raise ValueError(
            f"the choices {ranking.choices} have {ranking.tokens} tokens: whole sequences can only be compared if the "
            "likelihood of the prompt was kept"
        )
    means = [
        (ranking.context_log_probability + value) / (ranking.context_tokens + tokens)
        for value, tokens in zip(ranking.log_probabilities, ranking.tokens, strict=True)
    ]
    return means.index(max(means))
