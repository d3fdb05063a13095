r"""Whether two LaTeX answers of the MATH benchmark are the same: string equality after a fixed rewriting.

Nothing is computed: `\frac{2}{4}` and `\frac{1}{2}` differ. Source: evaluation specification 13.3, the equivalence of
Hendrycks' MATH as AGIEval's scorer carries it.
"""

import re

# In this order, before units are cut off.
_REWRITES = (
    ("\n", ""),
    ("\\!", ""),  # negative space
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)
# After units are cut off. A bare percent or dollar sign stays.
_LATE_REWRITES = (("\\%", ""), (" .", " 0."), ("{.", "{0."))
_UNIT = "\\text{ "  # with the space: "\text{cm}" stays
_INTEGER = "(0|-?[1-9][0-9]*)"  # as Python prints integers; "+1", "01" and "-0" are not rewritten
_SLASH = re.compile(f"{_INTEGER}/{_INTEGER}")


def math_equivalent(a: str | None, b: str | None) -> bool:
    r"""Whether two LaTeX answers are equal under the string rules of the MATH benchmark.

    Where the rules cannot be applied to one of the two (a second `\text{ `, a `\sqrt` or `\frac` with nothing
    behind it), both are compared as they are. None (no answer found) equals None only.
    """
    if a is None or b is None:
        return a is b
    try:
        return _canonical(a) == _canonical(b)
    except _NotRewritable:
        return a == b


class _NotRewritable(Exception):
    """The rules do not apply to this text."""


def _canonical(text: str) -> str:
    for old, new in _REWRITES:
        text = text.replace(old, new)
    text = _without_unit(text)
    for old, new in _LATE_REWRITES:
        text = text.replace(old, new)
    if text.startswith("."):
        text = "0" + text
    text = _without_short_left_side(text)
    text = _brace_root_arguments(text).replace(" ", "")
    text = _brace_fraction_arguments(text)
    if text == "0.5":  # the only decimal that is known to be a fraction
        return "\\frac{1}{2}"
    slash = _SLASH.fullmatch(text)
    return slash.expand(r"\\frac{\1}{\2}") if slash else text


def _without_unit(text: str) -> str:
    if text.count(_UNIT) > 1:
        raise _NotRewritable
    return text.partition(_UNIT)[0]


def _without_short_left_side(text: str) -> str:
    """`x=5` and `x =5` give `5`: one equals sign, at most two characters before it, a space being one."""
    left, _, right = text.partition("=")
    return right if text.count("=") == 1 and len(left) <= 2 else text


def _brace_root_arguments(text: str) -> str:
    r"""`\sqrt3` gives `\sqrt{3}`. Runs before spaces go, so `\sqrt 3` gives `\sqrt{ }3`, an empty root in the end."""
    before, *roots = text.split("\\sqrt")
    braced = [before]
    for root in roots:
        if not root:
            raise _NotRewritable
        braced.append(root if root[0] == "{" else f"{{{root[0]}}}{root[1:]}")
    return "\\sqrt".join(braced)


def _brace_fraction_arguments(text: str) -> str:
    r"""`\frac12` gives `\frac{1}{2}` and `\frac1{72}` gives `\frac{1}{72}`, but `\frac{72}1` stays.

    A fraction with a single character behind it leaves the whole text as it was, fractions before it included.
    """
    before, *fractions = text.split("\\frac")
    braced = [before]
    for fraction in fractions:
        if not fraction:
            raise _NotRewritable
        if fraction[0] == "{":
            braced.append(fraction)
        elif len(fraction) == 1:
            return text
        elif fraction[1] == "{":
            braced.append(f"{{{fraction[0]}}}{fraction[1:]}")
        else:
            braced.append(f"{{{fraction[0]}}}{{{fraction[1]}}}{fraction[2:]}")
    return "\\frac".join(braced)
