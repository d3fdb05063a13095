"""The rules of the Penn Treebank tokenizer for captions: what is one token, and how it is written.

A rule is a pattern and a function from the matched text to its tokens. A pattern may look at text that it does not
take, in a look-ahead group named `after`. `ptb_tokenizer` says which rule wins.
"""

import re
from collections.abc import Callable

from .tables import (
    CAPITALIZED_PLACES,
    DIGITS,
    LETTERS,
    LOWER_CASE_COMPANIES,
    NUMBERED,
    PLACES_DATES_COMPANIES,
    STARTS,
    SYMBOLS,
    TITLES,
    WORD_MARKS,
    character_class,
)

Rule = tuple[re.Pattern[str], Callable[[str], list[str]]]

BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
CURRENCY = {"£": "#", "¢": "cents", "€": "$", "¤": "$", "₠": "$", "\u0080": "$"}
FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
ENTITIES = {
    "&lt": "<",
    "&gt": ">",
    "&amp": "&",
    "&quot": "''",
    "&apos": "'",
    "&mdash": "--",
    "&ndash": "--",
    "&md": "--",
}
# Windows-1252 quotes stand at U+0091 to U+0094.
QUOTES = {character: "`" for character in "\u0091‘‛‹"}
QUOTES |= {character: "'" for character in "\u0092’›"}
QUOTES |= {character: "``" for character in "\u0093«“"}
QUOTES |= {character: "''" for character in "\u0094»”"}


def _verbatim(text: str) -> list[str]:
    """Writes one token; a space inside becomes a no-break space."""
    return [text.replace(" ", "\u00a0")]


def _whole(text: str) -> list[str]:
    """Writes one token as `_verbatim` does, but without soft hyphens."""
    return [_verbatim(text)[0].replace("\u00ad", "") or "-"]


def _with_plain_apostrophe(text: str) -> list[str]:
    return _whole(re.sub(f"[{BACKTICKS}]", "`", re.sub(APOSTROPHE, "'", text)))


def _with_round_brackets_named(text: str) -> list[str]:
    return _whole(text.replace("(", BRACKETS["("]).replace(")", BRACKETS[")"]))


def _entity(text: str) -> list[str]:
    return [ENTITIES[text.rstrip(";").lower()]]


def _quotes(text: str) -> list[str]:
    return ["".join(QUOTES.get(character, character) for character in text)]


def _any(words: list[str]) -> str:
    return "(?:" + "|".join(sorted(words, key=len, reverse=True)) + ")"


def _capitalized(words: list[str]) -> str:
    return _any([f"{word[0].upper()}(?i:{re.escape(word[1:])})" for word in words])


SPACE = "[ \t\n\u0085\u00a0\u2000-\u200a\u3000]"
APOSTROPHE = "(?:['\u0092’]|&apos;)"
NO_PLAIN_APOSTROPHE = "(?:[\u0092’]|&apos;)"
BACKTICKS = "`\u0091‘‛"
LOOSE_APOSTROPHE = f"(?:{APOSTROPHE}|[{BACKTICKS}])"
ACCENTED = "&[aeiouAEIOU](?:acute|grave|uml);"

_letters, _digits = character_class(LETTERS), character_class(DIGITS)
LETTER, DIGIT, ALNUM = f"[{_letters}]", f"[{_digits}]", f"[{_letters}{_digits}]"
WORD_LETTER = f"(?:[{_letters}{character_class(WORD_MARKS)}\u00ad]|{ACCENTED})"
WORD_PART = f"{WORD_LETTER}(?:{WORD_LETTER}|{DIGIT})*"
WORD = f"{WORD_PART}(?:[.!?]{WORD_PART})*"

_elided = f"(?:[dDoOlL]{LOOSE_APOSTROPHE}{ALNUM})?{ALNUM}+"
HYPHENATED = f"{_elided}(?:[-_֊‐‑]{_elided})*"
INITIALS = r"[A-Za-z](?:\.[A-Za-z])*\."
HYPHENATED_WITH_DOTS = r"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\u00ad]+))+"
_slashed_part = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
SLASHED = rf"{_slashed_part}(?:\\?/{_slashed_part}){{1,2}}"

LINKED_CAPITALS = "[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+"

