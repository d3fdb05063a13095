"""What `owl2 quality` does: a model is loaded once, and scores files to a file or line by line."""

from collections.abc import Callable, Sequence

from owl2.evaluation.inference.ranks import Ranks

from .run import Outcome, run_settings, score_files, score_rows
from .score_file import ScoreFile
from .scorer import QualityScorer


def write_scores(
    model: str,
    protocol: str,
    aspects: Sequence[str],
    batch_size: int,
    dtype: str,
    device: str,
    base: str | None,
    bits: int | None,
    files: Sequence[str],
    out: ScoreFile,
) -> Outcome | None:
    """Scores files on all ranks that `torchrun` started; see `score_files`. Returns None on all but the first rank."""
    with Ranks() as ranks:
        place = ranks.device(device)
        scorer = QualityScorer.from_pretrained(
            model, dtype, place, base, bits, protocol=protocol, aspect=aspects[0], batch_size=batch_size
        )
        outcome = score_files(scorer, files, aspects, out, run_settings(model, base, bits, scorer, aspects), ranks)
        return outcome if ranks.is_first else None


def print_scores(
    model: str,
    protocol: str,
    aspects: Sequence[str],
    batch_size: int,
    dtype: str,
    device: str,
    base: str | None,
    bits: int | None,
    files: Sequence[str],
    show: Callable[[str], None],
) -> Outcome:
    """Scores files in this process, and shows a line for each: score, aspect, file."""
    scorer = QualityScorer.from_pretrained(
        model, dtype, device, base, bits, protocol=protocol, aspect=aspects[0], batch_size=batch_size
    )
    outcome = Outcome()
    for rows in score_rows(scorer, files, aspects):
        for row in rows:
            if "problem" in row:
                outcome.problems.append((row["file"], row["problem"]))
            else:
                outcome.scored += row["aspect"] == aspects[0]
                show(f"{row['score']:.4f}  {row['aspect']}  {row['file']}")
    return outcome
