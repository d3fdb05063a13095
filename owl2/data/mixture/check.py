"""A check of the sources of a mixture: every problem of its files of records, every image of its official sources.

Annotations of official sources only name their images, and reading them looks up no file; this check does.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from owl2.data.check import CheckedPart, CheckSummary, Examined, RecordCheck, RecordFinding
from owl2.data.formats import Problem, ProblemKind, RecordFile
from owl2.data.media import problem_of_file
from owl2.data.problems import Rejected
from owl2.data.records import Conversation

from .mixture import Mixture, Records
from .recipe import RECORDS, MixtureRecipe, with_sources

if TYPE_CHECKING:
    from owl2.processing import Owl2Processor

OF_FILES = (ProblemKind.MISSING, ProblemKind.UNREADABLE, ProblemKind.OVERSIZED)
"""Problems of an image, which are the same for every record that names it."""


class SourceCheck:
    """Checks one source of a mixture.

    Args:
        recipe: Recipe of the mixture, into whose cache an official source is read.
        name: Name of the source.
        open_media, processor, max_length: See `RecordCheck`.

    Attributes:
        error: Why the source cannot be read at all, such as a broken record of an official source.
        rejected: Records that an official source leaves out by its own rule. They are not problems.
        summary: Counts of what was checked so far.
    """

    def __init__(
        self,
        recipe: MixtureRecipe,
        name: str,
        open_media: bool = False,
        processor: "Owl2Processor | None" = None,
        max_length: int | None = None,
    ) -> None:
        self.name, self.summary, self.rejected = name, CheckSummary(), Rejected()
        self.error: str | None = None
        self._check: RecordCheck | None = None
        try:
            records = self._open(with_sources(recipe, [name]))
        except (ValueError, OSError) as error:
            self.error = str(error)
        else:
            self._check = RecordCheck(records, open_media, processor, max_length)

    def __len__(self) -> int:
        return len(self._check.records) if self._check is not None else 0

    @property
    def is_faulty(self) -> bool:
        """Whether anything is wrong with what was checked so far."""
        return self.error is not None or self.summary.faulty > 0

    def parts(self, num_workers: int = 1) -> Iterator[CheckedPart]:
        """As in `RecordCheck`; each image of an official source is checked once, at the first record that names it."""
        self.summary, check = CheckSummary(), self._check
        if check is None:
            return
        named: set[str] = set()
        for part in check.parts(num_workers):
            if isinstance(check.records, OfficialRecords):
                part = _without_named(part, named)
            self.summary.add(part.summary)
            yield part

    def _open(self, recipe: MixtureRecipe) -> Examined:
        (source,) = recipe.sources
        if source.format == RECORDS:
            return RecordFile(source.arguments["file"], source.arguments.get("images"))
        records = Mixture(recipe).records(source.name)
        self.rejected = records.rejected
        return OfficialRecords(source.name, records)


class OfficialRecords:
    """The records of an official source, with what is wrong with the files of their images."""

    def __init__(self, name: str, records: Records) -> None:
        self.name, self.records = name, records
        self.unread: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.records)

    def examine(self, index: int) -> tuple[Conversation | None, list[Problem]]:
        conversation = self.records[index]
        found = [problem_of_file(image, "image", repr(image)) for image in dict.fromkeys(conversation.images)]
        return conversation, [problem for problem in found if problem is not None]

    def where(self, index: int) -> str:
        return f"{self.name}, record {self.records[index].id}"


def _without_named(part: CheckedPart, named: set[str]) -> CheckedPart:
    """Drops problems of files that are in `named` already, and adds the files of this part to it."""
    findings: list[RecordFinding] = []
    for finding in part.findings:
        if finding.kind not in OF_FILES or finding.text not in named:
            findings.append(finding)
            named.add(finding.text)
    return CheckedPart(findings, replace(part.summary, kinds=Counter(finding.kind for finding in findings)))