NUMBER = rf"[-+]?(?:{DIGIT}*(?:[.:,\u00ad٫٬]{DIGIT}+)+|{DIGIT}+)"
FRACTION = rf"(?:{DIGIT}{{1,4}}[- \u00a0])?{DIGIT}{{1,4}}(?:\\?/|⁄){DIGIT}{{1,4}}"
RAISED_OR_LOWERED_NUMBER = "[⁺⁻₊₋]?(?:[⁰¹²³⁴-⁹]+|[₀-₉]+)"
_gap = "[- \u00a0]"
TELEPHONE = (
    rf"(?:\([0-9]{{2,3}}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{{2,4}}{_gap})?[0-9]{{2,4}}{_gap})"
    rf"[0-9]{{3,4}}{_gap}?[0-9]{{3,5}}"
)

_not_in_address = r"\s\"<>|(){}"
ADDRESS = rf"[hH][tT][tT][pP][sS]?://[^{_not_in_address}]+[^{_not_in_address}.!?,-]"
_site_part = r"[^\s\"`'|(){}$!,-_]+\."
_path = rf"/[^\s\"<>|()]+[^{_not_in_address}.!?,-]"
_host = r"[wW]{3}\.(?:[^\s\"<>|.!?(){},]+\.)+"
# The longest text wins: with a path, as few parts as lead to one (`+?`); else as many as there are.
SITE = (
    rf"{_host}?[a-zA-Z]{{2,4}}{_path}|{_host}[a-zA-Z]{{2,4}}"
    rf"|(?:{_site_part})+(?i:com|net|org|edu)(?:{_path})?"
)
MAIL = (
    rf"(?i:<|&lt;)?(?:mailto:)?[a-zA-Z0-9][^{_not_in_address}\u00a0]*@"
    rf"(?:[^{_not_in_address}\u00a0.]+\.)*[^{_not_in_address}\u00a0.]+(?i:>|&gt;)?"
)
_file_kinds = (
    "bat bmp c class cgi cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql "
    "tar txt wav x xml zip"
)
_file_part = f"(?:{WORD_LETTER}|{DIGIT})+"
FILE = rf"{_file_part}(?:\.{_file_part})*\.(?i:{_any(_file_kinds.split())})(?=(?P<after>{SPACE}|[.?!,]))"

_name = "[A-Za-z][A-Za-z0-9_:.-]*"
_attribute = rf"{_name}(?: *= *(?:'[^'\n]*'|\"[^\"\n]*\"))?"
TAG = rf"<(?:[!?][A-Za-z-][^>\n]*|{_name}(?: +{_attribute})*(?: */)?|/{_name}) *>"

_smile = r"(?:[<>]?[:;=][-o*']?[dpDOP()@\[\]\\{|])(?=(?P<after>[^A-Za-z0-9]))"
_kaomoji_side = "[-^x=~<>']"
KAOMOJI = rf"{_kaomoji_side}_{_kaomoji_side}|\({_kaomoji_side}[_.]?{_kaomoji_side}\)|\([\^x=~<>']-[\^x=~<>'`]\)"

_lower_case_tail = _any([f"[{word[0]}{word[0].upper()}]{word[1:]}" for word in LOWER_CASE_COMPANIES])
ABBREVIATION = (
    rf"(?:(?i:ed\.d|ph\.d|{_any(PLACES_DATES_COMPANIES)})|{_capitalized(CAPITALIZED_PLACES)}|{_lower_case_tail})\."
)

# Words that keep their apostrophe.
WITH_APOSTROPHE = [
    f"{APOSTROPHE}[nN]{APOSTROPHE}",
    f"[lLdDjJ]{APOSTROPHE}",
    f"(?i:dunkin|somethin|ol){APOSTROPHE}",
    f"{APOSTROPHE}(?i:em|till?|cause)",
    f"{APOSTROPHE}[2-9]0[sS]",
    f"[A-HJ-XZn]{LOOSE_APOSTROPHE}{LETTER}{{2,}}",
    f"{LETTER}+[aeiouyAEIOUY]{LOOSE_APOSTROPHE}[aeiouA-Z]{LETTER}*",
    f"(?i:o{LOOSE_APOSTROPHE}o|cap{APOSTROPHE}n)",
    "(?i:e'er|c'mon|s'mores|ev'ry|li'l|nat'l|nor'easter)",
    r"(?i:cont'd\.)",
]
CLITIC = f"{APOSTROPHE}(?i:s|m|d|re|ve|ll)"

