"""Opinion scores of the sets that quality models learn from, and the levels made of them."""

import json
from pathlib import Path

import pytest

from owl2.data.opinions import LEVEL_VALUES, LEVELS, Opinion, level_of, level_probabilities, opinion_in_levels
from owl2.data.sources import aesthetics, quality

KONIQ = (
    '"image_name","c1","c2","c3","c4","c5","c_total","MOS","SD","MOS_zscore"\n"a.jpg",0,0,25,73,7,105,3.83,0.56,77.38\n'
)
SPAQ = "Image name,MOS,Brightness\n00001.jpg,37,42\n"
KADID = "dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4.57,0.25\n"
AVA = "1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396\n"
LSVQ = "name,height,width,mos,is_test\nyfcc-batch1/747,720,1280,67.75,0\n"
Q_ALIGN = json.dumps([{"id": "a->3.5", "image": "koniq/a.jpg", "gt_score": 3.5, "std": 0.6, "conversations": []}])


@pytest.mark.parametrize(
    ("name", "contents", "expected"),
    [
        ("koniq.csv", KONIQ, ("a.jpg", 3.83, 0.56)),
        ("spaq.csv", SPAQ, ("00001.jpg", 37, None)),
        ("kadid.csv", KADID, ("I01_01_01.png", 4.57, 0.5)),
        ("AVA.txt", AVA, ("953619.jpg", 5.637096774, 1.4218)),
        ("lsvq.csv", LSVQ, ("yfcc-batch1/747.mp4", 67.75, None)),
        ("train.json", Q_ALIGN, ("koniq/a.jpg", 3.5, 0.6)),
        ("own.jsonl", '{"image": "a.png", "score": 1, "deviation": 0}\n', ("a.png", 1, 0)),
    ],
)
def test_each_set_is_read_by_the_names_of_its_columns(
    tmp_path: Path, name: str, contents: str, expected: tuple[str, float, float | None]
) -> None:
    (tmp_path / name).write_text(contents)
    (row,) = quality.read_opinions(tmp_path / name, tmp_path / "images")
    assert (row.name, row.score) == (expected[0], pytest.approx(expected[1]))
    assert row.deviation == (None if expected[2] is None else pytest.approx(expected[2], abs=1e-3))
    assert row.path == str(tmp_path / "images" / expected[0])


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("a.csv", "image,score\na.png,good\n", "record 1: 'score' is 'good', not a number"),
        ("a.csv", "image,score\na.png,1\nb.png\n", "record 2: it has another number of columns"),
        ("a.csv", "picture,score\na.png,1\n", "record 1: has none of the columns image"),
        ("a.csv", "image,score,std\na.png,1,-2\n", "the deviation is -2.0, below 0"),
        ("a.csv", "image,score\n../a.png,1\n", "not a file under the image root"),
        ("a.txt", "1 2 3\n", "expected index, image and 10 counts"),
        ("a.xlsx", "", "neither .csv nor"),
    ],
)
def test_a_broken_file_is_named_with_its_record(tmp_path: Path, name: str, contents: str, message: str) -> None:
    (tmp_path / name).write_text(contents)
    with pytest.raises(ValueError, match=message):
        list(quality.read_opinions(tmp_path / name, tmp_path))


class TestLevels:
    def test_are_fifths_of_the_range_with_borders_to_the_lower(self) -> None:
        found = [level_of(Opinion(1 + 4 * share)) for share in (0, 0.2, 0.21, 0.4, 0.5, 0.6, 0.61, 0.8, 0.9, 1)]
        assert found == ["bad", "bad", "poor", "poor", "fair", "fair", "good", "good", "excellent", "excellent"]

    @pytest.mark.parametrize("deviation", [None, 0.1, 0.4, 0.7, 1.0])
    def test_their_distribution_sums_to_one_and_keeps_the_mean(self, deviation: float | None) -> None:
        for tenth in range(10, 51):
            probabilities = level_probabilities(Opinion(tenth / 10, deviation))
            assert len(probabilities) == len(LEVELS) and min(probabilities) >= 0
            assert sum(probabilities) == pytest.approx(1)
            mean = sum(part * value for part, value in zip(probabilities, LEVEL_VALUES, strict=True))
            assert mean == pytest.approx(tenth / 10, abs=0.101)

    def test_their_distribution_widens_with_the_deviation(self) -> None:
        narrow, wide = (level_probabilities(Opinion(3.0, deviation)) for deviation in (0.4, 1.0))
        assert wide[0] > narrow[0] and wide[2] < narrow[2]
        assert level_probabilities(Opinion(3.25)) == pytest.approx((0, 0.25, 0.75, 0, 0))

    def test_a_range_without_extent_is_refused(self) -> None:
        with pytest.raises(ValueError, match="all scores are 3"):
            opinion_in_levels(3, None, 3, 3)


def test_conversations_ask_and_answer_as_q_align(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,MOS,SD\na.png,0,10\nb.png,100,10\nc.mp4,70,10\n")
    first, second, third = quality.conversations(tmp_path / "a.csv", tmp_path)
    question, answer = first.messages
    assert question["content"] == [
        {"type": "text", "text": "How would you rate the quality of this image?\n"},
        {"type": "image"},
    ]
    assert answer["content"][0]["text"] == "The quality of the image is bad."
    assert answer["opinion"][5:] == [1.0, 0.4] and sum(answer["opinion"][:5]) == pytest.approx(1)
    assert second.messages[1]["content"][0]["text"] == "The quality of the image is excellent."
    assert third.messages[0]["content"][1] == {"type": "video", "path": str(tmp_path / "c.mp4")}
    assert third.messages[1]["content"][0]["text"] == "The quality of the video is good." and not third.images
    beautiful = next(aesthetics.conversations(tmp_path / "a.csv", tmp_path))
    assert beautiful.messages[1]["content"][0]["text"] == "The aesthetics of the image is bad."
