"""Reads replies of judges: MM-Vet, MMHal-Bench, video question answering (specification, sections 10 to 12).

Each reads replies as the benchmark's official script does, except for replies that make it crash or poison its means.
"""

import ast
import math
import warnings

_MMHAL_RATINGS = range(7)


def mmvet_score(reply: str) -> float | None:
    """The correctness, 0 to 1, that an MM-Vet reply begins with; `None` asks for another reply.

    It is the text before the first space, so " 0.5" has none and "0.5 because" is 0.5. "nan", which the official
    evaluator lets pass, has none.
    """
    try:
        score = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return score if math.isfinite(score) and 0.0 <= score <= 1.0 else None


def mmhal_score(reply: str) -> int:
    """The rating, 0 to 6, in an MMHal-Bench reply; below 3 the answer hallucinates.

    It is the one digit of 0 to 6 that follows "rating: ", in any case ("Rating: 10" is 1). A reply with none
    ("Rating:4", "**Rating:** 4") or with different ones is 0, with a warning.
    """
    found = mmhal_ratings(reply)
    if len(found) == 1:
        return found[0]
    warnings.warn(f"an MMHal-Bench reply has ratings {found}, not one: scored 0. Reply: {reply!r:.200}", stacklevel=2)
    return 0


def mmhal_ratings(reply: str) -> list[int]:
    """The different ratings in an MMHal-Bench reply, as `mmhal_score` looks for them."""
    text = reply.lower()
    return [rating for rating in _MMHAL_RATINGS if f"rating: {rating}" in text]


def video_judge_reply(reply: str) -> tuple[str, int] | None:
    """Verdict and score of a reply in video question answering, as Video-ChatGPT reads it; `None` if it has none.

    The reply is a Python dictionary and nothing else: a code fence or a word around it fails. It is only ever parsed
    as a literal, never run.

    Returns:
        The verdict: "yes" if `pred` contains yes, else "no" if it contains no ("unknown" does), else `pred` as it
        stands, which counts for neither. The score: `score` as an integer, cut towards 0, a numeric string included.
    """
    try:
        fields = ast.literal_eval(reply)
        verdict, score = fields["pred"], int(fields["score"])
    except (ValueError, SyntaxError, TypeError, KeyError, OverflowError, MemoryError, RecursionError):
        return None
    if not isinstance(verdict, str):
        return None
    said = (word for word in ("yes", "no") if word in verdict.lower())
    return next(said, verdict), score
