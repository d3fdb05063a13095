"""Commands look whether their results can be written before they load anything."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from owl2.cli.main import COMMANDS

RUN = """
import json, sys
from owl2.cli.main import app

for arguments in json.loads(sys.argv[1]):
    try:
        app(arguments)
    except SystemExit as stop:
        print(json.dumps([stop.code, [name for name in ("torch", "transformers") if name in sys.modules]]))
"""

DIRECTORIES = (
    "ablate ablations/small/controls --out OUT",
    "ablate ablations/small/controls --out absent --metrics OUT",
    "attention -m absent -p hello --out OUT",
    "data stats absent --out OUT",
    "evaluate -m absent --tasks pope --out OUT",
    "export . OUT",
    "initialize OUT --language-model absent --vision-encoder absent",
    "inspect -m absent --out OUT",
    "merge-lora absent OUT --base absent",
    "quickstart --out OUT",
    "report absent --out OUT",
    "score --answers absent --task pope --out OUT",
    "score absent --submission OUT",
    "train small/pretrain out=OUT",
)


def run(tmp_path: Path, commands: list[str], place: Path) -> list[tuple[str, int, list[str]]]:
    """The line on stderr of each command, its exit code, and what heavy packages were imported till then."""
    lines = [command.replace("OUT", str(place)).split() for command in commands]
    command = [sys.executable, "-c", RUN, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True, timeout=120)
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    return [(line, *end) for line, end in zip(done.stderr.splitlines(), ends, strict=True)]


@pytest.mark.parametrize(
    ("below", "message"),
    [("", "file is a file, not a directory"), ("/new/results", r"results cannot be made: \S*/file is a file")],
)
def test_a_file_in_place_of_the_directory_is_refused_in_one_line_before_anything_heavy_is_imported(
    tmp_path, below, message
):
    (tmp_path / "file").write_text("kept")
    found = run(tmp_path, list(DIRECTORIES), Path(f"{tmp_path}/file{below}"))
    for command, (line, code, heavy) in zip(DIRECTORIES, found, strict=True):
        assert (code, heavy) == (2, []), command
        assert re.match(rf"owl2: error: [\w -]*{re.escape(str(tmp_path))}\S*{message}$", line), line
    assert [each.name for each in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("out", ["scores", "file/scores.csv"])
def test_a_file_of_scores_is_refused_in_place_of_a_directory_and_below_a_file(tmp_path, out):
    (tmp_path / "file").write_text("")
    (tmp_path / "scores.csv").mkdir()
    place = tmp_path / ("scores.csv" if out == "scores" else out)
    ((line, code, heavy),) = run(tmp_path, ["quality . -m absent --out OUT"], place)
    assert (code, heavy) == (2, []) and re.search("(is|cannot be made: .* is) a (directory, not a )?file", line), line


def test_every_command_that_takes_a_directory_for_its_results_is_among_these(owl2):
    named = {command.split()[0] for command in DIRECTORIES} | {"quality"}
    taking = {name for name in COMMANDS if re.search(r"--out\b", owl2(name, "--help").output)}
    assert taking <= named


def test_what_may_not_be_written_to_is_named(tmp_path, refused, monkeypatch):
    monkeypatch.setattr("owl2.files.os.access", lambda path, mode: Path(path) != tmp_path)
    line = refused("inspect", "-m", "absent", "--out", tmp_path / "a" / "b")
    assert line.endswith(f"--out {tmp_path / 'a' / 'b'}: {tmp_path} may not be written to")
