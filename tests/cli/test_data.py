"""`owl2 data check` and `owl2 data show`."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

SAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "instructions.jsonl"


def write(directory: Path, *records: object) -> Path:
    path = directory / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def chat(question: object, answer: str = "a cat", **fields: object) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **fields,
    }


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A directory of one good and one damaged image."""
    directory = tmp_path / "pictures"
    directory.mkdir()
    Image.new("RGB", (20, 10)).save(directory / "good.png")
    (directory / "bad.png").write_text("no image")
    return directory


class TestCheck:
    def test_sample_records_are_in_order(self, owl2, ours):
        for options in ((), ("--images", "--model", ours)):
            result = owl2("data", "check", SAMPLES, *options)
            assert (result.exit_code, result.stdout) == (0, "10 records, 0 with problems\n")

    def test_every_problem_has_its_line_and_the_exit_code_is_1(self, owl2, tmp_path):
        path = write(tmp_path, chat("a"), chat("<image>b"), chat(" ", " "), "text")
        result = owl2("data", "check", path)
        assert result.exit_code == 1
        assert result.stdout.splitlines() == [
            f"{path}:2: placeholders and media disagree: 1 image placeholders, but 0 images",
            f"{path}:3: empty turn: turn 1 (user) has no text",
            f"{path}:3: empty turn: turn 2 (assistant) has no text",
            f"{path}:4: malformed record: a record is an object, this one is 'text'",
            "",
            "        2  empty turn",
            "        1  placeholders and media disagree",
            "        1  malformed record",
            "4 records, 3 with problems",
        ]

    def test_images_lie_under_the_root_and_are_opened_on_request(self, owl2, tmp_path, pictures):
        path = write(tmp_path, chat("<image>", images=["good.png"]), chat("<image>", images=["bad.png"]))
        assert owl2("data", "check", path).stdout.count("missing file: ") == 2
        assert owl2("data", "check", path, "--root", pictures).exit_code == 0
        result = owl2("data", "check", path, "--root", pictures, "--images")
        assert result.exit_code == 1 and f"{path}:2: unreadable file: " in result.stdout

    def test_web_addresses_are_refused_unless_allowed(self, owl2, tmp_path):
        path = write(tmp_path, chat("<image>", images=["https://example.org/a.png"]))
        assert owl2("data", "check", path).exit_code == 1
        result = owl2("data", "check", path, "--allow-urls", "--images")
        assert result.exit_code == 0 and "1  web addresses not opened" in result.stdout

    def test_records_are_held_to_the_context_or_to_the_length_that_is_asked_for(self, owl2, tmp_path, ours):
        path = write(tmp_path, chat("a"), chat("what is it? " * 100))
        assert f"{path}:2: over-long: " in owl2("data", "check", path, "--model", ours).stdout
        assert owl2("data", "check", path, "--model", ours, "--max-length", 9999).exit_code == 0
        assert owl2("data", "check", path, "--model", ours, "--max-length", 2).stdout.count(": over-long: ") == 2

    def test_what_cannot_be_checked_at_all_is_an_error(self, refused, tmp_path):
        assert "does not exist" in refused("data", "check", tmp_path / "none.json")
        assert "--model" in refused("data", "check", SAMPLES, "--max-length", 5)
        assert "does not exist" in refused("data", "check", SAMPLES, "--model", tmp_path / "none")


class TestShow:
    def test_the_supervised_tokens_are_in_colour(self, owl2, ours, monkeypatch):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        result = owl2("data", "show", SAMPLES, "--index", 0, "--model", ours)
        assert result.exit_code == 0, result.output
        heading, body = result.stdout.split("\n\n", 1)
        colored = re.findall(r"\x1b\[1;32m(.*?)\x1b\[0m", body, re.S)
        assert [piece.strip() for piece in colored] == ["A circle.</s>", "It is red.</s>"]
        assert "record 0 (llava-one-image), line 1: " in heading and "image 1: 64 x 48 pixels" in heading
        assert "What shape is in the picture?" in body

    def test_without_colours_they_stand_between_marks(self, owl2, ours):
        result = owl2("data", "show", SAMPLES, "--index", 6, "--model", ours)
        assert re.findall("《(.*?)》", result.stdout.split("\n\n", 1)[1]) == [
            " It is night: the moon is out.</s>",
            " A triangle.</s>",
        ]
        lines = result.stdout.splitlines()
        assert re.fullmatch(r"image 1: 80 x 60 pixels, .*/images/\S+", lines[1]) and "48 x 48 pixels, " in lines[2]

    def test_without_a_model_the_published_frame_is_shown(self, owl2):
        result = owl2("data", "show", SAMPLES, "--index", 1)
        assert result.exit_code == 0 and "no --model was given" in result.stdout
        assert result.stdout.endswith(
            "USER: [image 1: 64 x 64 pixels, 65 tokens]How many squares are there? ASSISTANT:"
            "《 There are two squares, one blue and one green.</s>》\n"
        )

    def test_the_image_is_drawn_in_its_colours(self, owl2, tmp_path, monkeypatch):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLORTERM", "truecolor")
        monkeypatch.delenv("NO_COLOR", raising=False)
        image = Image.new("RGB", (20, 20), (250, 0, 0))
        image.paste((0, 0, 250), (0, 10, 20, 20))
        image.save(tmp_path / "two.png")
        content = [{"type": "image", "path": "two.png"}, {"type": "text", "text": "What?"}]
        record = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "Red."}]}
        result = owl2("data", "show", write(tmp_path, record), "--index", 0)
        cells = [line for line in result.stdout.splitlines() if "▀" in line]
        assert len(cells) == 24 and "\x1b[38;2;250;0;0" in cells[0] and "\x1b[38;2;0;0;250" in cells[-1]

    def test_a_record_cannot_steer_the_terminal(self, owl2, ours, tmp_path):
        path = write(tmp_path, chat("\x1b[2J\x07 [bold]a[/bold]"))
        result = owl2("data", "show", path, "--index", 0, "--model", ours)
        assert r"\x1b[2J\x07 [bold]a[/bold]" in result.stdout and "\x1b" not in result.stdout

    def test_a_record_without_a_supervised_token_is_an_error(self, refused, ours, tmp_path):
        path = write(tmp_path, {"messages": [{"role": "user", "content": "a"}]})
        assert f"{path}, line 1: no assistant turn" in refused("data", "show", path, "--index", 0, "--model", ours)

    def test_a_record_that_is_not_there_is_an_error(self, refused, ours):
        assert "holds 10" in refused("data", "show", SAMPLES, "--index", 10, "--model", ours)

    def test_a_damaged_image_is_an_error(self, refused, ours, pictures, tmp_path):
        path = write(tmp_path, chat("<image>", images=["bad.png"]))
        assert "bad.png" in refused("data", "show", path, "--index", 0, "--model", ours, "--root", pictures)
