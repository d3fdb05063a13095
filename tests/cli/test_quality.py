"""`owl2 quality`: what it prints and writes, how it resumes, and what it does with bad files."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import GOLDENS
from PIL import Image
from quality_helpers import picture, quality_tokenizer
from typer.testing import Result

from owl2 import Owl2ForConditionalGeneration, Owl2ImageProcessor, Owl2Processor
from owl2.quality import QualityScorer

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    Owl2ForConditionalGeneration.from_pretrained(GOLDENS / "published_settings").save_pretrained(directory)
    image_processor = Owl2ImageProcessor(size={"height": 56, "width": 56})
    Owl2Processor(image_processor, quality_tokenizer(), num_image_tokens=9).save_pretrained(directory)
    return directory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images, of which two lie deeper, a damaged one, and a file of another kind."""
    root = tmp_path / "images"
    (root / "inner").mkdir(parents=True)
    for index in range(5):
        place = root / "inner" if index > 2 else root
        picture(index, 20 + 5 * index, 30).save(place / f"{index}.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    (root / "notes.md").write_text("no image either")
    return root


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_without_a_file_it_prints_a_line_for_each_image(owl2: Run, model: Path, folder: Path) -> None:
    result = owl2("quality", "--model", model, folder / "0.png", folder / "inner")
    assert result.exit_code == 0, result.output
    files = [folder / "0.png", folder / "inner/3.png", folder / "inner/4.png"]
    expected = QualityScorer.from_pretrained(model)(files)
    printed = [line.split("  ") for line in result.stdout.splitlines()]
    assert [(float(score), aspect, file) for score, aspect, file in printed] == [
        (pytest.approx(float(score), abs=1e-4), "quality", str(file))
        for score, file in zip(expected, files, strict=True)
    ]


def test_in_8_bits_scores_are_close_and_no_others_are_added_to_them(
    owl2: Run, model: Path, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torchao")
    out = tmp_path / "scores.csv"
    result = owl2("quality", "-m", model, folder / "0.png", "--out", out, "--bits", "8")
    assert result.exit_code == 0, result.output
    (row,) = rows(out)
    expected = float(QualityScorer.from_pretrained(model)(folder / "0.png"))
    assert float(row["score"]) == pytest.approx(expected, abs=0.05)
    assert owl2("quality", "-m", model, folder / "1.png", "--out", out).exit_code == 2


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_file_holds_scores_probabilities_mean_and_deviation(
    owl2: Run, model: Path, folder: Path, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"scores.{ending}"
    result = owl2("quality", "-m", model, folder, "--out", out, "--aspect", "quality", "--aspect", "aesthetics")
    assert result.exit_code == 0, result.output
    assert f"owl2: not scored: the image {folder / 'broken.jpg'} is not an image that can be read" in result.stderr
    assert result.stdout == f"{out}: 5 of 6 files scored, 1 could not be scored\n"
    found = rows(out) if ending == "csv" else [json.loads(line) for line in out.read_text().splitlines()]
    names = ["0.png", "1.png", "2.png", "broken.jpg", "inner/3.png", "inner/4.png"]
    assert list(dict.fromkeys(row["file"] for row in found)) == [str(folder / name) for name in names]
    good = [row for row in found if not row.get("problem")]
    assert [row["aspect"] for row in good] == ["quality", "aesthetics"] * 5
    expected = QualityScorer.from_pretrained(model).ratings([folder / "1.png"], ["aesthetics"])["aesthetics"]
    row = good[3]
    assert float(row["score"]) == pytest.approx(float(expected.scores[0]), abs=1e-4)
    assert float(row["deviation"]) == pytest.approx(float(expected.deviations[0]), abs=1e-4)
    levels = [float(row[level]) for level in ("excellent", "good", "fair", "poor", "bad")]
    assert levels == pytest.approx(expected.probabilities[0].tolist(), abs=1e-5)
    settings = json.loads((tmp_path / f"scores.{ending}.settings.json").read_text())
    assert settings["protocol"] == "q_align" and settings["prompts"][1].endswith("The aesthetics of the image is")


def test_a_folder_has_pictures_of_every_kind_and_names_those_that_cannot_be_read(
    owl2: Run, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "my pictures"
    folder.mkdir()
    kinds = [
        "avif",
        "bmp",
        "gif",
        "jfif",
        "jp2",
        "jpe",
        "jpeg",
        "jpg",
        "pgm",
        "png",
        "ppm",
        "tga",
        "tif",
        "tiff",
        "webp",
    ]
    kinds = [kind for kind in kinds if f".{kind}" in Image.registered_extensions()]  # AVIF since Pillow 11.3
    for kind in kinds:
        picture(1).save(folder / f"a b.{kind}")
    (folder / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    (folder / "notes.pdf").write_bytes(b"%PDF")
    result = owl2("quality", "-m", model, folder)
    assert [line.split("  ")[2] for line in result.stdout.splitlines()] == [
        str(folder / f"a b.{kind}") for kind in kinds
    ]
    (line,) = [line for line in result.stderr.splitlines() if "not scored" in line]
    assert line.count("phone.HEIC") == 1 and "HEIC picture, as phones take" in line


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_name_that_is_not_utf8_is_scored_once(
    owl2: Run, model: Path, folder: Path, tmp_path: Path, ending: str
) -> None:
    try:
        shutil.copy(folder / "0.png", os.fsencode(folder / "inner") + b"/caf\xe9.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    out = tmp_path / f"scores.{ending}"
    owl2("quality", "-m", model, folder, "--out", out)
    assert r"caf\udce9.png" in out.read_text(encoding="utf-8").replace("\\\\", "\\")
    assert owl2("quality", "-m", model, folder, "--out", out).stdout.endswith(
        ": 0 of 7 files scored, 7 were there before\n"
    )


def test_an_aspect_named_twice_is_asked_once(owl2: Run, model: Path, folder: Path) -> None:
    result = owl2("quality", "-m", model, folder / "0.png", "--aspect", "quality", "--aspect", "quality")
    assert len(result.stdout.splitlines()) == 1


class TestResuming:
    def test_a_second_run_scores_only_what_is_new(self, owl2: Run, model: Path, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "scores.csv"
        owl2("quality", "-m", model, folder, "--out", out)
        before = out.read_text()
        picture(9).save(folder / "new.png")
        result = owl2("quality", "-m", model, folder, "--out", out)
        assert result.stdout == f"{out}: 1 of 7 files scored, 6 were there before\n"
        assert out.read_text().startswith(before)
        assert rows(out)[-1]["file"] == str(folder / "new.png")

    def test_a_row_that_was_cut_off_is_scored_again(self, owl2: Run, model: Path, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "scores.csv"
        owl2("quality", "-m", model, folder, "--out", out, "--batch-size", 2)
        whole = out.read_text()
        out.write_text(whole[:-40])
        owl2("quality", "-m", model, folder, "--out", out, "--batch-size", 2)
        assert [row["file"] for row in rows(out)] == [row["file"] for row in csv.DictReader(whole.splitlines())]
        assert len(rows(out)[-1]["score"]) > 2

    def test_scores_of_another_protocol_are_not_mixed(
        self, owl2: Run, refused: Callable[..., str], model: Path, folder: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "scores.csv"
        owl2("quality", "-m", model, folder, "--out", out)
        error = refused("quality", "-m", model, folder, "--out", out, "--protocol", "q_align_scorer")
        assert "protocol is 'q_align' there and 'q_align_scorer' now" in error

    def test_a_file_of_somebody_else_is_not_written_to(
        self, refused: Callable[..., str], model: Path, folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "mine.csv").write_text("a,b\n")
        assert "not by owl2 quality" in refused("quality", "-m", model, folder, "--out", tmp_path / "mine.csv")
        assert (tmp_path / "mine.csv").read_text() == "a,b\n"


@pytest.mark.slow
def test_two_ranks_write_the_same_rows(model: Path, folder: Path, tmp_path: Path, owl2: Run) -> None:
    alone, shared = tmp_path / "alone.csv", tmp_path / "shared.csv"
    owl2("quality", "-m", model, folder, "--out", alone)
    options = ["-m", str(model), str(folder), "--out", str(shared)]
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "owl2",
        "quality",
        *options,
    ]
    result = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == f"{shared}: 5 of 6 files scored, 1 could not be scored"
    assert sorted(map(str, rows(shared))) == sorted(map(str, rows(alone)))
    assert not list(tmp_path.glob("*.rank-*"))


def test_lists_and_videos(owl2: Run, model: Path, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    clip = folder / "clip.mp4"
    frames = [picture(index, 32, 32) for index in range(12)]
    frames[0].save(clip, format="GIF", save_all=True, append_images=frames[1:], duration=200)
    (folder / "list.txt").write_text("clip.mp4\n\ninner/3.png\nmissing.png\n")
    out = tmp_path / "scores.csv"
    result = owl2("quality", "-m", model, folder / "list.txt", "--out", out)
    assert result.exit_code == 0, result.output
    found = {Path(row["file"]).name: row for row in rows(out)}
    assert list(found) == ["clip.mp4", "3.png", "missing.png"]
    assert found["clip.mp4"]["frames"] == "2"  # 2.4 seconds
    assert "does not exist" in found["missing.png"]["problem"]
    expected, _ = QualityScorer.from_pretrained(model).rate_video([Image.open(clip), _frame(clip, 5)])
    assert float(found["clip.mp4"]["score"]) == pytest.approx(float(expected["quality"].scores), abs=1e-3)


def _frame(file: Path, index: int) -> Image.Image:
    with Image.open(file) as opened:
        opened.seek(index)
        return opened.convert("RGB")


class TestMistakes:
    def test_of_the_user_are_told_before_torch_is_imported(self, tmp_path: Path) -> None:
        code = (
            "import sys\nfrom owl2.cli.main import app\n"
            "try: app(['quality', 'x.png', '-m', 'm', *sys.argv[1:]])\n"
            "finally: print('torch' in sys.modules, 'transformers' in sys.modules)"
        )
        for options, message in [
            (["--protocol", "qalign"], "choose among q_align"),
            (["--out", "scores.txt"], "must end with .csv or .jsonl"),
            ([], "x.png does not exist"),
        ]:
            result = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True)
            assert message in result.stderr
            assert result.stdout == "False False\n"

    def test_only_bad_files(self, owl2: Run, model: Path, folder: Path) -> None:
        result = owl2("quality", "-m", model, folder / "broken.jpg")
        assert result.exit_code == 2 and "none of the 1 files could be scored" in result.stderr

    def test_a_tokenizer_without_the_level_words(
        self, refused: Callable[..., str], official: Path, folder: Path
    ) -> None:
        assert "the level word 'excellent' must be one token" in refused("quality", "-m", official, folder)

    def test_an_empty_folder(self, refused: Callable[..., str], model: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert "no image or video" in refused("quality", "-m", model, tmp_path / "empty")


def test_the_same_file_named_twice_is_scored_once(owl2: Run, model: Path, folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "inner")
    result = owl2("quality", "-m", model, folder, folder / "0.png", "--out", tmp_path / "scores.csv")
    assert "3 of 4 files scored" in result.stdout
