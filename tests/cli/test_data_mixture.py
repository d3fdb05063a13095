"""`owl2 data mix` and `owl2 data stats`."""

import json
from pathlib import Path

import pytest
from PIL import Image

SAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "instructions.jsonl"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Ten sample records, and 40 texts of which one is broken."""
    chat = [{"role": "user", "content": "a\x1b[2J"}, {"role": "assistant", "content": "b" * 300}]
    lines = [*[{"messages": chat}] * 39, "text"]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = tmp_path / "mixture.yaml"
    path.write_text(
        f"cache: cache\nsources:\n  samples: {{format: records, file: {SAMPLES}}}\n"
        "  mine: {format: records, file: mine.jsonl, weight: 30}\n"
    )
    return path


class TestMix:
    def test_it_says_what_comes_from_where(self, owl2, recipe, tmp_path):
        result = owl2("data", "mix", recipe, "--samples", 400)
        assert result.exit_code == 0, result.output
        assert [line.split() for line in result.stdout.splitlines()[:4]] == [
            ["source", "found", "Table", "8", "used", "weight", "share", "samples", "epochs"],
            ["samples", "10", "-", "10", "10", "25.00%", "100", "10.000"],
            ["mine", "39", "-", "39", "30", "75.00%", "300", "7.692"],
            ["total", "49", "-", "49", "40", "100.00%", "400", "8.163"],
        ]
        assert "not in the recipe: sharegpt, slim_orca, " in result.stdout
        assert "mine: records left out: 1 (1 malformed record)" in result.stdout
        assert f"  {tmp_path / 'mine.jsonl'}, line 40: malformed record" in result.stdout
        assert result.stdout.count("\nsamples: ") == 2 and "  user: a\\x1b[2J" in result.stdout
        assert "b" * 200 + "..." in result.stdout and "b" * 201 not in result.stdout

    def test_an_image_that_is_missing_is_seen(self, owl2, tmp_path):
        captions = [{"image_id": "a", "caption_str": "a cat"}]
        (tmp_path / "t.json").write_text(json.dumps({"data": captions}))
        path = tmp_path / "mixture.yaml"
        path.write_text("cache: c\nsources: {textcaps: {annotations: t.json, images: .}}")
        result = owl2("data", "mix", path)
        assert f"image: {tmp_path}/train_images/a.jpg (missing)" in result.stdout

    def test_a_first_look_caches_nothing(self, owl2, recipe, tmp_path):
        result = owl2("data", "mix", recipe, "--limit", 3)
        assert result.stdout.startswith("Only the first 3 records of each source:\n")
        assert [line.split()[1] for line in result.stdout.splitlines()[2:5]] == ["3", "3", "6"]
        assert not (tmp_path / "cache").exists()

    def test_one_source_is_looked_at_though_files_of_the_others_are_missing(self, owl2, refused, recipe):
        recipe.write_text(recipe.read_text().replace("mine.jsonl", "none.jsonl"))
        result = owl2("data", "mix", recipe, "--source", "samples")
        assert result.exit_code == 0, result.output
        assert [line.split()[:2] for line in result.stdout.splitlines()[1:3]] == [["samples", "10"], ["total", "10"]]
        assert "not in the recipe" not in result.stdout
        assert "did you mean samples?" in refused("data", "mix", recipe, "--source", "sample")

    def test_what_is_wrong_is_one_line(self, refused, recipe, tmp_path):
        assert "there is no recipe" in refused("data", "mix", tmp_path / "none.yaml")
        recipe.write_text(recipe.read_text().replace("mine.jsonl", "none.jsonl"))
        assert f"mine: file {tmp_path / 'none.jsonl'}" in refused("data", "mix", recipe)
        recipe.write_text(recipe.read_text().replace("weight:", "wait:"))
        assert "did you mean weight?" in refused("data", "mix", recipe)
        assert "mine.jsonl is not YAML" in refused("data", "mix", tmp_path / "mine.jsonl")


class TestCheck:
    @pytest.fixture
    def captions(self, tmp_path: Path) -> Path:
        """Two sources: captions of three images of which one is there, and the records of `mine.jsonl`."""
        rows = [{"image_id": name, "caption_str": "a cat"} for name in "abc"]
        (tmp_path / "t.json").write_text(json.dumps({"data": rows}))
        (tmp_path / "train_images").mkdir()
        Image.new("L", (9, 9)).save(tmp_path / "train_images" / "a.jpg")
        (tmp_path / "train_images" / "b.jpg").write_text("no image")
        path = tmp_path / "both.yaml"
        path.write_text(
            "cache: c\nsources:\n  textcaps: {annotations: t.json, images: .}\n"
            "  mine: {format: records, file: mine.jsonl}\n"
        )
        return path

    @pytest.mark.parametrize("workers", [1, 2])
    def test_every_source_is_listed_and_summed_up(self, owl2, recipe, captions, tmp_path, workers):
        result = owl2("data", "check", captions, "--images", "--workers", workers)
        assert result.exit_code == 1, result.output
        images = tmp_path / "train_images"
        assert result.stdout.splitlines() == [
            f"textcaps, record textcaps-b: unreadable file: the image {images}/b.jpg is not an image that can be read",
            f"textcaps, record textcaps-c: missing file: the image '{images}/c.jpg': No such file or directory",
            f"{tmp_path}/mine.jsonl:40: malformed record: a record is an object, this one is 'text'",
            "",
            "source         records    left out     missing  unreadable   oversized       other",
            "textcaps             3           0           1           1           0           0",
            "mine                40           1           0           0           0           1",
            "",
            "2 sources, 2 with problems",
        ]

    def test_images_are_opened_only_on_request(self, owl2, recipe, captions):
        assert "b.jpg" not in owl2("data", "check", captions).stdout

    def test_records_of_every_source_are_held_to_a_length(self, owl2, recipe, captions, tmp_path, ours):
        result = owl2("data", "check", captions, "--model", ours, "--max-length", 2, "--workers", 2)
        lines = [line for line in result.stdout.splitlines() if ": over-long: " in line]
        places = {line.split(": ")[0] for line in lines}
        assert len(lines) == 2 + 39 and {"textcaps, record textcaps-a", f"{tmp_path}/mine.jsonl:39"} < places

    def test_one_source_in_order_ends_with_0(self, owl2, recipe, captions, tmp_path):
        for name in "bc":
            Image.new("L", (9, 9)).save(tmp_path / "train_images" / f"{name}.jpg")
        result = owl2("data", "check", captions, "--source", "textcaps", "--images")
        assert result.exit_code == 0 and result.stdout.endswith("1 sources, 0 with problems\n"), result.output
        assert "mine" not in result.stdout

    def test_a_source_that_cannot_be_read_is_one_line_and_the_others_are_checked(self, owl2, captions, tmp_path):
        result = owl2("data", "check", captions)  # there is no mine.jsonl
        assert result.exit_code == 1 and "textcaps-c: missing file" in result.stdout
        (line,) = [line for line in result.stdout.splitlines() if line.startswith("mine: ")]
        assert line.startswith("mine: cannot be read: the file of records") and "does not exist" in line

    def test_what_a_recipe_does_not_take_is_refused(self, refused, recipe, tmp_path):
        assert "omit --root" in refused("data", "check", recipe, "--root", tmp_path)
        assert "omit --root" in refused("data", "check", recipe, "--allow-urls")
        assert "--source" in refused("data", "check", SAMPLES, "--source", "mine")
        assert "did you mean mine?" in refused("data", "check", recipe, "--source", "min")


class TestStats:
    def test_a_file_is_counted(self, owl2, tmp_path, ours):
        result = owl2("data", "stats", SAMPLES, "--model", ours)
        assert result.exit_code == 0, result.output
        rows = {line[2:22].strip(): line[22:].split() for line in result.stdout.splitlines() if line.startswith("  ")}
        assert result.stdout.startswith("instructions.jsonl: 10 records\n")
        assert {"turns", "images", "videos", "tokens", "supervised tokens"} <= set(rows)
        assert all(len(values) == 5 for values in rows.values())

    def test_a_mixture_is_counted_by_source_and_drawn(self, owl2, recipe, tmp_path):
        pytest.importorskip("matplotlib")
        result = owl2("data", "stats", recipe, "--out", tmp_path / "plots")
        assert result.exit_code == 0, result.output
        for heading in ("samples: 10 records", "mine: 39 records", "all sources together: 49 records"):
            assert f"{heading}\n" in result.stdout
        assert "\n\nmine: records left out: 1" in result.stdout
        assert f"wrote {tmp_path / 'plots' / 'turns.png'}" in result.stdout
        assert (tmp_path / "plots" / "turns.png").is_file()

    def test_what_cannot_be_counted_is_one_line(self, refused, recipe, tmp_path):
        assert "does not exist" in refused("data", "stats", tmp_path / "none.jsonl")
        assert "omit --root" in refused("data", "stats", recipe, "--root", tmp_path)
        (tmp_path / "broken.jsonl").write_text("1\n")
        assert "none of the 1 records" in refused("data", "stats", tmp_path / "broken.jsonl")
