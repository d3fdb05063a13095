"""ShareGPT: conversations of people with ChatGPT, text only; Table 8's 40K are a part that the paper does not name.

Public collections, such as `ShareGPT_V3_unfiltered_cleaned_split.json`, hold what people shared. A conversation is made
to begin with the person and to end with an answer: answers before the first question and questions after the last
answer are dropped. A conversation in which person and model then do not alternate, or that has an empty turn, is left
out, counted and logged, as LLaVA-1.5 leaves out invalid conversations. Nothing is cut here for its length.
"""

import logging
from collections import Counter
from collections.abc import Iterator

from owl2.data.annotations import AnyPath, rows
from owl2.data.problems import Problem, ProblemKind, Rejected
from owl2.data.records import Conversation

from .chat import Turn, fault, messages, turns_of

logger = logging.getLogger(__name__)

_KINDS = {
    "no turns": ProblemKind.NO_ANSWER,
    "roles out of order": ProblemKind.ROLES,
    "an empty turn": ProblemKind.EMPTY_TURN,
}


def conversations(annotations: AnyPath, rejected: Rejected | None = None) -> Iterator[Conversation]:
    """One record a usable conversation, the same in every epoch.

    Args:
        annotations: A list, each with `id` and `conversations`.
        rejected: Counts and names what is left out.

    Raises:
        ValueError: A broken record, by file and number.
    """
    reasons: Counter[str] = Counter()
    for row in rows(annotations):
        turns = _from_question_to_answer(turns_of(row))
        problem = fault(turns)
        if problem is None:
            yield Conversation(f"sharegpt-{row.text('id')}", messages(turns))
        else:
            reasons[problem] += 1
            if rejected is not None:
                rejected.add(row.where, [Problem(_KINDS[problem], problem)])
    if reasons:
        logger.warning("%s: left out %d conversations: %s", annotations, reasons.total(), dict(reasons))


def _from_question_to_answer(turns: list[Turn]) -> list[Turn]:
    system = [turn for turn in turns[:1] if turn[0] == "system" and turn[1]]
    spoken = turns[1:] if turns and turns[0][0] == "system" else turns
    while spoken and spoken[0][0] == "assistant":
        spoken = spoken[1:]
    while spoken and spoken[-1][0] == "user":
        spoken = spoken[:-1]
    return [*system, *spoken]
