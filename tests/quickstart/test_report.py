"""The pictures of a quickstart's report show what a model answers as it is."""

import json
import warnings

from PIL import Image

from owl2.quickstart import report


def test_an_answer_with_a_formula_or_unknown_characters_is_drawn(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    record = {"image": "1.png", "question": "What?", "reply": r"$\frac{$ 色", "answer": "$1$"}
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(record) + "\n" for _ in range(15)))
    (tmp_path / "attention.json").write_text(json.dumps({**record, "on_image": [[0.1, 0.9]], "per_layer": [0.5]}))
    images = {"1.png": str(tmp_path / "1.png")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report._draw_answers(tmp_path, images)
        report._draw_attention(tmp_path, images)
    for name in ("answers.png", "attention.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 800
