"""`owl2 data index` and `owl2 data pairs`."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from owl2.cli.main import app


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    members = {
        "a.png": buffer.getvalue(),
        "a.txt": b"good",
        "b.png": b"none",
        "b.txt": b"bad",
        "c.png": b"x",
        "c.txt": b" ",
    }
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return tmp_path


def test_pairs_are_indexed_and_then_checked_one_by_one(folder: Path) -> None:
    code, output = run("pairs", folder)
    assert code == 2 and f"run owl2 data index {folder}" in " ".join(output.split())
    assert run("index", folder) == (0, "1 shards, 3 pairs\n")
    code, output = run("pairs", folder)
    assert code == 1
    lines = sorted(output.splitlines())
    assert lines[0] == "        1  caption empty" and lines[1] == "        1  image damaged"
    assert any(line.startswith("caption empty: ") and "00000.tar, pair 2" in line for line in lines)
    assert any(line.startswith("image damaged: ") and "00000.tar/b" in line for line in lines)
    assert "3 of 3 pairs read, 2 broken" in lines


def test_a_shard_that_is_cut_off_is_named_while_indexing(folder: Path) -> None:
    file = folder / "00000.tar"
    file.write_bytes(file.read_bytes()[:3000])
    code, output = run("index", folder)
    assert code == 0
    assert "00000.tar: cut off or damaged" in output and "1 shards, 1 pairs" in output
    assert run("pairs", folder) == (0, "1 of 1 pairs read, 0 broken\n")


def test_what_is_no_data_is_one_line_of_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.csv").touch()
    for arguments, message in (
        (("index", tmp_path / "none"), "is not a folder of shards"),
        (("index", tmp_path), "holds no .tar files"),
        (("pairs", tmp_path / "folder" / "x.csv"), "neither a folder"),
        (("pairs", tmp_path / "x.csv"), "does not exist"),
    ):
        code, output = run(*arguments)
        assert code == 2 and message in output and len(output.splitlines()) == 1