# Of two rules that see the same text, the earlier wins.
_RULES: list[tuple[str, Callable[[str], list[str]]]] = [
    ("[ \t\u00a0\u2000-\u200a\u3000]+", lambda text: []),
    (TAG, _verbatim),
    (ADDRESS, _verbatim),
    (MAIL, _verbatim),
    ("&(?i:lt|gt|amp|mdash|ndash|md);|&(?:quot|apos);", _entity),
    ("&(?i:nbsp);", lambda text: []),
    ("(?i:-[lr][rcs]b-)", _whole),
    ("&(?i:ht|tl|ur|lr|qc|ql|qr|odq|cdq|quot|apos|#[0-9]+);", _whole),
    (r"(?i:can|gon|got|lem|gim|wan)(?=(?P<after>(?i:(?<=can)not|(?<=[gw][oa]n)na|(?<=got)ta|(?<=m)me)))", _whole),
    ("'[tT](?=(?P<after>(?i:is|was)))", _whole),
    (f"[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*(?=(?P<after>[nN]{LOOSE_APOSTROPHE}[tT]))", _whole),
    (f"{WORD}(?=(?P<after>{CLITIC}))", _whole),
    (f"[nN]{LOOSE_APOSTROPHE}[tT]", _with_plain_apostrophe),
    (WORD, _whole),
    (f"{ABBREVIATION}(?=(?P<after>.{{0,2}}))", _whole),
    (SITE, _verbatim),
    *((pattern, _whole) for pattern in WITH_APOSTROPHE),
    (f"[yY]{APOSTROPHE}(?=(?P<after>{LETTER}))", _whole),
    (f"{CLITIC}(?=(?P<after>[^A-Za-z]))", _with_plain_apostrophe),
    (f"{NO_PLAIN_APOSTROPHE}(?i:s|m|d|re|ve|ll)", _with_plain_apostrophe),
    (f"{NO_PLAIN_APOSTROPHE}[nN]", _whole),
    (f"{APOSTROPHE}[nN](?=(?P<after>[ \t\n\u00a0]))", _whole),
    (f"{APOSTROPHE}[0-9][0-9](?=(?P<after>{SPACE}))", _whole),
    ("@[A-Za-z_][A-Za-z_0-9]*", _whole),
    (f"#{WORD_LETTER}+", _verbatim),
    (NUMBER, _whole),
    (FRACTION, _whole),
    (RAISED_OR_LOWERED_NUMBER, _whole),
    (TELEPHONE, _with_round_brackets_named),
    (f"[{''.join(FRACTIONS)}]", lambda text: [FRACTIONS[text]]),
    (r"[A-Z]+\$", _whole),
    (f"[{''.join(CURRENCY)}]", lambda text: [CURRENCY[text]]),
    (f"(?i:{_any(TITLES)})\\.|{INITIALS}", _whole),
    (f"[A-Za-z](?=(?P<after>\\.{SPACE}+(?:{TAG}|{_capitalized(STARTS)}){SPACE}))", _whole),
    (rf"(?i:{_any(NUMBERED)})\.(?=(?P<after>{SPACE}?{DIGIT}))", _whole),
    (FILE, _verbatim),
    (r"[cCfF]#|[cC]\+\+", _whole),
    (HYPHENATED, _whole),
    (HYPHENATED_WITH_DOTS, _whole),
    (SLASHED, _whole),
    (f"{DIGIT}{{1,2}}[-/]{DIGIT}{{1,2}}[-/]{DIGIT}{{2,4}}", _whole),
    (LINKED_CAPITALS, lambda text: [text.replace("&amp;", "&")]),
    *(
        (rf"{pattern}\.(?=(?P<after>[,;:、]))", _whole)
        for pattern in (WORD, HYPHENATED, HYPHENATED_WITH_DOTS, LINKED_CAPITALS)
    ),
    (_smile, _with_round_brackets_named),
    (KAOMOJI, _with_round_brackets_named),
    (r"[.]{3,5}|[.][ \u00a0][.][ \u00a0][.]|''", lambda text: ["..."]),
    ("[?!]+|-{5,}|[*]+|(?:\\\\[*]){1,3}|[#]+|[@]+|[_]+|<<|>>", _whole),
    ("-{2,4}|[\u0096\u0097–—―]", lambda text: ["--"]),
    (f"[{''.join(BRACKETS).replace(']', chr(92) + ']')}]", lambda text: [BRACKETS[text]]),
    ("[\u0091-\u0094`‘-‟‹›«»]{1,2}", _quotes),
    ('"', lambda text: ["''"]),
    (f"[!-/:-@\\\\^_`|~{character_class(SYMBOLS)}]", _whole),
]


def compiled_rules() -> list[Rule]:
    """The rules, first to last."""
    return [(re.compile(pattern, re.DOTALL | re.ASCII), write) for pattern, write in _RULES]
