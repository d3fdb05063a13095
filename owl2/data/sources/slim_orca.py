"""SlimOrca: `oo-labeled_correct.gpt4.sharegpt.jsonl`, text only; 517,982 records, Table 8's 518K.

One system prompt, question and answer of GPT-4 a line, taken as they are; an empty system prompt is omitted. `weight`
says which turns are learnt; here these are always the answers, so it is not read.
"""

from collections.abc import Iterator

from owl2.data.annotations import AnyPath, line_rows
from owl2.data.records import Conversation

from .chat import fault, messages, turns_of


def conversations(annotations: AnyPath) -> Iterator[Conversation]:
    """One record a line, the same in every epoch; the id is the number of the line.

    Args:
        annotations: JSON lines, each with `conversations`.

    Raises:
        ValueError: A broken record, by file and line: also roles out of order and empty turns.
    """
    for number, row in line_rows(annotations):
        turns = [turn for turn in turns_of(row) if turn != ("system", "")]
        problem = fault(turns)
        if problem is not None:
            raise row.error(f"{problem}: {turns!r:.200}")
        yield Conversation(f"slim_orca-{number}", messages(turns))
