"""Answers in the text that a model generated for BIG-Bench Hard. Source: evaluation specification 13.2."""

import re

_ANNOUNCEMENT = "answer is "
_ANNOUNCEMENT_2026 = re.compile(r"answer is\s*:?\s*", re.IGNORECASE)
_OPTION = re.compile(r"\(([A-Z])")
_CAPITAL = re.compile("[A-Z]")
_BOLD = re.compile(r"\*\*(.*?)\*\*")
_TRUTH_VALUE = re.compile(r"(yes|no|true|false)\b", re.IGNORECASE)
_COMMA_BETWEEN_DIGITS = re.compile(r"\d\s*,\s*\d")

_KINDS = ("choice", "free")
_PROTOCOLS = ("opencompass2023", "opencompass2026")


def bbh_answer(text: str, kind: str, protocol: str = "opencompass2023") -> str:
    """The answer in a generated text, as OpenCompass finds it.

    Args:
        text: What the model generated. Targets of choice tasks go through this function too: "(A)" gives "A".
        kind: "choice" for the 17 tasks with lettered options, "free" for the other 10.
        protocol: "opencompass2023" compares a free answer with the untouched target, letter for letter.
            "opencompass2026" parses free targets too and compares them without regard to case; choices are the same.

    Returns:
        A choice's letter; where there is no capital letter, the text that was searched. A free answer, maybe "".

    Raises:
        ValueError: An unknown kind or protocol.
    """
    if kind not in _KINDS:
        raise ValueError(f"unknown kind of BBH answer {kind!r}: use one of {', '.join(_KINDS)}")
    if protocol not in _PROTOCOLS:
        raise ValueError(f"unknown BBH protocol {protocol!r}: use one of {', '.join(_PROTOCOLS)}")
    if kind == "choice":
        return _choice(text)
    return _free_form_2023(text) if protocol == "opencompass2023" else _free_form_2026(text)


def _announced(text: str) -> str:
    """What stands between the first "answer is " and a second one; the text as it is where there is none."""
    parts = text.split(_ANNOUNCEMENT)
    return parts[1].strip() if len(parts) > 1 else text


def _choice(text: str) -> str:
    """The first capital behind an opening parenthesis, "(All" included; else the first capital letter."""
    text = _announced(text)
    if match := _OPTION.search(text):
        return match.group(1)
    match = _CAPITAL.search(text)
    return match.group() if match else text


def _free_form_2023(text: str) -> str:
    return _announced(text).split("\n")[0].removesuffix(".")


def _free_form_2026(text: str) -> str:
    announced = _ANNOUNCEMENT_2026.split(text)
    text = announced[-1].strip() if len(announced) > 1 else text
    text = text.split("\n")[0].strip().removesuffix(".").strip()
    if bold := _BOLD.search(text):
        text = bold.group(1).strip()
    if truth_value := _TRUTH_VALUE.match(text):
        return truth_value.group().capitalize()
    if not _COMMA_BETWEEN_DIGITS.search(text):
        text = text.replace(",", " ")
    return " ".join(text.split())
