"""What every command does with text from a user's files."""

import re


def printable(text: str) -> str:
    """The text with control characters written out, so that a record cannot steer the terminal."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", lambda match: repr(match.group())[1:-1], text)
