"""Conversations in the form of ShareGPT, `conversations: [{"from": "human", "value": "..."}, ...]`, as messages.

Published files are trusted to be of one form: a record of another is an error, texts lose the white space
around them, and `<image>` in a text-only source is only text. A user's own files, `formats.llava`, are read by other
rules: all that is wrong with a record is listed, texts stay as they are, and placeholders may stand anywhere.
"""

from typing import Any

from owl2.data.annotations import Row

Turn = tuple[str, str]  # role and text

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
}


def turns_of(row: Row) -> list[Turn]:
    """The turns of a record, without the white space around their texts.

    Raises:
        ValueError: A turn of an unknown speaker or without text field.
    """
    found = []
    for turn in row.rows("conversations"):
        speaker = turn.text("from")
        if speaker not in ROLES:
            raise turn.error(f"the speaker is {speaker!r:.60}, not one of {list(ROLES)}")
        found.append((ROLES[speaker], turn.string("value").strip()))
    return found


def fault(turns: list[Turn]) -> str | None:
    """The first reason found why no model can learn from the turns, or `None`.

    Valid turns are a system turn or none, then those of user and assistant by turns, ending with the assistant's; none
    is empty.
    """
    spoken = turns[1:] if turns and turns[0][0] == "system" else turns
    if not spoken:
        return "no turns"
    if any(role != ("user", "assistant")[index % 2] for index, (role, _) in enumerate(spoken)):
        return "roles out of order"
    if len(spoken) % 2:
        return "no answer to the last turn"
    if not all(text for _, text in turns):
        return "an empty turn"
    return None


def messages(turns: list[Turn], num_images: int = 0) -> list[dict[str, Any]]:
    """Messages of the turns, the images at the beginning of the first user turn as in the published prompt."""
    found: list[dict[str, Any]] = []
    for role, text in turns:
        images = [{"type": "image"}] * num_images if role == "user" else []
        num_images = 0 if role == "user" else num_images
        found.append({"role": role, "content": [*images, {"type": "text", "text": text}]})
    return found
