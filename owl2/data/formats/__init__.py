"""Instruction data of any source: LLaVA conversations and chat messages, from JSON lists and JSON lines.

`RecordFile` opens a file. `docs/train/data.md` describes the formats; their schema is
`docs/schemas/instruction-record.json`.
"""

from owl2.data.problems import Problem, ProblemKind

from .record_file import RecordFile

__all__ = ["Problem", "ProblemKind", "RecordFile"]
