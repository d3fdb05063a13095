"""The Penn Treebank tokenizer of the COCO caption evaluation, without Java.

`ptb_tokenize` gives the tokens of Stanford PTBTokenizer 3.4.1 run with `-preserveLines -lowerCase`, less the
punctuation that the evaluation drops (evaluation specification, section 1). It was written by observing that program,
and agrees with it on a large sample of captions.

The text is cut from left to right. At each place every rule of `ptb_rules` is tried; the one that sees the most text
wins, the earlier one if two see the same. Text that a rule only looks at, its group `after`, counts as seen.
"""

import re
from functools import cache

from .rules import Rule, compiled_rules

# The stop list of the official evaluation. Brackets come out in lower case (`-lrb-`) and so are never dropped by it.
DROPPED = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())

# Characters at which the official program ends a line, which would shift every later caption by one.
LINE_BREAKS = re.compile("[\n\r\v\f\u2028\u2029]")


# The common case, in front of the rules: a lower-case word followed by a space.
PLAIN_WORD = re.compile("[a-z]+(?=[ \n])")
SPLIT_WORDS = frozenset("cannot gonna gotta lemme gimme wanna".split())


def ptb_tokenize(captions: list[str]) -> list[str]:
    """Tokenizes captions as the official COCO caption evaluation does.

    Lower case; clitics split (`doesn't` becomes `does n't`); punctuation of the stop list dropped; brackets kept as
    `-lrb-`; emoji and other unknown characters dropped. Line breaks inside a caption count as spaces.

    The official program reads all captions as one text, one a line, and a few of its rules look past the end of a line.
    This is reproduced: `no.` keeps its period if the next caption begins with a number, and at the very end of the last
    caption `they'll` gives `they ll`.

    Args:
        captions: Any number of texts.

    Returns:
        For each caption its tokens joined by a space. A token may hold no-break spaces (`3 1/2`, telephone numbers).

    Raises:
        ValueError: One text instead of a list of them, or a caption that is no text.
    """
    if isinstance(captions, str):
        raise ValueError(f"captions is a list of texts, got the text {captions!r:.200}")
    if wrong := [index for index, caption in enumerate(captions) if not isinstance(caption, str)]:
        raise ValueError(f"caption {wrong[0]} must be a text, got {captions[wrong[0]]!r:.200}")
    text = "\n".join(LINE_BREAKS.sub(" ", caption) for caption in captions)
    # As the official evaluation reads the program's answer: the end of a line stripped, then cut at spaces alone.
    lines = [" ".join(tokens).lower().rstrip().split(" ") for tokens in _lines(text)] if captions else []
    return [" ".join(token for token in line if token not in DROPPED) for line in lines]


def _lines(text: str) -> list[list[str]]:
    """The tokens of each line."""
    rules = _rules()
    lines: list[list[str]] = [[]]
    position = 0
    while position < len(text):
        if text[position] == "\n":
            lines.append([])
        plain = PLAIN_WORD.match(text, position)
        if plain and plain.group() not in SPLIT_WORDS:
            position = plain.end()
            lines[-1].append(plain.group())
        else:
            position, tokens = _longest(text, position, rules)
            lines[-1].extend(tokens)
    return lines


def _longest(text: str, position: int, rules: list[Rule]) -> tuple[int, list[str]]:
    """The end of the next token and the text written for it, which is empty for white space and unknown characters."""
    best, end, seen = None, position + 1, position
    for pattern, write in rules:
        match = pattern.match(text, position)
        if match and (reach := match.end("after") if "after" in pattern.groupindex else match.end()) > seen:
            best, end, seen = (write, match.group()), match.end(), reach
    return end, best[0](best[1]) if best else []


@cache
def _rules() -> list[Rule]:
    return compiled_rules()
