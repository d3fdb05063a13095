"""SEED-Bench: the letter of a generated answer (specification, section 7)."""

_LETTERS = ("A", "B", "C", "D")


def seed_choice(prediction: str, protocol: str = "first_char") -> str | None:
    """The option that a generated answer chooses: A, B, C, D, or `None` where it chooses none, which is wrong.

    Args:
        prediction: Raw text.
        protocol: "first_char" (lmms-eval) takes the first character after stripping, in either case, so "a dog" is
            A and "(A)" nothing; "exact" (LLaVA) takes only a text that is the capital letter and nothing else. The
            official ranking of option texts by likelihood chooses without a text to parse.

    Raises:
        ValueError: Unknown protocol.
    """
    if protocol == "first_char":
        letter = prediction.strip()[:1].upper()
    elif protocol == "exact":
        letter = prediction
    else:
        raise ValueError(f"unknown SEED-Bench protocol {protocol!r}, known are 'first_char' and 'exact'")
    return letter if letter in _LETTERS else None
