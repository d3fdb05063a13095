"""METEOR 1.5 through the Java program that pycocoevalcap ships.

METEOR aligns words with the help of a stemmer, WordNet and a paraphrase table of 60 MB, so the official program itself
is run: without it there is no METEOR score, never another one in its place.
"""

import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO


def meteor_scores(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> tuple[float, list[float]]:
    """Scores tokenized hypotheses with METEOR 1.5 (`-l en -norm`), as the official evaluation does.

    Args:
        references: The tokenized references of each image, at least one.
        hypotheses: The tokenized caption of each image.

    Returns:
        The score of the whole set (not the mean of the images: METEOR adds up their statistics first), and of each.

    Raises:
        ImportError: pycocoevalcap, which brings the program, is not installed.
        RuntimeError: There is no Java, or the program ends without an answer.
    """
    jar = _jar()
    command = [_java(), "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(jar), *"- - -stdio -l en -norm".split()]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        try:
            statistics = [
                _ask(program.stdin, program.stdout, ["SCORE", *(_field(text) for text in [*texts, hypothesis])])
                for texts, hypothesis in zip(references, hypotheses, strict=True)
            ]
            first = _ask(program.stdin, program.stdout, ["EVAL", *statistics])
            scores = [float(line) for line in [first, *(_answer(program.stdout) for _ in hypotheses)]]
        finally:
            program.kill()
    return scores[-1], scores[:-1]


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        raise RuntimeError(
            "METEOR runs a Java program, and there is no `java` on the path: install a Java runtime (8 or newer)"
        )
    return java


def _jar() -> Path:
    package = find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise ImportError("METEOR needs the program that pycocoevalcap ships: pip install pycocoevalcap")
    jar = Path(package.submodule_search_locations[0]) / "meteor" / "meteor-1.5.jar"
    if not jar.is_file():
        raise ImportError(f"METEOR's program is not at {jar}: reinstall pycocoevalcap (1.2 has it)")
    return jar


def _field(text: str) -> str:
    """The text without separators of fields."""
    return text.replace("|||", "").replace("  ", " ")


def _ask(to_program: IO[str], from_program: IO[str], fields: Sequence[str]) -> str:
    try:
        to_program.write(" ||| ".join(fields) + "\n")
        to_program.flush()
    except BrokenPipeError:
        pass  # the program has ended; `_answer` says so
    return _answer(from_program)


def _answer(from_program: IO[str]) -> str:
    line = from_program.readline()
    if not line:
        raise RuntimeError("the METEOR program ended without an answer; it needs about 2 GB of memory")
    return line.strip()
